package proxy

// The password of a proxy, until it has worked. The proxy asks the company's directory for it, and every mailbox, stream and alert would
// try a wrong one at once: the directory would lock the account.

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
)

const (
	maxRefusals = credential.MaxRefusals
	laterPause  = credential.LaterPause // the first is refusedPause
)

// outcome is what a connection to a proxy says of the password.
type outcome uint8

const (
	unanswered outcome = iota // nothing
	passed                    // it let mailbell through, and perhaps would have without one
	accepted
	refused
)

// tries are those of one password. Until it has worked, one connection at a time tries it for a target, and never more than could be
// refused before the pause; the others wait. Once it has worked nobody waits, nor before that for a target that the proxy has let mailbell
// through to, with or without looking at the password. A nil *tries has no limit.
type tries struct {
	mu      sync.Mutex
	worked  bool
	open    map[string]bool // targets that were let through to
	refused int
	next    time.Time // not before this
	// pauses are until when a target is not tried. Some proxies ask for another password where only the target is not allowed: then the others
	// are tried.
	pauses map[string]time.Time
	trying map[string]bool // the targets of the tries under way
	ended  chan struct{}   // closed when one of them ends
}

// enter waits until the password may be tried for a target at the proxy at host:port, or the connection is closed. Where the try is the
// caller's, leave ends it.
func (t *tries) enter(closed <-chan struct{}, proxy, target string) (mine bool, err error) {
	if t == nil {
		return false, nil
	}
	for {
		mine, over, left := t.try(target)
		switch {
		case left > 0:
			e := proxyError(proxy, fault.Fix, fault.ProxySignIn,
				"has refused the user name and password; mailbell tries them again later, so that the directory does not lock the account", nil)
			e.After = left
			return false, e
		case over == nil:
			return mine, nil
		}
		select {
		case <-over:
		case <-closed:
			return false, proxyError(proxy, fault.Wait, fault.ProxyAway, "did not answer in time", nil)
		}
	}
}

// try is enter without waiting: over is closed when the caller should call again, left is for how long it may not try.
func (t *tries) try(target string) (mine bool, over <-chan struct{}, left time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch left := max(time.Until(t.next), time.Until(t.pauses[target])); {
	case t.worked, t.open[target]:
		return false, nil, 0
	case left > 0:
		return false, nil, left
	case t.trying[target], len(t.trying) > 0 && len(t.trying)+t.refused >= maxRefusals:
		return false, t.ended, 0
	}
	if len(t.trying) == 0 {
		t.trying, t.ended = map[string]bool{}, make(chan struct{})
	}
	t.trying[target] = true
	return true, nil, 0
}

// leave ends a try.
func (t *tries) leave(target string, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch now := time.Now(); o {
	case accepted:
		t.worked, t.open, t.pauses = true, nil, nil
	case passed:
		if t.open == nil {
			t.open = map[string]bool{}
		}
		t.open[target] = true
	case refused:
		if t.pauses == nil {
			t.pauses = map[string]time.Time{}
		}
		t.pauses[target] = now.Add(refusedPause)
		t.refused++
		if t.refused == maxRefusals {
			t.next = now.Add(refusedPause)
		} else if t.refused > maxRefusals {
			t.next = now.Add(laterPause)
		}
	}
	delete(t.trying, target)
	close(t.ended)
	t.ended = make(chan struct{})
}
