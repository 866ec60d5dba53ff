package auth

// The limit on failed sign-ins: an account that a directory has locked is away for everyone who uses it, and a program that tries a
// wrong password for thousands of mailboxes locks it within a second.

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// maxRefusals in a row is how often a password is refused before it is held: Active Directory usually locks an account at 5 to 10
	// within 10 to 30 minutes, and somebody else may have used some of them up.
	maxRefusals = 3
	// holdFor is how long a password is held then: a directory that was away for a moment, and refused a right one, costs no more. One
	// that has worked is held no longer later on: Active Directory does not count the passwords before the current one.
	holdFor = 5 * time.Minute
	// holdOn is between the tries of one that has never worked, from then on. Active Directory forgets failures only where none was added for as long as its
	// observation window, of 30 minutes at most as a rule: tries that follow each other more closely add up to every threshold. So
	// the most that it ever counts is maxRefusals and one.
	holdOn = 31 * time.Minute
)

// CodeHeld is the fault.Error.Code of a request that was not sent, as its account's password was refused too often.
const CodeHeld = "sign-in held"

// signIn is how a try to sign in ended.
type signIn uint8

const (
	unanswered signIn = iota // nothing was said about the password
	accepted
	refused
)

// lockout counts the failed sign-ins of one account; all that sign in with it share one. A nil *lockout holds nobody.
//
// While the password is not known to be right, one try at a time goes out and the others wait for what becomes of it; once it has
// worked, all go. Those that are under way when a password that worked is changed are all refused; Active Directory does not count
// a sign-in with the password before the current one.
type lockout struct {
	mu     sync.Mutex
	works  bool          // the last answer was a yes
	proven bool          // one was
	failed int           // refusals since the last yes
	next   time.Time     // not before this; zero until failed has reached maxRefusals
	trying chan struct{} // closed when the one try is over; nil: there is none
}

// enter waits, until ctx ends, for leave to try to sign in. Whoever gets it calls the function once when the answer is there, which is
// before the answer's body is read. The error is a *fault.Error, with CodeHeld unless ctx has ended.
func (l *lockout) enter(ctx context.Context) (done func(signIn), err error) {
	if l == nil {
		return func(signIn) {}, nil
	}
	for {
		done, wait, err := l.try()
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

// try is enter without waiting: wait is closed when it is worth another try.
func (l *lockout) try() (done func(signIn), wait <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.works {
		return func(s signIn) { l.leave(s, nil) }, nil, nil
	}
	if left := time.Until(l.next); left > 0 {
		return nil, nil, &fault.Error{Op: opSignIn, Code: CodeHeld, Scope: fault.Account, Remedy: fault.Wait, After: left,
			Text: fmt.Sprintf("user name or password were refused %d times in a row; so that the account is not locked out, they are tried again in %s",
				l.failed, max(left.Round(time.Second), time.Second))}
	}
	if l.trying != nil {
		return nil, l.trying, nil
	}
	trying := make(chan struct{})
	l.trying = trying
	return func(s signIn) { l.leave(s, trying) }, nil, nil
}

// leave takes in how a try ended; trying is that of the one try, or nil.
func (l *lockout) leave(s signIn, trying chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s {
	case accepted:
		l.works, l.proven, l.failed, l.next = true, true, 0, time.Time{}
	case refused:
		l.works = false
		l.failed++
	}
	// Refusals of what was under way when the hold began do not prolong it. A try that was not answered may have been counted over there.
	if now := time.Now(); l.failed >= maxRefusals && !now.Before(l.next) {
		hold := holdFor
		if s == refused && !l.proven && !l.next.IsZero() {
			hold = holdOn
		}
		l.next = now.Add(hold)
	}
	if trying != nil {
		l.trying = nil
		close(trying)
	}
}

// signInOf tells from the answer to a request, nil where there is none, how its sign-in ended.
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

// worked reports whether an answer shows that a credential is accepted. EWS answers 500 to a request that it has understood and refuses.
// A redirect or a server that is away has perhaps not looked at it, and 403 is no reason to give up a credential that perhaps has more
// rights. Nor says a page for people anything: a company's web site, where Autodiscover asks first, shows one to whoever comes.
func worked(resp *http.Response) bool {
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "text/html" || media == "application/xhtml+xml" {
		return false
	}
	return resp.StatusCode < http.StatusMultipleChoices || resp.StatusCode == http.StatusInternalServerError
}
