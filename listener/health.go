package listener

// Blame by evidence: whether a refusal is one mailbox's, or that of the listener account that asked for it.

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// witnesses is how many mailboxes have to be refused within window, with none let in, before the account is held to be at fault. Fewer
	// refusals are those mailboxes' own. It is as many as the sign-ins that fail before a password is held (package auth).
	witnesses = 3
	window    = time.Minute
	// ownFor is how long a mailbox's refusal is taken as its own. The mailbox is tried hourly, and each refusal renews it.
	ownFor = 2 * time.Hour
	// maxRefused bounds the mailboxes that are known to be refused: as many as an instance listens to. Without it those that were removed, or
	// are never let in, would add up. The next refusal of a mailbox that was forgotten counts as evidence once more.
	maxRefused = MaxAccounts * 1250

	// A blocked account is tried again after firstBlock, then less often, down to every maxBlock: a wrong password must not be tried by 1,250
	// mailboxes, or the directory locks the account out.
	firstBlock = 30 * time.Second
	maxBlock   = 4 * time.Minute
	// blocksOfPolicy is how often an account is tried at this pace though its error says that it takes a person. After that it is tried as
	// rarely as the error says.
	blocksOfPolicy = 4
	// probe is how long one caller has to find out whether the account works again before the next may try.
	probe = 30 * time.Second
)

// health is what is known of one kind of call of a listener account: those of EWS, those of Graph, or the look-ups by Autodiscover.
type health struct {
	log       *zap.Logger
	mailboxes func() int // how many the calls are made for: two cannot be three witnesses
	lifted    func()     // called when a block has ended
	// held is called when the account is blocked: by the refusals of this many mailboxes, for the nth time in a row; nil: nobody needs to
	// know.
	held func(f *fault.Error, mailboxes, times int)

	mu      sync.Mutex
	refused map[string]time.Time // mailboxes that were refused since one was let in, and when
	own     map[string]time.Time // mailboxes that were refused while another was let in: what they meet is theirs, and no evidence
	blocked *fault.Error         // what is wrong with the account itself; nil: nothing
	since   time.Time            // when the block began
	until   time.Time            // when the account is tried again
	again   time.Duration        // from the last refusal to until
	blocks  int                  // in a row
	prober  string               // the mailbox that was let through to try; empty: none
	trials  int                  // how many more mailboxes may try although the account is blocked, since they have not been refused
	trying  time.Time            // until then none of these tries, for another does
	anew    time.Time            // since when another credential or proxy is in use
}

// call is a call for a mailbox. How it ended is noted.
type call struct {
	*health
	mailbox string
	began   time.Time
}

func (h *health) call(mailbox string) call { return call{h, mailbox, time.Now()} }

// begin begins a call for a mailbox, where it is allowed.
func (h *health) begin(mailbox string) (call, error) { return h.call(mailbox), h.allowed(mailbox) }

// allowed says whether a call for a mailbox may be made. When the time of a block is over, one caller is let through to try; before that, a
// few mailboxes that have not been refused themselves, one after the other: it may be that only the others are sick.
func (h *health) allowed(mailbox string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blocked == nil {
		return nil
	}
	now := time.Now()
	wait := h.until.Sub(now)
	if _, own := h.own[mailbox]; own { // rather somebody else tries
		wait += probe
	}
	if wait <= 0 {
		h.until, h.prober = now.Add(probe), mailbox
		return nil
	}
	if _, refused := h.refused[mailbox]; !refused && h.trials > 0 && now.After(h.trying) {
		h.trials--
		h.trying = now.Add(probe)
		return nil
	}
	e := *h.blocked
	e.After = wait
	return &e
}

// unsaid are the codes of calls that do not say whether the account is let in: nothing was sent, or signed, or answered.
var unsaid = []string{ews.CodeHangs, ews.CodeHeldBack, ews.CodeHost, ews.CodeUntrusted, ews.CodeURL, graph.CodeHangs, graph.CodeHeld}

// note takes in how a call ended, and returns the error as its caller is to take it.
func (c call) note(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) { // of ours: the server has said nothing
		return err
	}
	if err == nil {
		c.works()
		return nil
	}
	switch f := fault.Of(err); {
	case slices.Contains(unsaid, f.Code):
		return err
	case f.Scope < fault.Account: // the server let it in
		c.works()
		return err
	case f.Scope == fault.Account && c.outdated():
		e := *f
		e.Scope, e.Remedy, e.After = fault.Mailbox, fault.Retry, 0
		return &e
	case f.Scope == fault.Account:
		return c.refuse(c.mailbox, f)
	case f.Remedy == fault.Fix:
		e := *f
		e.Unproven = true
		return &e
	}
	return err
}

// outdated says that the call was made with a credential that has been replaced since: its refusal says nothing of the new one.
func (c call) outdated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.began.Before(c.anew)
}

// works takes in that a mailbox was let in. That ends a block, and what others were refused before is their own. It says nothing of
// refusals since the call began: the call may have been under way when the tenant switched EWS off.
func (c call) works() {
	h := c.health
	h.mu.Lock()
	h.disown(c.began)
	delete(h.own, c.mailbox)
	was, since := h.blocked, h.since
	ends := was != nil && !since.After(c.began)
	if ends {
		h.lift()
	}
	h.mu.Unlock()
	if ends {
		h.log.Info("a listener account works again", zap.Duration("after", time.Since(since).Round(time.Second)))
		h.lifted()
	}
}

// disown takes refusals until then as the mailboxes' own. Where there are too many, those from long ago go first. It is called with mu
// held.
func (h *health) disown(until time.Time) {
	if len(h.own)+len(h.refused) > maxRefused {
		h.forgetOld()
	}
	if h.own == nil {
		h.own = map[string]time.Time{}
	}
	for m, at := range h.refused {
		if at.After(until) {
			continue
		}
		delete(h.refused, m)
		if _, known := h.own[m]; known || len(h.own) < maxRefused {
			h.own[m] = at
		}
	}
}

// forgetOld forgets what mailboxes met by themselves so long ago that it is theirs no more. It is called with mu held.
func (h *health) forgetOld() {
	maps.DeleteFunc(h.own, func(_ string, at time.Time) bool { return time.Since(at) >= ownFor })
}

// lift ends a block. It is called with mu held.
func (h *health) lift() {
	h.blocked, h.again, h.blocks, h.prober, h.trying = nil, 0, 0, "", time.Time{}
}

// unblock ends a block without anybody's word, as another credential is tried.
func (h *health) unblock() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lift()
	h.anew = time.Now()
	clear(h.refused)
	clear(h.own)
}

// refuse takes in that a mailbox was refused for a reason that may be the account's.
func (h *health) refuse(mailbox string, f *fault.Error) error {
	again, err := h.testify(mailbox, f, h.mailboxes())
	if again > 0 {
		h.log.Error("a listener account cannot work", zap.Duration("next_try", again), zap.Error(f))
		if h.held != nil {
			h.mu.Lock()
			mailboxes, times := len(h.refused), h.blocks
			h.mu.Unlock()
			h.held(f, mailboxes, times)
		}
	}
	return err
}

// enough is how many of this many mailboxes have to be refused. Those whose refusal is their own are no witnesses. It is called with mu
// held.
func (h *health) enough(mailboxes int) int {
	if mailboxes-len(h.own) < witnesses {
		h.forgetOld()
	}
	return min(witnesses, max(1, mailboxes-len(h.own)))
}

// testify enters the refusal of one of this many mailboxes. again is the time until the account is tried again, where this refusal blocks
// it, for the first time or once more; 0: it does not.
func (h *health) testify(mailbox string, f *fault.Error, mailboxes int) (again time.Duration, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	own := h.remember(mailbox, now)
	switch {
	case h.blocked == nil && (own || len(h.refused) < h.enough(mailboxes)):
		e := *f
		e.Scope, e.Unproven = fault.Mailbox, e.Remedy == fault.Fix
		return 0, &e
	case h.blocked != nil && mailbox != h.prober: // one that was under way, or tried although the account was blocked
		h.trying = time.Time{}
		e := *f
		e.After = max(h.until.Sub(now), 0)
		return 0, &e
	case h.blocked == nil:
		h.since, h.trials = now, witnesses
	}
	h.blocks++
	h.again = min(max(2*h.again, firstBlock), maxBlock)
	if f.After > maxBlock && (f.Remedy != fault.Fix || h.blocks > blocksOfPolicy) {
		h.again = f.After
	}
	h.blocked, h.until, h.prober = f, now.Add(h.again), ""
	e := *f
	e.After = h.again
	return h.again, &e
}

// remember enters the refusal of a mailbox, and says whether it is the mailbox's own. It is called with mu held.
func (h *health) remember(mailbox string, now time.Time) (own bool) {
	if h.refused == nil {
		h.refused = map[string]time.Time{}
	}
	if h.blocked == nil {
		maps.DeleteFunc(h.refused, func(_ string, at time.Time) bool { return now.Sub(at) > window })
	}
	if at, known := h.own[mailbox]; known && now.Sub(at) < ownFor {
		h.own[mailbox] = now
		return true
	}
	if _, known := h.refused[mailbox]; known || len(h.refused) < maxRefused {
		h.refused[mailbox] = now
	}
	return false
}

// state says why the account cannot work, and when that is tried again; nil: it can.
func (h *health) state() (f *fault.Error, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blocked, h.until
}
