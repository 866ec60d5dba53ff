package auth

// The limit on failed sign-ins. If the directory locks an account, nobody can use it, and a program that tries a wrong password for
// thousands of mailboxes causes that within a second.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/webpage"
)

const (
	maxRefusals = credential.MaxRefusals
	// firstPause is also every later pause for a password that has worked: Active Directory does not count sign-ins with a former password.
	firstPause = credential.FirstPause
	laterPause = credential.LaterPause
	// slowTry is after how long without an answer another request tries the password too. A directory refuses within a second, so that one
	// waits for what was asked: for a mailbox whose store hangs, all the others must not wait.
	slowTry = 3 * time.Second
)

// CodeHeld is the fault.Error.Code of a request that was not sent, because the account's password was refused too often.
const CodeHeld = "sign-in held"

// signIn is the result of a try to sign in.
type signIn uint8

const (
	unanswered signIn = iota // the answer says nothing about the password
	accepted
	refused
)

// lockout counts the failed sign-ins of one account; all round trippers of the account share it. A nil *lockout has no limit.
//
// Until the password has worked, one request at a time tries it, and the others wait for the result, but not longer than slowTry while all
// that are under way can be refused without a pause. Once it has worked, all requests are sent. When it is then changed, the server refuses
// all open requests; Active Directory does not count sign-ins with the former password.
type lockout struct {
	mu     sync.Mutex
	works  bool           // the last answer was that it is right
	proven bool           // one answer was
	failed int            // refusals since then
	places map[string]int // that refused it since then, and how often
	next   time.Time      // not before this; zero until failed has reached maxRefusals
	tries  int            // under way
	trying chan struct{}  // closed when another may try; nil: one may
}

// enter waits, until ctx ends, until the caller may try to sign in. The caller then calls the returned function once, when the answer has
// arrived and before its body is read. The error is a *fault.Error, with CodeHeld unless ctx has ended.
func (l *lockout) enter(ctx context.Context) (done func(signIn), err error) {
	return l.enterAt(ctx, "")
}

// enterAt is enter for a sign-in at a place: a mailbox, or a service beside EWS. Where the password has worked, a place that refuses it
// again and again counts once: that is not what a changed password looks like, and must not hold back the others.
func (l *lockout) enterAt(ctx context.Context, place string) (done func(signIn), err error) {
	if l == nil {
		return func(signIn) {}, nil
	}
	for {
		done, wait, err := l.try(place)
		if wait == nil {
			return done, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, waited(ctx, opSignIn, "the account's first sign-in takes too long")
		}
	}
}

// try is enter without waiting: wait is closed when the caller should call again.
func (l *lockout) try(place string) (done func(signIn), wait <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.works {
		return func(s signIn) { l.leave(place, s, nil) }, nil, nil
	}
	if left := time.Until(l.next); left > 0 {
		return nil, nil, &fault.Error{Op: opSignIn, Code: CodeHeld, Scope: fault.Account, Remedy: fault.Wait, After: left,
			Text: fmt.Sprintf("the server refused user name or password %d times in a row; mailbell tries them again in %s, so that the directory does not lock the account",
				l.failed, max(left.Round(time.Second), time.Second))}
	}
	if l.trying != nil {
		return nil, l.trying, nil
	}
	l.tries++
	l.trying = make(chan struct{})
	slow := time.AfterFunc(slowTry, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.another()
	})
	return func(s signIn) { l.leave(place, s, slow) }, nil, nil
}

// leave notes the result of a try; slow is the timer of one before the password has worked, else nil.
func (l *lockout) leave(place string, s signIn, slow *time.Timer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s {
	case accepted:
		l.works, l.proven, l.failed, l.places, l.next = true, true, 0, nil, time.Time{}
	case refused:
		l.works = false
		if l.places == nil {
			l.places = map[string]int{}
		}
		l.places[place]++
		if !l.proven || place == "" || l.places[place]%maxRefusals == 1 {
			l.failed++
		}
	}
	// A refusal of a request that was open when the pause began does not prolong it. The directory may have counted a try without an answer.
	if now := time.Now(); l.failed >= maxRefusals && !now.Before(l.next) {
		hold := firstPause
		if s == refused && !l.proven && !l.next.IsZero() {
			hold = laterPause
		}
		l.next = now.Add(hold)
	}
	if slow != nil {
		slow.Stop()
		l.tries--
	}
	if slow != nil || l.works {
		l.another()
	}
}

// another lets another request try, unless so many are under way that the directory could count more than maxRefusals. The mutex is held.
func (l *lockout) another() {
	if l.trying != nil && (l.tries == 0 || l.works || l.failed+l.tries < maxRefusals) {
		close(l.trying)
		l.trying = nil
	}
}

// hasWorked reports whether the password was accepted once.
func (l *lockout) hasWorked() bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proven
}

// placeOf is where a request signs in: at EWS as a mailbox, else at a service, whoever it asks for.
func placeOf(req *http.Request) string {
	service, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	service = strings.ToLower(service)
	if service == "ews" {
		return service + " " + req.Header.Get("X-AnchorMailbox")
	}
	return service
}

// signInOf returns the result of the sign-in from the answer to a request; nil: there is no answer.
func signInOf(resp *http.Response) signIn {
	switch {
	case resp == nil:
		return unanswered
	case resp.StatusCode == http.StatusUnauthorized:
		return refused
	case worked(resp):
		return accepted
	}
	return unanswered
}

// worked reports whether an answer shows that the server accepted the credential. EWS answers 500 to a request that it has understood and
// refuses. A redirect, or an error of a load balancer, does not show that anybody checked the credential. After 403 the current credential
// may have more rights. An HTML page does not show it either: a company's web site, which Autodiscover asks first, sends one to anybody.
func worked(resp *http.Response) bool {
	if webpage.Is(resp.Header) {
		return false
	}
	return resp.StatusCode < http.StatusMultipleChoices || resp.StatusCode == http.StatusInternalServerError
}
