package control

// The control API's calls about mailboxes: their hosts, their addresses, and moves.

import (
	"errors"
	"net/http"

	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/internal/answer"
)

func (a *api) getMailboxes(w http.ResponseWriter, _ *http.Request) {
	answer.JSON(w, http.StatusOK, map[string]any{"mailboxes": a.Mailboxes.Mailboxes()})
}

func (a *api) getMailbox(w http.ResponseWriter, r *http.Request) {
	m, err := a.Mailboxes.Mailbox(r.PathValue("address"))
	if err != nil {
		noSuchMailbox(w)
		return
	}
	answer.JSON(w, http.StatusOK, m)
}

func noSuchMailbox(w http.ResponseWriter) {
	problem(w, http.StatusNotFound, "address", "No mailbox has that address.")
}

// postMailbox makes a mailbox, or with one of the parameters changes one: host= makes it there or moves it there, server= moves
// it to another mailbox server, alias= gives it a further address, primary= another primary one.
func (a *api) postMailbox(w http.ResponseWriter, r *http.Request) {
	if !noQuery(w, r, "host", "server", "alias", "primary") {
		return
	}
	query := r.URL.Query()
	if len(query) > 1 {
		problem(w, http.StatusBadRequest, "", "This call takes one of host, server, alias, primary.")
		return
	}
	address, status, field := r.PathValue("address"), http.StatusOK, "address"
	var err error
	switch {
	case query.Has("alias"):
		field = "alias"
		err = a.Mailboxes.AddAlias(query.Get("alias"), address)
	case query.Has("primary"):
		field = "primary"
		if err = a.Mailboxes.Rename(address, query.Get("primary")); err == nil {
			address = query.Get("primary")
		}
	case query.Has("server"):
		field = "server"
		err = a.Mailboxes.MoveServer(address, query.Get("server"))
	case query.Has("host"):
		if err = a.Mailboxes.Move(address, query.Get("host")); errors.Is(err, exchange.ErrNoMailbox) {
			status, err = http.StatusCreated, a.Mailboxes.AddMailboxAt(address, query.Get("host"))
		}
	default:
		status, err = http.StatusCreated, a.Mailboxes.AddMailboxAt(address, exchange.OnPremises)
	}
	switch {
	case errors.Is(err, exchange.ErrNoHost):
		problem(w, http.StatusUnprocessableEntity, "host", "There is no such host: without --hybrid only onpremises, with it onpremises, online, other.")
	case errors.Is(err, exchange.ErrNoMailbox):
		noSuchMailbox(w)
	case errors.Is(err, exchange.ErrMailboxExists):
		problem(w, http.StatusConflict, field, err.Error())
	case err != nil:
		problem(w, http.StatusUnprocessableEntity, field, err.Error())
	default:
		m, err := a.Mailboxes.Mailbox(address)
		if err != nil { // somebody removed it meanwhile
			noSuchMailbox(w)
			return
		}
		answer.JSON(w, status, m)
	}
}

func (a *api) deleteMailbox(w http.ResponseWriter, r *http.Request) {
	if err := a.Mailboxes.RemoveMailbox(r.PathValue("address")); err != nil {
		noSuchMailbox(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
