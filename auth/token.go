package auth

// The access token of one credential. It is fetched once for all callers, renewed in the background before it expires, and no caller waits
// while it is valid. MSAL does none of this: 64 calls without a token make 64 requests, and each waits for a token service that cannot be
// reached.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// tokenTimeout bounds one fetch, the discovery of the end points before it included. Entra ID answers within a second or two.
	tokenTimeout = 15 * time.Second
	// renewBefore is how long before the end of a token the next one is fetched: time for ten tries. A random part of renewSpread is added,
	// so that the accounts of an installation do not ask at the same time.
	renewBefore = 5 * time.Minute
	renewSpread = time.Minute
	// renewShare bounds renewBefore to a part of the token's life, which may be less than five minutes. A token is not renewed before this
	// part of its life has passed, even if the token service asks for that.
	renewShare = 5
	// maxRetryAfter bounds the pause that a token service may ask for. A wrong number must not stop an account for days.
	maxRetryAfter = 10 * time.Minute
	// fixRetry is the pause between tries if an administrator has to act: mailbell soon notices the correction.
	fixRetry = time.Minute
	// refusedPause is the pause after a server has refused a new token: the next one would not be better, and a caller that tries one
	// mailbox after the other must not cause a request for a token each time.
	refusedPause = time.Minute
)

// opToken is the Op of errors of a token.
const opToken = "get a token"

// tokenRetries are the pauses between tries after a temporary error.
var tokenRetries = backoff.Policy{First: time.Second, Max: time.Minute}

// token is an access token.
type token struct {
	value   string
	expires time.Time
	renew   time.Time // when the token service wants the next to be fetched; zero: it does not say
}

func (t token) live(now time.Time) bool { return t.value != "" && now.Before(t.expires) }

// tokens keeps the token of a credential. It is safe for concurrent use.
type tokens struct {
	fetch func(context.Context) (token, error) // asks the token service; its errors are *fault.Error
	ctx   context.Context                      // of all fetches; ends with close
	end   context.CancelFunc
	work  sync.WaitGroup

	mu       sync.Mutex
	current  token
	flight   *flight      // the fetch under way; nil: none
	failure  *fault.Error // of the last fetch; nil: it returned a token
	failures int          // in a row
	next     time.Time    // no fetch before this
	suspect  time.Time    // until then no token is fetched because a server has refused one
	renewal  *time.Timer
	closed   bool
}

// flight is a fetch that several wait for.
type flight struct {
	done  chan struct{}
	token token
	err   error
}

var errClosed = &fault.Error{Op: opSignIn, Code: "closed", Scope: fault.Account, Remedy: fault.Retry,
	Text: "the credential was replaced or closed"}

func newTokens(fetch func(context.Context) (token, error)) *tokens {
	t := &tokens{fetch: fetch}
	t.ctx, t.end = context.WithCancel(context.Background())
	return t
}

// get returns the token, and waits only if there is no valid one.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	if t.current.live(time.Now()) {
		defer t.mu.Unlock()
		return t.current.value, nil
	}
	f, err := t.begin() //nolint:contextcheck // a fetch does not end with the context of one caller
	t.mu.Unlock()
	return f.wait(ctx, err)
}

// replace returns another token than old, which a server has refused. All callers with the same old token get the same new one.
func (t *tokens) replace(ctx context.Context, old string) (string, error) {
	now := time.Now()
	t.mu.Lock()
	if t.current.value != old && t.current.live(now) {
		defer t.mu.Unlock()
		return t.current.value, nil
	}
	if now.Before(t.suspect) {
		t.mu.Unlock()
		return "", errRefusedNew
	}
	f, err := t.begin() //nolint:contextcheck // a fetch does not end with the context of one caller
	t.mu.Unlock()
	return f.wait(ctx, err)
}

// errRefusedNew says that another token would not help.
var errRefusedNew = errors.New("a new token was refused a moment ago")

// refused notes that a server has refused a token that was new.
func (t *tokens) refused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.suspect = time.Now().Add(refusedPause)
}

// close ends the present fetch and waits for it.
func (t *tokens) close() {
	t.mu.Lock()
	t.closed = true
	if t.renewal != nil {
		t.renewal.Stop()
	}
	t.mu.Unlock()
	t.end()
	t.work.Wait()
}

// wait waits for a fetch until ctx ends; err is that of begin.
func (f *flight) wait(ctx context.Context, err error) (string, error) {
	if err != nil {
		return "", err
	}
	select {
	case <-f.done:
		return f.token.value, f.err
	case <-ctx.Done():
		return "", waited(ctx, opToken, "the token service takes too long")
	}
}

// waited is the error of a wait that ctx has ended.
func waited(ctx context.Context, op, text string) error {
	return &fault.Error{Op: op, Code: proxy.CodeTimeout, Scope: fault.Account, Remedy: fault.Wait, Text: text, Err: context.Cause(ctx)}
}

// begin joins the present fetch, or begins one. After a failed fetch it returns the failure until the next one is due.
func (t *tokens) begin() (*flight, error) {
	if t.flight != nil {
		return t.flight, nil
	}
	if t.closed {
		return nil, errClosed
	}
	if left := time.Until(t.next); left > 0 && t.failure != nil {
		again := *t.failure
		again.After = left
		return nil, &again
	}
	f := &flight{done: make(chan struct{})}
	t.flight = f
	t.work.Go(func() { t.fly(f) })
	return f, nil
}

// fly fetches a token, independently of the contexts of the callers.
func (t *tokens) fly(f *flight) {
	ctx, cancel := context.WithTimeout(t.ctx, tokenTimeout)
	defer cancel()
	got, err := t.fetch(ctx)
	now := time.Now()
	if err == nil && !got.live(now) {
		err = &fault.Error{Op: opToken, Code: "expired", Scope: fault.Account, Remedy: fault.Wait,
			Text: "the token service returned a token that has already expired"}
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.current, t.failure, t.failures, t.next = got, nil, 0, time.Time{}
		f.token = got
		t.renewAt(renewalOf(got, now))
	} else {
		t.failure = fault.Of(err)
		t.failures++
		pause := pauseAfter(t.failure, t.failures)
		t.next = now.Add(pause)
		if t.failure.After == 0 {
			failure := *t.failure
			failure.After = pause
			t.failure = &failure
		}
		f.err = t.failure
		if t.next.Before(t.current.expires) {
			t.renewAt(t.next)
		}
	}
	t.flight = nil
	close(f.done)
}

// renewAt sets when the next token is fetched. If the token expires first, the next caller fetches one.
func (t *tokens) renewAt(at time.Time) {
	if t.closed {
		return
	}
	if t.renewal != nil {
		t.renewal.Stop()
	}
	t.renewal = time.AfterFunc(time.Until(at), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		_, _ = t.begin() // if it is too early or too late, the next caller begins it
	})
}

// renewalOf returns when the next token is fetched.
func renewalOf(t token, now time.Time) time.Time {
	share := t.expires.Sub(now) / renewShare
	at := t.expires.Add(-min(renewBefore+rand.N(renewSpread), share))
	if !t.renew.IsZero() && t.renew.Before(at) {
		at = t.renew
	}
	if soonest := now.Add(share); at.Before(soonest) {
		at = soonest
	}
	return at
}

// pauseAfter is how long no token is fetched after so many failures in a row, the last of which is e.
func pauseAfter(e *fault.Error, failures int) time.Duration {
	asked := min(e.After, maxRetryAfter)
	if e.Remedy == fault.Fix {
		return backoff.Jitter(max(fixRetry, asked))
	}
	return tokenRetries.Wait(failures, asked)
}

// String hides the token when it is printed.
func (t token) String() string {
	return fmt.Sprintf("token until %s", t.expires.UTC().Format(time.RFC3339))
}

// GoString keeps the token out of %#v.
func (t token) GoString() string { return t.String() }
