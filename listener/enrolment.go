package listener

// Devices come and go.

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Enrol enrols a device, if a precondition lets it, and has its mailbox listened to. only may be nil.
func (l *Listener) Enrol(ctx context.Context, e subscriptions.Enrolment, only subscriptions.Precondition) (subscriptions.Device, bool, error) {
	entries := pin(l.covering(e.Mailbox), e.Exchange)
	switch {
	case len(entries) == 0 && e.Exchange != "":
		return subscriptions.Device{}, false, &subscriptions.FieldError{Field: "exchange", Code: codeNotCovered,
			Detail: fmt.Sprintf("the configuration has no exchange entry %q with the domain %s", e.Exchange, mail.Domain(e.Mailbox))}
	case len(entries) == 0:
		return subscriptions.Device{}, false, &subscriptions.FieldError{Field: "mailbox", Code: codeNotCovered,
			Detail: mail.Domain(e.Mailbox) + " is not in domains of an exchange entry of the configuration"}
	}
	defer l.new.enrolling()()
	done, err := l.enrol(ctx, e, only, entries)
	if err != nil {
		return subscriptions.Device{}, false, err
	}
	for _, id := range done.Ousted {
		l.removed(done.Mailbox, id)
	}
	if done.Left != nil {
		l.left(done.Left, e.ID)
	}
	if m := l.mailbox(done.Mailbox); m != nil && done.Renewed {
		m.work.Renewed(e.ID)
	}
	if done.Created || done.Left != nil || done.Device.Since.IsZero() {
		l.arrived(done.Mailbox)
	} else {
		l.follow(done.Mailbox)
	}
	return done.Device, done.Created, nil
}

// enrol enters an enrolment in the book. It begins by the clock of the server that has the mailbox; while nobody knows which server that
// is, the first listing sets the beginning.
func (l *Listener) enrol(ctx context.Context, e subscriptions.Enrolment, only subscriptions.Precondition, entries []*entry) (subscriptions.Enrolled, error) {
	at := subscriptions.Beginning{Now: time.Now()}
	if known := l.entryOf(e.Mailbox); known != nil {
		at.Since = known.enrolment(at.Now)
	} else if len(entries) == 1 {
		at.Since = entries[0].enrolment(at.Now)
	}
	if l.o.Book.Mailbox(e.Mailbox) == nil {
		at.Location, at.Account = l.locationOf(e)
	}
	return l.o.Book.EnrolIf(ctx, e, only, at)
}

// locationOf returns where a new mailbox lives and the account that would listen to it, if no server has to be asked: written with the
// enrolment, they save the look-up a write. If the account's last seat is taken meanwhile, the look-up finds another. Where mailboxes may
// go over to Graph, only the look-up decides, for all others may go over meanwhile.
func (l *Listener) locationOf(e subscriptions.Enrolment) (mail.Location, string) {
	s := l.searchNew(e.Mailbox, e.Exchange)
	found, ok := s.settled()
	if !ok || found.err != nil || found.entry.hasGraph() {
		return mail.Location{}, ""
	}
	a := found.entry.seats.free("", groupingOf(found.at))
	if a == nil {
		return mail.Location{}, ""
	}
	return found.at, a.Name
}

// entryOf is the entry that has the mailbox with this address; nil while none is known to.
func (l *Listener) entryOf(address string) *entry {
	m := l.mailbox(l.o.Book.Mailbox(address))
	if m == nil {
		return nil
	}
	k := m.linked()
	if k == nil {
		return nil
	}
	return k.way.account.entry
}

// arrived follows a mailbox to which a device has come. One that was followed before is listed now; a new one is listed once it is listened
// to.
func (l *Listener) arrived(box *subscriptions.Mailbox) {
	if m, known := l.follow(box); known {
		m.work.List()
	}
}

// Remove ends an enrolment, if a precondition lets it. No alert for the device begins after it has returned. only may be nil.
func (l *Listener) Remove(ctx context.Context, id string, only subscriptions.Precondition) (bool, error) {
	var refused error
	was, err := l.remove(ctx, id, func(d subscriptions.Device) bool {
		refused = nil
		if only != nil {
			refused = only(d, true)
		}
		return refused == nil
	})
	return was, cmp.Or(err, refused)
}

// RemoveGone ends the enrolment of a device whose phone is gone, unless it has another phone by now. false: it did not.
func (l *Listener) RemoveGone(ctx context.Context, gone subscriptions.Device) (bool, error) {
	return l.remove(ctx, gone.ID, func(d subscriptions.Device) bool { return d.Phone() == gone.Phone() })
}

func (l *Listener) remove(ctx context.Context, id string, fits func(subscriptions.Device) bool) (bool, error) {
	box, ok, err := l.o.Book.RemoveIf(ctx, id, fits)
	if ok {
		l.left(box, id)
	}
	return ok, err
}

// left ends what goes on for a device that its mailbox has no more. Once it has none, the mailbox is not followed any more.
func (l *Listener) left(box *subscriptions.Mailbox, device string) {
	l.removed(box, device)
	if len(box.Devices()) == 0 {
		l.unfollow(box)
	} else if m := l.mailbox(box); m != nil {
		m.cover() // it may have been the one that pinned it
	}
}

func (l *Listener) removed(box *subscriptions.Mailbox, device string) {
	if m := l.mailbox(box); m != nil {
		m.work.Removed(device)
	}
}
