package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/mail"
)

// moveTimeout bounds a command that has mailboxes listened to another way: some questions to Microsoft Graph, and a write for each mailbox. It
// is within what the server gives an answer.
const moveTimeout = 45 * time.Second

// Move is a command to have the mailboxes of an exchange entry listened to another way.
type Move struct {
	Exchange string
	ListenBy string
	Mailbox  string // a parsed address; empty: all
}

// Moved is the answer to a Move.
type Moved struct {
	Exchange  string `json:"exchange"`
	ListenBy  string `json:"listen_by"`
	Mailboxes int    `json:"mailboxes"` // that go over; the others were there before
}

// ErrNoExchange says that there is no exchange entry of that name.
var ErrNoExchange error = newProblem("no_exchange_entry", "the configuration has no exchange entry of this name")

// NotMoved says why no mailbox goes over.
func NotMoved(why string) error { return newProblem("not_moved", why) }

// listenBy has mailboxes listened to another way.
func (a *API) listenBy(r *http.Request, who caller) (answer, error) {
	m, err := readMove(r)
	if err != nil {
		a.Record(r, audit.Event{Action: audit.ListenByChanged, Client: who.name}, err)
		return answer{}, err
	}
	moved, err := a.ListenBy(r, who.name, m)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: moved}, nil
}

// ListenBy has mailboxes listened to another way, as PUT /v1/exchange/{name}/listen_by. The error becomes a *Problem by AsProblem.
func (a *API) ListenBy(r *http.Request, client string, m Move) (_ Moved, err error) {
	event := audit.Event{Action: audit.ListenByChanged, Client: client, Exchange: m.Exchange, ListenBy: m.ListenBy, Mailbox: m.Mailbox}
	defer func() { a.Record(r, event, err) }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), moveTimeout)
	defer cancel()
	n, err := a.Move(ctx, m)
	event.Mailboxes = n // some go over also where others do not
	if err != nil {
		return Moved{}, err
	}
	return Moved{m.Exchange, m.ListenBy, n}, nil
}

// AsProblem is an error as the API answers it.
func AsProblem(err error) *Problem { return problemOf(err) }

// readMove reads a command.
func readMove(r *http.Request) (m Move, err error) {
	body, err := readBody(r)
	if err != nil {
		return m, err
	}
	fields, err := readObject(body)
	if err != nil {
		return m, err
	}
	f := &form{fields: fields}
	m.Exchange = r.PathValue("name")
	m.ListenBy = f.text("listen_by", true, listenByWord)
	m.Mailbox = f.text("mailbox", false, mail.ParseAddress)
	return m, f.end()
}

func listenByWord(s string) (string, error) {
	switch s {
	case "graph", "streaming", "push":
		return s, nil
	}
	return "", fmt.Errorf("want graph, streaming or push")
}
