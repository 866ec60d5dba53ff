package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/subscriptions"
)

// The errors of the API.
var (
	errNotJSON      = newProblem("not_json", "the body is not JSON: want one object, in UTF-8, and nothing behind it")
	errTwice        = newProblem("field_twice", "the body names a field twice")
	errQuery        = newProblem("wrong_query", "the query cannot be read: want name=value pairs, percent-encoded")
	errBroken       = newProblem("body_cut_off", "the body ended early")
	errNoToken      = newProblem("no_token", "a bearer token is needed")
	errBadToken     = newProblem("wrong_token", "the bearer token is not that of a client in the configuration")
	errForbidden    = newProblem("role_not_allowed", "the role of this client does not allow it")
	errNoPath       = newProblem("no_path", "there is nothing at this path; /openapi.yaml lists what there is")
	errNoDevice     = newProblem("no_device", "there is no device with this id: never enrolled, removed, taken over by another id, or declared gone by APNs")
	errNoMailbox    = newProblem("no_mailbox", "no device is enrolled for this address")
	errMethod       = newProblem("wrong_method", "the Allow header lists the methods of this path")
	errTooLarge     = newProblem("body_too_large", "the body is larger than 64 KiB")
	errContentType  = newProblem("wrong_content_type", "want Content-Type: application/json")
	errPanic        = newProblem("defect", "a defect in mailbell; its log says where")
	errTooManyTests = newProblem("tested_too_soon", "a device is tested once in ten seconds")
	errState        = newProblem("state_store_away", "the state store did not take it: try again")
)

// invalid is the answer to fields that are wrong.
func invalid(errs ...FieldError) *Problem {
	p := newProblem("wrong_fields", "one field is wrong: errors says which")
	if len(errs) > 1 {
		p.Detail = "several fields are wrong: errors says which"
	}
	p.Errors = errs
	return p
}

func (p *Problem) write(w http.ResponseWriter) {
	if p.authenticate != "" {
		w.Header().Set("WWW-Authenticate", p.authenticate)
	}
	if p.retryAfter != "" {
		w.Header().Set("Retry-After", p.retryAfter)
	}
	write(w, p.Status, "application/problem+json", p)
}

// fail answers with an error. An unknown error is one of the state store.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p == errState {
		a.Log.Error("a request failed", zap.String("method", r.Method), zap.String("request_id", r.Header.Get(requestID)),
			zap.Bool("timeout", errors.Is(err, context.DeadlineExceeded)), zap.Error(err))
	}
	p.write(w)
}

// problemOf is the problem with which an error is answered; errState where it is none of the request's.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if f, ok := errors.AsType[*subscriptions.FieldError](err); ok {
		return invalid(FieldError{Field: f.Field, Code: f.Code, Detail: f.Detail})
	}
	return errState
}

// write sends a body as JSON; nil is none.
func write(w http.ResponseWriter, status int, kind string, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // one of our types cannot be JSON: a defect, which guarded answers
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}
