package listener

// From streaming to push, where a server has no streaming notifications, or something before it lets no stream through.

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// fallback decides whether an exchange entry falls back to push. That is decided once: a stream that brings anything proves that streaming
// works, and some mailboxes that are refused it before that prove that it does not. A restart begins with streaming again.
type fallback struct {
	log       *zap.Logger
	mailboxes func() int  // how many the entry has: two cannot be three witnesses
	answers   func() bool // its server has answered other calls, so that what holds a stream back may be something before it
	run       func(task func()) bool

	works atomic.Bool // a stream has brought something; it changes under mu

	mu      sync.Mutex
	push    bool                 // the mailboxes are listened to by push
	refused map[string]struct{}  // mailboxes that met what a server without streaming answers; nil: it is decided
	joined  map[*either]struct{} // mailboxes that have joined; nil: it is decided
}

func newFallback(log *zap.Logger, mailboxes func() int, answers func() bool, run func(task func()) bool) *fallback {
	return &fallback{log: log, mailboxes: mailboxes, answers: answers, run: run, refused: map[string]struct{}{}, joined: map[*either]struct{}{}}
}

// streamed notes that a stream has brought something.
func (f *fallback) streamed() {
	if f == nil || f.works.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.works.Store(true)
	f.refused, f.joined = nil, nil
}

// failed takes in what streaming ended with for a mailbox.
func (f *fallback) failed(mailbox string, err error) {
	if f == nil || err == nil {
		return
	}
	why := fault.Of(err)
	heldBack := why.Code == ews.CodeHeldBack && f.answers() // else it may hang as a whole
	if !why.Unsupported && !heldBack {
		return
	}
	enough := min(witnesses, max(1, f.mailboxes()))
	f.mu.Lock()
	if f.works.Load() || f.push {
		f.mu.Unlock()
		return
	}
	f.refused[mailbox] = struct{}{}
	if len(f.refused) < enough {
		f.mu.Unlock()
		return
	}
	list := slices.Collect(maps.Keys(f.joined))
	f.push, f.refused, f.joined = true, nil, nil
	f.mu.Unlock()
	f.log.Warn("the server gives no streaming notifications; its mailboxes are listened to by push notifications until the next start",
		zap.Int("mailboxes", len(list)), zap.Error(why))
	f.run(func() { // not here: the caller may belong to a stream that this ends
		for _, e := range list {
			e.fallBack()
		}
	})
}

// join notes that a mailbox has joined, and says whether by push.
func (f *fallback) join(e *either) (push bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.joined != nil {
		f.joined[e] = struct{}{}
	}
	return f.push
}

func (f *fallback) leave(e *either) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.joined, e)
}

// eitherKind is the kind that uses streaming, and push where there is no streaming.
type eitherKind struct {
	streams, posts kind
	fallback       *fallback
}

func (k *eitherKind) member(m *mailbox) membership {
	return &either{kind: k, m: m, now: k.streams.member(m)}
}

func (k *eitherKind) Retry() {
	k.streams.Retry()
	k.posts.Retry()
}

func (k *eitherKind) Answers(url string) {
	k.streams.Answers(url)
	k.posts.Answers(url)
}

func (k *eitherKind) Open() int { return k.streams.Open() }

func (k *eitherKind) Close() {
	k.streams.Close()
	k.posts.Close()
}

// either is a mailbox that may be listened to one way or the other.
type either struct {
	kind *eitherKind
	m    *mailbox

	mu   sync.Mutex // held while the mailbox joins or leaves one of them; they call nothing meanwhile
	now  membership
	push bool           // now is the one by push
	at   *mail.Location // nil: it has not joined
}

// Join has the mailbox listened to at a location.
func (e *either) Join(at *mail.Location) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at != nil {
		return
	}
	e.at = at
	if e.kind.fallback.join(e) && !e.push {
		e.change()
	}
	e.now.Join(at)
}

// change puts push in the place of streaming. It is called with mu held.
func (e *either) change() { e.now, e.push = e.kind.posts.member(e.m), true }

// Leave ends listening.
func (e *either) Leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kind.fallback.leave(e)
	e.at = nil
	e.now.Leave()
}

// fallBack has the mailbox listened to by push from now on.
func (e *either) fallBack() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.push {
		return
	}
	e.now.Leave()
	e.change()
	if e.at != nil {
		e.now.Join(e.at)
	}
}

func (e *either) current() membership {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// Listening is answered by the kind that is used now, as is all that follows.
func (e *either) Listening() (since, last time.Time) { return e.current().Listening() }

// Failing says why the mailbox is not listened to.
func (e *either) Failing() (f *fault.Error, next time.Time) { return e.current().Failing() }

// Awaits says what is awaited of a mailbox that is not listened to yet.
func (e *either) Awaits() string { return e.current().Awaits() }

// Unhinted tells that a listing showed a message that no hint had named.
func (e *either) Unhinted(age time.Duration) { e.current().Unhinted(age) }

// Answered tells that its server has done for it what it was asked.
func (e *either) Answered() { e.current().Answered() }

// Listed tells that a complete listing is done.
func (e *either) Listed() { e.current().Listed() }
