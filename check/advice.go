package check

// How a breakage is recognised: by the evidence that an error carries (internal/fault), never by its text. What there is to recognise stands in
// breakages.go.

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/proxy"
)

// Breakage is one thing that goes wrong in practice.
type Breakage struct {
	Name string // what is wrong: "the client secret has expired"
	See  string // how it shows: codes, statuses, words
	Do   string // its remedy
	when evidence
}

// Circumstances say where an error was met. An empty field is unknown, or does not matter.
type Circumstances struct {
	Step   string // of an alert, or the name of a check
	Online bool   // at Exchange Online
	Method string // the authentication method of the listener account
}

// StepState is the check of the state.
const StepState = "state"

// StepProxy is the name of the check of the proxy.
const StepProxy = "proxy"

// StepListen is the check of an address that mailbell listens on.
const StepListen = "listen"

// StepWebhook is the posting of an event to a webhook, by a check or by the service.
const StepWebhook = "webhook"

// evidence is how a breakage is recognised: every field that is set has to match.
type evidence struct {
	codes   []string       // one of them is the fault's code
	family  string         // the code begins with it
	peers   []fault.Peer   // it is an answer, or the silence, of one of them
	details []fault.Detail // one of them is what exactly is wrong
	steps   []string       // it was met at one of them
	methods []string       // with an account of one of these authentication methods
	where   site
	is      error    // it wraps this one
	redis   []string // the first word of an error of Redis is one of them
	net     bool     // it is one of a connection
	remedy  fault.Remedy
}

// site is where Exchange is.
type site uint8

const (
	anywhere site = iota
	online
	onPremises
)

func (e *evidence) fits(err error, f *fault.Error, c Circumstances) bool {
	return (e.codes == nil || slices.Contains(e.codes, f.Code)) &&
		strings.HasPrefix(f.Code, e.family) &&
		(e.peers == nil || slices.Contains(e.peers, f.Peer)) &&
		(e.details == nil || slices.Contains(e.details, f.Detail)) &&
		(e.steps == nil || slices.Contains(e.steps, c.Step)) &&
		(e.methods == nil || slices.Contains(e.methods, c.Method)) &&
		(e.where == anywhere || (e.where == online) == c.Online) &&
		(e.is == nil || errors.Is(err, e.is)) &&
		(e.redis == nil || slices.Contains(e.redis, redisCode(err))) &&
		(!e.net || ofConnection(err)) &&
		(e.remedy == 0 || e.remedy == f.Remedy)
}

// redisCode is the first word of an error of Redis, which is its code: WRONGPASS, READONLY; empty: it is none. The client's library marks
// them by a method.
func redisCode(err error) string {
	said, ok := errors.AsType[interface {
		error
		RedisError()
	}](err)
	if !ok {
		return ""
	}
	code, _, _ := strings.Cut(said.Error(), " ")
	return code
}

// ofConnection says whether an error is one of a connection: it was not had, broke, or nothing came in time.
func ofConnection(err error) bool {
	if e, ok := errors.AsType[net.Error](err); ok { // those of DNS and of dials among them
		_, ofFile := e.(syscall.Errno) // a number of the system satisfies net.Error by itself; of a connection it is within a *net.OpError
		return !ofFile
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) || proxy.OfTLS(err)
}

// Breakages returns the table. If several lines match an error, the first one counts. The last lines match every error.
func Breakages() []Breakage { return slices.Clone(breakages) }

// Advise names what is wrong and what to do about it.
func Advise(err error, c Circumstances) Breakage {
	f := fault.Of(err)
	for i := range breakages {
		if breakages[i].when.fits(err, f, c) {
			return breakages[i]
		}
	}
	return Breakage{Name: "unknown", Do: lookAtTheLog}
}

// Explain is the advice about a reason for which an alert was not accepted; empty: its sentence says all.
func Explain(r outcome.Reason) string {
	if r == "" {
		return ""
	}
	b := Advise(&fault.Error{Code: string(r), Remedy: fault.GiveUp}, Circumstances{})
	if !b.Specific() {
		return ""
	}
	return b.Do
}

// Specific says whether a breakage is more than one of the last lines, which fit whatever the others do not.
func (b Breakage) Specific() bool {
	return b.when.codes != nil || b.when.family != "" || b.when.peers != nil || b.when.details != nil || b.when.is != nil || b.when.redis != nil || b.when.steps != nil
}
