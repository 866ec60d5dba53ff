package auth

// The access token of one credential: fetched once however many want it, renewed in the background before it ends, and never a
// reason to wait while it lasts. MSAL does none of this: 64 calls that find no token make 64 requests, and a token service that
// is away costs each call its time.

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
	// renewBefore the end of a token, the next is fetched: time for ten tries. renewSpread is added at random, so that the
	// accounts of an installation do not all ask at once.
	renewBefore = 5 * time.Minute
	renewSpread = time.Minute
	// renewShare of its life is the longest that a token is renewed before its end: a short-lived one has no five minutes.
	// Nor is it renewed sooner than after such a part: a token service that wants to be asked again at once is not asked on and on.
	renewShare = 5
	// maxRetryAfter bounds what a token service may ask for. A mistaken number must not silence an account for days.
	maxRetryAfter = 10 * time.Minute
	// fixRetry is between the tries where a person has to do something: soon enough to see that they have.
	fixRetry = time.Minute
	// refusedPause follows when a server has refused a token that was new: others for the same are not better, and whoever asks for
	// one mailbox after the other must not make a request for a token each time.
	refusedPause = time.Minute
)

// opToken is the Op of what goes wrong with a token.
const opToken = "get a token"

// tokenRetries are between the tries of a fetch that may come right by itself.
var tokenRetries = backoff.Policy{First: time.Second, Max: time.Minute}

// token is an access token.
type token struct {
	value   string
	expires time.Time
	renew   time.Time // the token service's own word when to ask for the next; zero: none
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
	failure  *fault.Error // of the last fetch; nil: it brought a token
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
	Text: "the credential is no longer in use"}

func newTokens(fetch func(context.Context) (token, error)) *tokens {
	t := &tokens{fetch: fetch}
	t.ctx, t.end = context.WithCancel(context.Background())
	return t
}

// get returns the token, and waits only where there is none that lives.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	if t.current.live(time.Now()) {
		defer t.mu.Unlock()
		return t.current.value, nil
	}
	f, err := t.begin() //nolint:contextcheck // a fetch is not ended with one of those who wait for it
	t.mu.Unlock()
	return f.wait(ctx, err)
}

// replace returns another token than old, which a server has refused. All who come with the same old one get the same new one.
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
	f, err := t.begin() //nolint:contextcheck // a fetch is not ended with one of those who wait for it
	t.mu.Unlock()
	return f.wait(ctx, err)
}

// errRefusedNew: it is no use to fetch another token.
var errRefusedNew = errors.New("a new token was refused a moment ago")

// refused notes that a server has refused a token that was new.
func (t *tokens) refused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.suspect = time.Now().Add(refusedPause)
}

// close ends the fetch under way and waits for it.
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

// begin joins the fetch under way, or begins one. After one that failed it returns that failure until the next is due.
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

// fly fetches a token, away from the contexts of those who wait for it.
func (t *tokens) fly(f *flight) {
	ctx, cancel := context.WithTimeout(t.ctx, tokenTimeout)
	defer cancel()
	got, err := t.fetch(ctx)
	now := time.Now()
	if err == nil && !got.live(now) {
		err = &fault.Error{Op: opToken, Code: "expired", Scope: fault.Account, Remedy: fault.Wait,
			Text: "the token service gives tokens that have expired already"}
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
			told := *t.failure
			told.After = pause
			t.failure = &told
		}
		f.err = t.failure
		if t.next.Before(t.current.expires) {
			t.renewAt(t.next)
		}
	}
	t.flight = nil
	close(f.done)
}

// renewAt sets when the next token is fetched. A token that has expired is fetched again when somebody wants it.
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
		_, _ = t.begin() // where it is too early or too late, whoever wants a token begins it
	})
}

// renewalOf is when the next token is fetched.
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

// String keeps the token out of whatever is printed.
func (t token) String() string {
	return fmt.Sprintf("token until %s", t.expires.UTC().Format(time.RFC3339))
}

// GoString keeps the token out of %#v.
func (t token) GoString() string { return t.String() }
