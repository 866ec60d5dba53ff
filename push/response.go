package push

// This file is what an attempt came to, for whoever made it.

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/proxy"
	"github.com/sideshow/apns2"
)

// response is what an attempt came to: the answer of APNs, or why there is none.
type response struct {
	status     int            // 0: no answer came
	reason     outcome.Reason // of APNs; empty where it gave none. Without an answer: that of a GOAWAY, or NotSendable where no request could be made
	foreign    bool           // the answer is not in Apple's form: something between here and APNs answered in its place
	gone       time.Time      // of a 410: when APNs last found the token to be gone
	retryAfter time.Duration
	replacedIn time.Duration // until its connection is replaced; 0: it is not to be, or it is time
	err        error         // why no answer came

	access  *access // that the request went by
	bearer  string  // the provider token that went with it; empty: none, but a certificate
	written bool    // it left: where no answer came, APNs may have accepted it all the same
}

// isUnanswered says whether nothing is known but err.
func (r response) isUnanswered() bool { return r.status == 0 && r.reason == "" }

// isOurs says whether it was mailbell itself that did not let the attempt begin, so that nothing new is known of APNs.
func (r response) isOurs() bool {
	return errors.Is(r.err, errMayNot) || errors.Is(r.err, errNotHeld) || errors.Is(r.err, errShut)
}

// rule is what the response asks for.
func (r response) rule() rule {
	if r.foreign {
		return unknown
	}
	return ruleFor(r.status, r.reason)
}

// why is the reason of an answer that is no acceptance; there is always one.
func (r response) why() outcome.Reason { return cmp.Or(r.reason, outcome.Other) }

// fault types what came back instead of an acceptance; nil: it was accepted. Its code is the reason of APNs, "HTTP 503", or one of
// proxy's.
func (r response) fault() error {
	const op = "APNs"
	switch {
	case r.status == http.StatusOK && !r.foreign:
		return nil
	case errors.Is(r.err, errClosed):
		return &fault.Error{Op: op, Code: "closed", Scope: fault.Server, Remedy: fault.Wait, Text: "mailbell is stopping"}
	case r.reason == outcome.NotSendable:
		return &fault.Error{Op: op, Code: string(r.reason), Scope: fault.Message, Remedy: fault.GiveUp, Text: r.reason.Sentence()}
	case r.isUnanswered():
		if said, ok := errors.AsType[*goneAway](r.err); ok {
			return said.fault()
		}
		return proxy.Explain(op, r.err).From(fault.APNs)
	}
	code, text := string(r.reason), r.why().Sentence()
	if r.why() == outcome.Other {
		code = "HTTP " + strconv.Itoa(r.status)
	}
	if r.foreign {
		text = inItsPlace
	}
	scope, remedy := r.rule().reaction.fault()
	return &fault.Error{Op: op, Code: code, Text: text, Scope: scope, Remedy: remedy, Evidence: fault.Evidence{Peer: fault.APNs, Status: r.status}}
}

// inItsPlace explains an answer that is not in Apple's form.
const inItsPlace = "something between here and APNs answers in its place: the answer has none of Apple's reasons. It is tried again"

// refusal is what a response to a probe says against the credential, or the way to APNs; nil: the answer that shows that both are
// good, which is BadDeviceToken.
func (r response) refusal() error {
	if r.reason == apns2.ReasonBadDeviceToken {
		return nil
	}
	return r.fault()
}

// goneAway is a request that was not answered, because APNs ended the connection and said why: in the debug data of its GOAWAY frame.
type goneAway struct {
	reason outcome.Reason
	err    error // of h2; nil: there was no request
}

func (e *goneAway) Error() string { return "APNs ended the connection: " + string(e.reason) }
func (e *goneAway) Unwrap() error { return e.err }

// fault types it as an answer with this reason.
func (e *goneAway) fault() *fault.Error {
	code := string(e.reason)
	if e.reason == outcome.Other {
		code = "GOAWAY"
	}
	scope, remedy := ruleFor(0, e.reason).reaction.fault()
	return &fault.Error{Op: "APNs", Code: code, Text: e.reason.Sentence(), Scope: scope, Remedy: remedy, Evidence: fault.Evidence{Peer: fault.APNs}}
}
