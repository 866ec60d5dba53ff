package simulator

// The control API's calls about mailboxes: where they live, their addresses, and moving them.

import (
	"errors"
	"net/http"
)

func (s *Server) getMailboxes(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"mailboxes": s.Mailboxes()})
}

func (s *Server) getMailbox(w http.ResponseWriter, r *http.Request) {
	m, err := s.Mailbox(r.PathValue("address"))
	if err != nil {
		noSuchMailbox(w)
		return
	}
	reply(w, http.StatusOK, m)
}

func noSuchMailbox(w http.ResponseWriter) {
	problem(w, http.StatusNotFound, "address", "No mailbox has that address.")
}

// postMailbox makes a mailbox, or with one of the parameters changes one: host= makes it there or moves it there, server= moves
// it to another mailbox server, alias= gives it a further address, primary= another primary one.
func (s *Server) postMailbox(w http.ResponseWriter, r *http.Request) {
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
		err = s.AddAlias(query.Get("alias"), address)
	case query.Has("primary"):
		field = "primary"
		if err = s.Rename(address, query.Get("primary")); err == nil {
			address = query.Get("primary")
		}
	case query.Has("server"):
		field = "server"
		err = s.MoveServer(address, query.Get("server"))
	case query.Has("host"):
		if err = s.Move(address, query.Get("host")); errors.Is(err, ErrNoMailbox) {
			status, err = http.StatusCreated, s.AddMailboxAt(address, query.Get("host"))
		}
	default:
		status, err = http.StatusCreated, s.AddMailbox(address)
	}
	switch {
	case errors.Is(err, ErrNoHost):
		problem(w, http.StatusUnprocessableEntity, "host", "There is no such host: without --hybrid only onpremises, with it onpremises, online, other.")
	case errors.Is(err, ErrNoMailbox):
		noSuchMailbox(w)
	case errors.Is(err, ErrMailboxExists):
		problem(w, http.StatusConflict, field, err.Error())
	case err != nil:
		problem(w, http.StatusUnprocessableEntity, field, err.Error())
	default:
		m, err := s.Mailbox(address)
		if err != nil { // somebody removed it meanwhile
			noSuchMailbox(w)
			return
		}
		reply(w, status, m)
	}
}

func (s *Server) deleteMailbox(w http.ResponseWriter, r *http.Request) {
	if err := s.RemoveMailbox(r.PathValue("address")); err != nil {
		noSuchMailbox(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
