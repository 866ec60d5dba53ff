package auth

// A credential that is replaced while it is in use: the old one stays in use until the new one has worked.

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// candidateTries are the pauses between the tries of a candidate; the first try is made at once. A client secret works about a minute after
// it was created, and a password file is sometimes written before the password is changed.
var candidateTries = backoff.Policy{First: time.Minute, Max: 5 * time.Minute}

// candidateWait bounds how long a request waits for the token of a candidate before it is sent with the current credential.
const candidateWait = 3 * time.Second

// askedFor is a credential that is sent only to who asks for it: an answer may have come without it.
type askedFor interface {
	hasWorked() bool
}

// Rotating is a Credential whose inner one can be replaced. It is safe for concurrent use.
type Rotating struct {
	changed func(error)

	mu      sync.Mutex
	current *inner // nil after Close
	next    *inner // the candidate, which has not worked yet; nil: none
	closing sync.WaitGroup
}

// inner is one of the credentials. All but the first field are guarded by the mutex of its Rotating.
type inner struct {
	credential Credential
	trips      map[*rotating]http.RoundTripper // made when they are needed first
	users      int                             // round trips without an answer yet, and Prepare
	retired    bool                            // closed when the last user is gone

	trying  chan struct{} // closed when the present try ends; nil: there is none
	failed  int           // tries
	notTill time.Time     // the next try
}

// NewRotating returns a credential that is c until a candidate has worked (Offer). It calls changed with nil when the candidate has
// replaced the current credential, and with the reason when the server refuses it. changed may be called by several goroutines, and must
// not block.
func NewRotating(c Credential, changed func(error)) *Rotating {
	return &Rotating{changed: changed, current: newInner(c)}
}

func newInner(c Credential) *inner {
	return &inner{credential: c, trips: map[*rotating]http.RoundTripper{}}
}

// Offer makes c the candidate, instead of an earlier one. Later requests try it, one at a time; if it does not work, the request is sent
// with the current credential, unless that could do twice what it asks for. When the candidate has worked, it is the current credential,
// and the former one is closed; answers that are still being read are not affected. The Rotating closes c.
func (r *Rotating) Offer(c Credential) {
	r.mu.Lock()
	closed := r.current == nil
	if !closed {
		if r.next != nil {
			r.retire(r.next)
		}
		r.next = newInner(c)
	}
	r.mu.Unlock()
	if closed {
		c.Close()
	}
}

// RoundTripper implements Credential.
func (r *Rotating) RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper {
	return &rotating{Rotating: r, hosts: to, settings: s, maxConns: maxConns}
}

// Prepare implements Credential: it prepares the current credential and the candidate. It succeeds if one of them is prepared.
func (r *Rotating) Prepare(ctx context.Context) error {
	r.mu.Lock()
	current, next := r.current, r.next
	if current == nil {
		r.mu.Unlock()
		return errClosed
	}
	current.users++
	if next != nil {
		next.users++
	}
	r.mu.Unlock()
	err := current.credential.Prepare(ctx)
	r.done(current)
	if next != nil {
		if other := next.credential.Prepare(ctx); err != nil {
			err = other
		}
		r.done(next)
	}
	return err
}

// Close implements Credential. It waits for open requests, and refuses later ones.
func (r *Rotating) Close() {
	r.mu.Lock()
	for _, i := range []*inner{r.current, r.next} {
		if i != nil {
			r.retire(i)
		}
	}
	r.current, r.next = nil, nil
	r.mu.Unlock()
	r.closing.Wait()
}

// use begins a use of the current credential, nil after Close; done ends it.
func (r *Rotating) use() *inner {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		r.current.users++
	}
	return r.current
}

func (r *Rotating) done(i *inner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i.users--
	if i.users == 0 && i.retired {
		r.end(i)
	}
}

// retire closes a credential when its last use ends. The mutex is held.
func (r *Rotating) retire(i *inner) {
	if i.retired {
		return
	}
	i.retired = true
	r.closing.Add(1)
	if i.users == 0 {
		r.end(i)
	}
}

// end closes a credential in a goroutine, because Close waits for what the credential is doing. The mutex is held.
func (r *Rotating) end(i *inner) {
	trips := slices.Collect(maps.Values(i.trips))
	go func() {
		defer r.closing.Done()
		i.credential.Close()
		for _, t := range trips {
			closeIdle(t)
		}
	}()
}

// due begins a try of the candidate if one is due; nil: none is.
func (r *Rotating) due() *inner {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil || r.next.trying != nil || time.Now().Before(r.next.notTill) {
		return nil
	}
	return r.begin()
}

// begin begins a try. The mutex is held.
func (r *Rotating) begin() *inner {
	r.next.trying = make(chan struct{})
	r.next.users++
	return r.next
}

// instead finds a credential to use instead of a refused one: the one that has replaced it meanwhile, or the candidate, as a try without a
// pause; nil: neither. If a try is being made, it waits for that one and begins no other.
func (r *Rotating) instead(ctx context.Context, refused *inner) (other *inner, isTry bool) {
	for waited := false; ; waited = true {
		r.mu.Lock()
		if r.current != refused {
			r.mu.Unlock()
			return r.use(), false
		}
		if r.next == nil || waited && r.next.trying == nil {
			r.mu.Unlock()
			return nil, false
		}
		if r.next.trying == nil {
			defer r.mu.Unlock()
			return r.begin(), true
		}
		over := r.next.trying
		r.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// endTry ends a try: the candidate worked, was refused for a reason, or neither is known. The next try is not made before the time in the
// reason, because the candidate itself pauses until then.
func (r *Rotating) endTry(i *inner, worked bool, refused *fault.Error) {
	r.mu.Lock()
	now := time.Now()
	took, tell := false, false
	switch offered := r.next == i; {
	case worked && offered:
		r.retire(r.current)
		r.current, r.next = i, nil
		took = true
	case offered && !now.Before(i.notTill):
		asked := time.Duration(0)
		if refused != nil {
			tell = refused.Remedy == fault.Fix
			asked = refused.After
		}
		i.failed++
		i.notTill = now.Add(candidateTries.Wait(i.failed, asked))
	}
	close(i.trying)
	i.trying = nil
	r.mu.Unlock()
	if took {
		r.changed(nil)
	} else if tell {
		r.changed(refused)
	}
}

// rotating is a round tripper of a Rotating.
type rotating struct {
	*Rotating
	hosts    Hosts
	settings proxy.Settings
	maxConns int
}

// CloseIdleConnections closes the connections that are not in use.
func (t *rotating) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range []*inner{t.current, t.next} {
		if i != nil && i.trips[t] != nil {
			closeIdle(i.trips[t])
		}
	}
}

func closeIdle(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper. A request whose body can be read only once is sent with the current credential. A request that
// net/http would not repeat is sent again only after a sign-in that failed, or an answer that does not show that the candidate works and is
// below 500: the server has not done what it asks for. It is not sent again after any other error, not even where no connection was made.
func (t *rotating) RoundTrip(req *http.Request) (*http.Response, error) {
	tried := false
	if canRepeat(req) {
		if offered := t.due(); offered != nil {
			tried = true
			if resp, last, err := t.try(offered, req); last {
				closeBody(req)
				return resp, err
			}
		}
	}
	current := t.use()
	if current == nil {
		closeBody(req)
		return nil, errClosed
	}
	resp, err := t.send(current, req)
	if refusal(resp, err) == nil || tried || !canRepeat(req) {
		return resp, err
	}
	other, isTry := t.instead(req.Context(), current)
	if other == nil {
		return resp, err
	}
	if isTry {
		better, last, failed := t.try(other, req)
		if !last {
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
		return better, failed
	}
	if resp != nil {
		resp.Body.Close()
	}
	repeated, err := repeat(req)
	if err != nil {
		t.done(other)
		return nil, err
	}
	return t.send(other, repeated)
}

// try sends a request with the candidate. last: the request is sent no more, because the candidate has worked, or because the server may
// have done what was asked, which must not be done twice.
func (t *rotating) try(offered *inner, req *http.Request) (resp *http.Response, last bool, err error) {
	repeated, err := t.prepare(offered, req)
	if err != nil {
		t.done(offered)
		t.endTry(offered, false, refusal(nil, err))
		return nil, false, err
	}
	resp, err = t.send(offered, repeated)
	if err == nil && worked(resp) {
		asked, is := offered.credential.(askedFor)
		t.endTry(offered, !is || asked.hasWorked(), nil)
		return resp, true, nil
	}
	why := refusal(resp, err)
	t.endTry(offered, false, why)
	if why == nil && !idempotent(req) && (err != nil || resp.StatusCode >= http.StatusInternalServerError) {
		return resp, true, err
	}
	if resp != nil {
		resp.Body.Close() // at the cost of its connection: reading it may take long, and the request must not wait
	}
	return nil, false, err
}

// prepare prepares a credential, and returns a copy of the request to send with it.
func (t *rotating) prepare(offered *inner, req *http.Request) (*http.Request, error) {
	ctx, cancel := context.WithTimeout(req.Context(), candidateWait)
	defer cancel()
	if err := offered.credential.Prepare(ctx); err != nil {
		return nil, err
	}
	return repeat(req)
}

// send sends a request with a credential, and ends its use.
func (t *rotating) send(i *inner, req *http.Request) (*http.Response, error) {
	defer t.done(i)
	t.mu.Lock()
	trip := i.trips[t]
	if trip == nil {
		trip = i.credential.RoundTripper(t.hosts, t.settings, t.maxConns)
		i.trips[t] = trip
	}
	t.mu.Unlock()
	return trip.RoundTrip(req)
}

// refusal is the error of a credential that does not work; nil: it may work.
func refusal(resp *http.Response, err error) *fault.Error {
	if err == nil {
		if resp.StatusCode == http.StatusUnauthorized {
			return &fault.Error{Op: opSignIn, Code: codeRefused, Scope: fault.Account, Remedy: fault.Fix,
				Text: "the server does not accept the credential"}
		}
		return nil
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Scope == fault.Account {
		return e
	}
	return nil
}
