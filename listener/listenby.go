package listener

// The mailboxes of an entry at Exchange Online go over from EWS to Microsoft Graph, and back: by an administrator's command, or because the
// tenant has switched EWS off.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// maxTurning bounds the records that are changed at the same time: as many as go well into one round trip to the store.
	maxTurning = 64
	// asksFirst is how many mailboxes are looked at by Graph before others go there: if it lets none of them in, they would all be cut off.
	asksFirst = 3
	// switchedAgain is how often in a row an account with few mailboxes has to be refused EWS before that counts as the tenant's word.
	switchedAgain = 2
)

// ErrNoExchange says that there is no such exchange entry.
var ErrNoExchange = errors.New("the configuration has no exchange entry of this name")

// ListenBy changes how a mailbox of an entry, or each of them where address is empty, is listened to. That outlasts restarts. It says how
// many go over. A *subscriptions.FieldError says what is wrong with the command. A *fault.Error says that Graph lets mailbell in to none of
// them; then nothing was changed.
func (l *Listener) ListenBy(ctx context.Context, exchange, listenBy, address string) (turned int, err error) {
	e := l.entry(exchange)
	if e == nil {
		return 0, ErrNoExchange
	}
	if err := e.mayListenBy(listenBy); err != nil {
		return 0, err
	}
	var list []*mailbox
	if address != "" {
		m := l.mailbox(l.o.Book.Mailbox(address))
		if m == nil || !m.livesAt(e) {
			return 0, &subscriptions.FieldError{Field: "mailbox", Code: "unknown", Detail: "no mailbox with this address is known to live at " + exchange}
		}
		list = append(list, m)
	} else {
		list = l.at(e)
	}
	if listenBy == ByGraph {
		if err := letIn(ctx, e, list); err != nil {
			return 0, err
		}
	}
	for _, a := range e.accounts { // a person says that it works: who was refused there tries at once
		a.way(e.source(listenBy)).calls.unblock()
	}
	return l.switchTo(ctx, list, listenBy)
}

// mayListenBy says why the mailboxes of an entry cannot be listened to this way.
func (e *entry) mayListenBy(listenBy string) error {
	ews := e.byEWS()
	switch {
	case !e.hasGraph():
		return &subscriptions.FieldError{Field: "listen_by", Code: "not_available",
			Detail: "the mailboxes of " + e.Name + " cannot be moved: that takes an exchange entry of type: online, with client_secret or certificate, and the URL of Microsoft Graph"}
	case listenBy != ByGraph && listenBy != ews:
		return &subscriptions.FieldError{Field: "listen_by", Code: "invalid", Detail: fmt.Sprintf("want %s or %s", ByGraph, ews)}
	}
	return nil
}

// byEWS is how the mailboxes of the entry are listened to over EWS.
func (e *entry) byEWS() string {
	if e.ListenBy == ByPush {
		return ByPush
	}
	return ByStreaming
}

// entry returns an entry by its name; nil: there is none.
func (l *Listener) entry(name string) *entry {
	for _, e := range l.entries {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// at returns the mailboxes that live at an entry.
func (l *Listener) at(e *entry) (list []*mailbox) {
	for _, m := range l.mailboxes() {
		if m.livesAt(e) {
			list = append(list, m)
		}
	}
	return list
}

// livesAt says whether the mailbox was last found at an entry.
func (m *mailbox) livesAt(e *entry) bool { return m.box.Record().Location().Entry == e.Name }

// letIn asks Graph for some mailboxes before any goes over to it. Its error says that it lets us in to none.
func letIn(ctx context.Context, e *entry, list []*mailbox) error {
	var refused error
	for _, m := range list[:min(asksFirst, len(list))] {
		r := m.box.Record()
		a := e.asker(r.Account, mail.Graph)
		found := a.locateByGraph(ctx, r.Location().Primary, true)
		if found.err == nil {
			return nil
		}
		refused = found.err
	}
	return refused
}

// switchTo changes how mailboxes are listened to, and says how many go over by that.
func (l *Listener) switchTo(ctx context.Context, list []*mailbox, listenBy string) (int, error) {
	var turned atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxTurning)
	for _, m := range list {
		g.Go(func() error {
			done, err := m.listenBy(ctx, listenBy)
			if done {
				turned.Add(1)
			}
			return err
		})
	}
	err := g.Wait()
	return int(turned.Load()), err
}

// listenBy writes down how the mailbox is listened to, and has it looked up where that is not how it is now.
func (m *mailbox) listenBy(ctx context.Context, listenBy string) (turned bool, err error) {
	if m.box.Record().ListenBy != listenBy {
		err := m.box.Update(ctx, func(d *subscriptions.Draft) { d.ListenBy = listenBy })
		if errors.Is(err, subscriptions.ErrNoMailbox) { // its last device was removed
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	k := m.linked()
	switch {
	case k == nil:
		m.seek()
	case k.at.ReadBy() != k.way.account.entry.source(listenBy):
		m.relocate(k)
		return true, nil
	}
	return false, nil
}

// exodus takes the mailboxes of an entry from EWS to Graph when the tenant has switched EWS off.
type exodus struct {
	l     *Listener
	entry *entry
	log   *zap.Logger

	mu     sync.Mutex
	busy   bool // one is under way
	failed bool // Graph let us in to no mailbox, and that was logged
}

// blocked takes in that EWS has refused an account: calls for this many mailboxes, and for the nth time in a row. If that means that the
// tenant has switched EWS off, the mailboxes of the account go over to Graph, unless Graph does not let us in either. It is asked each
// time.
func (x *exodus) blocked(a *account, f *fault.Error, mailboxes, times int) {
	if !SwitchedOff(f) || mailboxes < witnesses && times < switchedAgain {
		return
	}
	x.mu.Lock()
	busy := x.busy
	x.busy = true
	x.mu.Unlock()
	if busy {
		return
	}
	if !x.l.run(func() { x.goOver(x.l.looking, a, f) }) {
		x.end(false)
	}
}

func (x *exodus) end(failed bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy, x.failed = false, failed
}

// SwitchedOff says whether a refusal is what a tenant without EWS answers: HTTP 403 and no SOAP. Whether something else says 403 is found
// out by asking Graph.
func SwitchedOff(f *fault.Error) bool {
	return f.Code == "HTTP 403" && f.Detail != fault.ClientUnknown
}

// goOver has the mailboxes of an account that are read by EWS go over to Graph.
func (x *exodus) goOver(ctx context.Context, a *account, f *fault.Error) {
	var list []*mailbox
	for _, m := range x.l.at(x.entry) {
		if r := m.box.Record(); r.Account == a.Name && x.entry.source(r.ListenBy) == mail.EWS {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		x.end(false)
		return
	}
	began := time.Now()
	if err := letIn(ctx, x.entry, list); err != nil {
		x.mu.Lock()
		said := x.failed
		x.mu.Unlock()
		x.end(true)
		if !said && ctx.Err() == nil {
			x.log.Error("Exchange Online refuses EWS, and Microsoft Graph does not let mailbell in either", zap.Int("mailboxes", len(list)),
				zap.Error(err), zap.NamedError("ews", f))
		}
		return
	}
	turned, err := x.l.switchTo(ctx, list, ByGraph)
	x.end(false)
	if ctx.Err() != nil {
		return
	}
	x.log.Warn("Exchange Online refuses EWS; mailboxes go over to Microsoft Graph", zap.String("account", a.Name), zap.Int("mailboxes", turned),
		zap.Duration("took", time.Since(began)), zap.Error(err), zap.NamedError("ews", f))
}
