package listener

// What waits because of an outage of a server ends with the outage, and not one by one: what another that waited is answered is the evidence.

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
)

// shortOutage is how long an outage has to last until its end is told to all. What waits because of a shorter one is tried within about as long. A
// server that fails now and then answers meanwhile: so nobody is tried more often for that than once in a shortOutage.
const shortOutage = time.Minute

// outage is that of a server, which is what is behind one URL, or of all that says where the mailboxes of an entry live: since when it has
// answered for nobody, in Unix nanoseconds; 0: there is none.
type outage struct{ began atomic.Int64 }

// failed takes in that the server has failed for a mailbox.
func (o *outage) failed() { o.began.CompareAndSwap(0, time.Now().UnixNano()) }

// ended takes in that it has answered for one, and says whether that is to be told to all. waited: it had failed for that one before. Else
// that says nothing of those that wait: the server may fail for them only.
func (o *outage) ended(waited bool) bool {
	began := o.began.Load()
	long := time.Since(time.Unix(0, began)) >= shortOutage
	if began == 0 || long && !waited {
		return false
	}
	return o.began.CompareAndSwap(began, 0) && long
}

// ofOutage says whether something failed only because its server did not answer.
func ofOutage(f *fault.Error) bool {
	return f.Outage() || f.Code == ews.CodeHangs || f.Code == graph.CodeHangs
}

// outages are those of the servers of an exchange entry.
type outages struct {
	mu sync.Mutex
	at map[string]*outage // by URL
}

// of is that of the server at a URL.
func (o *outages) of(url string) *outage {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.at[url] == nil {
		if o.at == nil {
			o.at = map[string]*outage{}
		}
		o.at[url] = &outage{}
	}
	return o.at[url]
}

// serverAnswers takes in that the server has answered; waited: it had failed for the mailbox before. After an outage all that waits for it is
// tried at once, at the pace of its calls, and nothing that waits for something else: a refusal, or the server's own word of when to come again.
func (k *link) serverAnswers(waited bool) {
	if !k.outage.ended(waited) {
		return
	}
	l, e := k.m.l, k.way.account.entry
	l.run(func() {
		for _, m := range l.mailboxes() {
			if other := m.linked(); other != nil && other.outage == k.outage {
				m.work.Retry(ofOutage)
			}
		}
		for _, a := range e.accounts {
			a.way(k.at.ReadBy()).listening.Answers(k.at.URL)
		}
	})
}

// lookedUp takes in how a look-up at the entry ended; waited: of a mailbox that was not found for an outage before. After an outage those that
// were not found for it are looked up at once, in their turn.
func (e *entry) lookedUp(f *fault.Error, waited bool) {
	switch {
	case f != nil && f.Scope == fault.Server:
		e.finding.failed()
	case f != nil && f.Scope == fault.Account: // by its own word it is tried again
	case e.finding.ended(waited):
		l := e.lookups.l
		l.run(func() {
			for _, m := range l.mailboxes() {
				if m.unfoundFor(e) {
					m.seek()
				}
			}
		})
	}
}

// unfoundFor says whether the last look-up of the mailbox failed because an entry did not answer.
func (m *mailbox) unfoundFor(e *entry) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.failing()
	return f != nil && ofOutage(f) && m.quest.failure.where == e
}
