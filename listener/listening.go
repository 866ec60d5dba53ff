package listener

// The seam to the kinds of listening. Each kind is a folder of its own, turns what a server says into marks, and says what is not listened
// to and why.

import (
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/callbacks"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// kind is a kind of listening, at work for one listener account.
type kind interface {
	member(m *mailbox) membership // that may join
	Retry()                       // credentials or connections have changed: nothing is waited for
	Answers(url string)           // the server there does again: what failed only because it did not is not waited for
	Open() int                    // connections that are kept open for it
	Close()
}

// membership is one mailbox that a kind may listen to.
type membership interface {
	Join(at *mail.Location) // the mailbox is listened to at this location, which is shared and never changed
	Leave()                 // it is not any more: it may live elsewhere, or has no device
	Listening() (since, last time.Time)
	Failing() (f *fault.Error, next time.Time)
	Awaits() string             // what is awaited where it neither listens nor fails, for people
	Unhinted(age time.Duration) // a listing showed a message of this age that no hint had named
	Answered()                  // its server has done for it what it was asked
	Listed()                    // a complete listing is done
}

// keeper is a membership that keeps what it had for a mailbox that may come back.
type keeper interface {
	Forsake() // it does not
}

// contentless is a membership whose notifications may come without the messages that are configured to be in them.
type contentless interface {
	WithoutContent() *fault.Error // nil: they do not
}

// forsake says that a mailbox does not come back to a membership that it has left; it may be nil.
func forsake(was membership) {
	if k, keeps := was.(keeper); keeps {
		k.Forsake()
	}
}

// streams is the kind that uses EWS streaming notifications.
type streams struct{ *streaming.Groups }

func (s streams) member(m *mailbox) membership { return s.Member(m.box, sink{m}) }

// posts is the kind that uses EWS push notifications.
type posts struct{ *callbacks.Keeper }

func (p posts) member(m *mailbox) membership { return p.Member(m.box, postSink{sink{m}}) }

// changed is the kind that uses change notifications of Microsoft Graph.
type changed struct{ *changes.Keeper }

func (c changed) member(m *mailbox) membership {
	return c.Member(m.box, graphSink{postSink{sink{m}}})
}

// sink is told what Exchange says of a mailbox by EWS. It passes hints and requests for a listing to the inbox.
type sink struct{ m *mailbox }

// Hint hints at a message. A stream that is closing may name one though the mailbox is read by Graph already.
func (s sink) Hint(item string, at time.Time) { s.m.work.Hint(item, mail.EWS, at) }

// List has the mailbox listed.
func (s sink) List() { s.m.work.List() }

// Answers has what failed because the server did not answer tried at once.
func (s sink) Answers() {
	s.m.work.Retry(ofOutage)
	if k := s.m.linked(); k != nil {
		k.mu.Lock()
		waited := !k.failing.IsZero()
		k.mu.Unlock()
		k.serverAnswers(waited)
	}
}

// Doubt says whether the mailbox may live elsewhere.
func (s sink) Doubt(f *fault.Error) streaming.Verdict {
	k := s.m.linked()
	if k == nil { // it is being looked up
		return streaming.Leaves
	}
	return k.doubt(f)
}

// postSink is a sink for callbacks, of Exchange and of Graph.
type postSink struct{ sink }

// Doubt says whether the mailbox may live elsewhere, and is looked up again. Where it is too early for that, the mailbox is listed, and
// that listing waits until its location may be doubted.
func (s postSink) Doubt(f *fault.Error) bool {
	verdict := s.sink.Doubt(f)
	if verdict == streaming.Later {
		s.List()
	}
	return verdict == streaming.Leaves
}

// graphSink is a postSink for Graph, which has item ids of its own.
type graphSink struct{ postSink }

// Hint hints at a message.
func (s graphSink) Hint(item string, at time.Time) { s.m.work.Hint(item, mail.Graph, at) }

// Tell hints at a message whose content has come: it need not be read.
func (s graphSink) Tell(m *mail.Message, at time.Time) {
	if k := s.m.linked(); k != nil {
		k.keepTold(m)
	}
	s.Hint(m.ItemID, at)
}
