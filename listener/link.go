package listener

// How the inbox reads a mailbox at its location, and what the answers say about that location.

import (
	"context"
	"sync"
	"time"
	"unique"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

const (
	// silent is for how long a server has to have failed for a mailbox, and stale how old its location has to be, until it is looked up: a
	// server that restarts must not have every mailbox looked up. absent and again are the same where it answers that there is no EWS.
	silent = 15 * time.Minute
	stale  = time.Hour
	absent = time.Minute
	again  = 5 * time.Minute
	// leastWait is the least wait for the time from which a location may be doubted.
	leastWait = 5 * time.Second
)

// link is an inbox.Link: one mailbox at one location.
type link struct {
	m      *mailbox
	way    *way
	member membership
	at     *mail.Location // where it was found: never changed
	outage *outage        // of its server

	mu      sync.Mutex
	told    map[string]*mail.Message // what came in notifications and is not taken yet, by item id
	ended   bool                     // the mailbox has been given up here
	server  string                   // the mailbox server, as the mailbox's own answers name it; empty: unknown
	failing time.Time                // since when its server fails for the mailbox; zero: it does not
	unread  map[string]int           // how often in a row messages were not read
}

// Exchange is the exchange entry.
func (k *link) Exchange() string { return k.way.account.entry.Name }

// Source is whose item ids the messages have.
func (k *link) Source() mail.Source { return k.way.source.Kind() }

// SafetyPoll is after how long without a listing the mailbox is listed.
func (k *link) SafetyPoll() time.Duration { return k.way.account.entry.SafetyPoll }

// Listings is how many listings it is worth to have under way at once.
func (k *link) Listings() int { return k.way.source.Listings() }

// Reads is the same of reads by ids.
func (k *link) Reads() int { return k.way.source.Reads() }

// Read reads messages by their ids. What came in a notification is not asked for.
func (k *link) Read(ctx context.Context, ids []string) (inbox.Items, error) {
	told := k.takeTold(ids)
	if len(told) == 0 {
		return k.read(ctx, ids)
	}
	var others []string
	for _, id := range ids {
		if told[id] == nil {
			others = append(others, id)
		}
	}
	all := inbox.Items{Clock: k.way.account.entry.now()}
	if len(others) > 0 {
		var err error
		if all, err = k.read(ctx, others); err != nil {
			return k.withTold(all, told, err)
		}
	}
	read := all.Items
	all.Items = nil
	for _, id := range ids {
		if m := told[id]; m != nil {
			all.Items = append(all.Items, inbox.Item{ID: id, Message: m})
			continue
		}
		all.Items = append(all.Items, read[0])
		read = read[1:]
	}
	return all, nil
}

// withTold adds the messages that came in notifications to what was found of others, which could not all be read. Those that are about to be
// asked for one by one are kept until then.
func (k *link) withTold(found inbox.Items, told map[string]*mail.Message, err error) (inbox.Items, error) {
	oneByOne := fault.Of(err).Scope == fault.Message
	for id, m := range told {
		if oneByOne {
			k.keepTold(m)
			continue
		}
		found.Items = append(found.Items, inbox.Item{ID: id, Message: m})
	}
	found.Clock = k.way.account.entry.now()
	return found, err
}

// List returns a page of the Inbox.
func (k *link) List(ctx context.Context, p inbox.Part) (inbox.Page, error) {
	call, err := k.way.calls.begin(k.at.Primary)
	if err != nil {
		return inbox.Page{}, err
	}
	page, a, err := k.way.source.List(ctx, *k.at, p)
	if err = call.note(err); err != nil {
		return inbox.Page{}, k.judge(err)
	}
	page.Clock = k.answered(a)
	return page, nil
}

// Unhinted tells that a listing showed a message that no hint had named.
func (k *link) Unhinted(received, clock time.Time) { k.member.Unhinted(clock.Sub(received)) }

// Listed tells that a complete listing is done.
func (k *link) Listed() {
	k.dropTold(false)
	k.member.Listed()
}

// location is where the mailbox lives, as far as it is known now.
func (k *link) location() mail.Location {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := *k.at
	at.Server = k.server
	return at
}

// answered takes in what an answer tells of its server, and returns that server's clock. A mailbox on a server whose mailboxes the entry is
// not to listen to is looked up again.
func (k *link) answered(a Answer) time.Time {
	e := k.way.account.entry
	k.mu.Lock()
	waited := !k.failing.IsZero()
	k.failing = time.Time{}
	if a.Server != "" && a.Server != k.server {
		k.server = unique.Make(a.Server).Value() // that of thousands of mailboxes
	}
	strayed := !e.serves(k.server)
	k.mu.Unlock()
	k.serverAnswers(waited)
	if strayed && k.age() > confirmed {
		k.m.relocate(k)
	}
	return e.tell(a)
}

// age is for how long the location has been known.
func (k *link) age() time.Duration { return time.Since(k.at.Found) }

// judge says what an error of a call means for the mailbox. Where its location is doubted it is tried again at once, or once the location
// may be doubted, and not when the error says.
func (k *link) judge(err error) error {
	f := *fault.Of(err)
	verdict := streaming.Leaves
	if k.m.linked() == k { // else it is looked up already, or has been
		verdict = k.doubt(&f)
	}
	switch verdict {
	case streaming.Leaves:
		f.Remedy, f.After = fault.Retry, 0
	case streaming.Later:
		f.Remedy, f.After = fault.Wait, max(confirmed-k.age(), leastWait)
	case streaming.Stays:
		return err
	}
	return &f
}

// doubt says whether an error is a reason to look the mailbox up again, and then has that done.
func (k *link) doubt(f *fault.Error) streaming.Verdict {
	ofServer := f.Scope >= fault.Server
	gone := ofServer && k.gone(f)
	switch {
	case !f.Moved && !ofServer, !k.asks():
		return streaming.Stays
	case ofServer:
		if gone {
			k.m.confirm(k)
		}
		return streaming.Stays
	case k.age() <= confirmed:
		return streaming.Later
	}
	k.m.relocate(k)
	return streaming.Leaves
}

// asks says whether somebody has to be asked where the mailbox lives.
func (k *link) asks() bool {
	s := k.m.l.search(k.m.box)
	return s.asks()
}

// gone says whether the server may be gone for good that has failed once more for the mailbox.
func (k *link) gone(f *fault.Error) bool {
	k.outage.failed()
	k.mu.Lock()
	if k.failing.IsZero() {
		k.failing = time.Now()
	}
	failing := time.Since(k.failing)
	k.mu.Unlock()
	if f.Moved && f.Remedy == fault.Fix { // it answers
		return failing >= absent && k.age() > again
	}
	return failing >= silent && k.age() > stale
}

// leadsTo says whether the mailbox still lives where this link leads, after a look-up: where nobody could say, it does.
func (k *link) leadsTo(found answered) bool {
	if found.err != nil {
		return !found.err.Elsewhere
	}
	at := found.at
	return found.entry == k.way.account.entry && at.ReadBy() == k.at.ReadBy() && at.URL == k.at.URL && at.Group == k.at.Group && at.Primary == k.at.Primary
}
