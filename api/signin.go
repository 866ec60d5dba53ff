package api

// Failed sign-ins are counted, told to the audit log once a minute for each client address, and answered slowly. A valid token is answered at once, also
// from an address from which others guess tokens.

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/pause"
)

const (
	// failureBurst wrong tokens of an address are answered at once: a program that was given a wrong one learns of it.
	failureBurst = 5
	// failureRate is how many a second are answered from then on, over all connections from that address.
	failureRate = 2
	// maxFailureWait bounds the wait for an answer, well within the bounds of a connection. A client that opens more connections waits as long
	// on each of them.
	maxFailureWait = 3 * time.Second
	// maxAddresses bounds the addresses that are counted separately; all others count as one.
	maxAddresses = 1000
	// failuresEvery is the time between two log lines about one address.
	failuresEvery = time.Minute
	// clientPrefix is the part of an IPv6 address that identifies a client: a client usually has a network of this size.
	clientPrefix = 64
)

// failedSignIns are the failed sign-ins of all clients.
type failedSignIns struct {
	audit   *audit.Log
	counter *prometheus.CounterVec // by reason

	mu     sync.Mutex
	known  map[netip.Addr]*clientFailures
	timer  *time.Timer // of the next lines; nil: there is nothing to log
	closed bool
}

// clientFailures are those of one client address. The zero address stands for those beyond maxAddresses.
type clientFailures struct {
	limit     *rate.Limiter
	count     int    // since the last line
	forwarded string // the client of the newest, as a proxy names it; empty: none named
}

func newFailedSignIns(to *audit.Log, metrics prometheus.Registerer) *failedSignIns {
	s := &failedSignIns{audit: to, known: map[netip.Addr]*clientFailures{}, counter: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mailbell_api_sign_ins_failed_total", Help: "Requests that were refused with 401, by reason: no token, a wrong one, a wrong certificate, or (with 403) a wrong signature of a phone, or a person whom the OpenID provider did not sign in.",
	}, []string{"reason"})}
	for _, reason := range []string{reasonNoToken, reasonWrongToken, reasonWrongCertificate, reasonWrongSignature, reasonNotByProvider} {
		s.counter.WithLabelValues(reason)
	}
	metrics.MustRegister(s.counter)
	return s
}

// The reasons of a failed sign-in, in the metric.
const (
	reasonNoToken    = "no_token"
	reasonWrongToken = "wrong_token"

	reasonWrongCertificate = codeWrongCertificate
	reasonWrongSignature   = "wrong_signature"
	reasonNotByProvider    = "not_by_provider"
)

// signIn finds the caller of a request, and lets it through unless it sends too many. It delays the answer to a wrong token or
// certificate.
func (a *API) signIn(r *http.Request) (caller, error) {
	who, err := a.authenticate(r)
	switch {
	case errors.Is(err, errBadToken):
		a.failed.counter.WithLabelValues(reasonWrongToken).Inc()
		pause.For(r.Context(), a.failed.note(clientAddress(r), forwardedFor(r)))
	case errors.Is(err, errNoToken):
		a.failed.counter.WithLabelValues(reasonNoToken).Inc()
	case errors.Is(err, errVerifying): // nothing is wrong
	case err != nil:
		a.failed.counter.WithLabelValues(reasonWrongCertificate).Inc()
		pause.For(r.Context(), a.failed.note(clientAddress(r), forwardedFor(r)))
	default:
		err = a.admit(who)
	}
	return who, err
}

// clientAddress is the address that the connection of a request comes from, which is a proxy's if there is one in front of mailbell. A
// header about the client behind it could be forged.
func clientAddress(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		network, err := a.Prefix(clientPrefix)
		if err != nil {
			return netip.Addr{}
		}
		return network.Addr()
	}
	return a
}

// forwardedFor is the client of a request as a proxy in front of mailbell names it: the address that was added last. It is for the log
// only; empty: none.
func forwardedFor(r *http.Request) string {
	lines := r.Header.Values("X-Forwarded-For")
	if len(lines) == 0 {
		return ""
	}
	last := lines[len(lines)-1]
	a, err := netip.ParseAddr(strings.TrimSpace(last[strings.LastIndex(last, ",")+1:]))
	if err != nil {
		return ""
	}
	return a.Unmap().WithZone("").String()
}

// note counts a wrong token, and returns how long the answer is delayed.
func (s *failedSignIns) note(from netip.Addr, forwarded string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known[from]
	if known == nil && len(s.known) >= maxAddresses {
		from = netip.Addr{}
		known = s.known[from]
	}
	if known == nil {
		known = &clientFailures{limit: rate.NewLimiter(failureRate, failureBurst), count: 1, forwarded: forwarded}
		s.known[from] = known
		s.tell(from, known)
	} else {
		known.count++
		known.forwarded = forwarded
	}
	if s.timer == nil && !s.closed {
		s.timer = time.AfterFunc(failuresEvery, s.tellAll)
	}
	turn := known.limit.Reserve()
	wait := turn.Delay()
	if wait > maxFailureWait {
		turn.Cancel()
		return maxFailureWait
	}
	return wait
}

// tell logs how often a wrong token came from an address since the last line. The mutex is held.
func (s *failedSignIns) tell(from netip.Addr, known *clientFailures) {
	address := "others"
	if from.IsValid() {
		address = from.String()
	}
	s.audit.Record(audit.Event{Action: audit.SignInRefused, Outcome: audit.Refused, Address: address, Forwarded: known.forwarded, Times: known.count})
	known.count = 0
}

// tellAll logs the failures of the last minute, and forgets the addresses without one.
func (s *failedSignIns) tellAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	if s.closed {
		return
	}
	for from, known := range s.known {
		if known.count == 0 {
			delete(s.known, from)
			continue
		}
		s.tell(from, known)
	}
	if len(s.known) > 0 {
		s.timer = time.AfterFunc(failuresEvery, s.tellAll)
	}
}

// close ends the logging.
func (s *failedSignIns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
