package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

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
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), moveTimeout)
	defer cancel()
	n, err := a.Move(ctx, m)
	fields := []zap.Field{zap.String("client", who.name), zap.String("exchange", m.Exchange), zap.String("listen_by", m.ListenBy),
		zap.String("mailbox", m.Mailbox), zap.Int("mailboxes", n)}
	if err != nil {
		if n > 0 || !errors.Is(err, ErrNoExchange) {
			a.Log.Warn("mailboxes are not all listened to as a client wants", append(fields, zap.Error(err))...)
		}
		return answer{}, err
	}
	a.Log.Info("mailboxes are listened to another way", fields...)
	return answer{status: http.StatusOK, body: Moved{m.Exchange, m.ListenBy, n}}, nil
}

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
