package push

// This file is one APNs host with one credential, and whether anything can be rung through it.
//
// While it answers, alerts go through. When it does not, those under way are held and tried again (ring.go), for seconds. When it
// has not answered for some seconds more, or refuses the credential, it is shut: what comes then is turned away at once, so that a day
// without APNs costs no memory, and a probe goes on asking. It opens with the first answer, and says so.

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// awayAfter is how long nothing may be answered before further alerts are turned away.
	awayAfter = 5 * time.Second
	// outage is the least time without an answer after which the next answer wakes all that is held. What fails now and then,
	// while other alerts go through, keeps its own pace.
	outage = 200 * time.Millisecond
	// probeBase and probeMax bound the pauses between probes of an APNs that answers with faults; where it cannot be reached
	// at all, the back-off of the connections sets the pace.
	probeBase = time.Second
	probeMax  = time.Minute
	// probeRefused is the pause between probes of a credential that was refused: it takes a person to mend it.
	probeRefused = time.Minute
)

// The reasons for which a gateway is shut, as answers name them.
const (
	reasonAway        = "topic_away"  // APNs cannot be reached, or answers with faults only
	reasonCredentials = "credentials" // APNs refuses the key or certificate
)

// probeToken names no device: every token has 64 digits or more. APNs looks at the credential first and then refuses this one,
// which tells all that a probe wants to know and rings nowhere.
const probeToken = "00"

// name of a topic in an environment, as devices are enrolled for it.
type name struct{ topic, environment string }

// elsewhere is the same topic in the other environment.
func (n name) elsewhere() name {
	if n.environment == production {
		return name{n.topic, sandbox}
	}
	return name{n.topic, production}
}

// gateway is one APNs host with one credential.
type gateway struct {
	url         string
	access      atomic.Pointer[access] // by which alerts go out
	connections int                    // at most
	topics      []name
	ready       Readiness
	log         *zap.Logger
	metrics     *metrics
	guard       guard
	life        context.Context             // of the sender
	run         func(func(context.Context)) // runs a goroutine that the sender owns

	mu          sync.Mutex
	offered     *access       // a new one that has to prove itself; nil: none
	under       int           // alerts under way
	failing     time.Time     // since when nothing was answered, while something was tried; zero: it answers
	unreachable bool          // there is no connection, and the last one was not had or answered nothing
	shut        string        // why nothing is let in; empty: open
	recovered   chan struct{} // closed when it answers again
}

// enter lets an alert in, or says why not. An alert that was let in calls leave.
func (g *gateway) enter() (refused string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// Without another alert that fails there is no telling whether it is away still: this one finds out.
	if g.shut == "" && !g.failing.IsZero() && time.Since(g.failing) > awayAfter && (g.under > 0 || g.unreachable) {
		g.shutLocked(reasonAway, "APNs does not answer")
	}
	if g.shut == "" {
		g.under++
	}
	return g.shut
}

func (g *gateway) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.under--; g.under == 0 && g.shut == "" && !g.unreachable {
		g.failing = time.Time{} // nobody is trying any more
	}
}

// failed notes that an attempt came to nothing.
func (g *gateway) failed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failing.IsZero() {
		g.failing = time.Now()
	}
}

// giveUp is failed for an alert that was held for as long as one may be: nothing else is let in to be held as long.
func (g *gateway) giveUp() (reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == "" && !g.failing.IsZero() && time.Since(g.failing) > awayAfter {
		g.shutLocked(reasonAway, "APNs does not answer")
	}
	return g.shut
}

// close shuts the gateway because its credential is refused. It reports whether it did: what was refused may have been replaced
// meanwhile.
func (g *gateway) close(refused *access, text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !refused.serves() {
		return false
	}
	g.shutLocked(reasonCredentials, text)
	return true
}

// offer gives a new credential the chance to prove itself; one that was offered before and has not yet is forgotten.
func (g *gateway) offer(a *access) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.offered != nil {
		g.offered.stop()
	}
	if g.offered = a; a != nil {
		a.start()
		g.run(func(context.Context) { a.prove() })
	}
}

// take has alerts go out by a credential that has worked, unless another was offered meanwhile.
func (g *gateway) take(a *access) {
	g.mu.Lock()
	if g.offered != a {
		g.mu.Unlock()
		return
	}
	old := g.access.Swap(a)
	g.offered, g.unreachable = nil, false
	g.mu.Unlock()
	old.leave()
	g.log.Info("alerts go out with a new credential", a.credential.name())
	g.worked()
}

func (g *gateway) shutLocked(reason, text string) {
	if g.shut == reason {
		return
	}
	probing := g.shut != ""
	g.shut = reason
	g.log.Error("nothing can be rung", g.access.Load().credential.name(), zap.String("reason", reason), zap.String("because", text))
	if !probing {
		g.run(g.probe)
	}
}

// worked notes an answer that shows that APNs does its work.
func (g *gateway) worked() {
	g.mu.Lock()
	if g.failing.IsZero() && g.shut == "" {
		g.mu.Unlock()
		return
	}
	opened := g.shut != ""
	if opened || time.Since(g.failing) >= outage {
		close(g.recovered)
		g.recovered = make(chan struct{})
	}
	g.failing, g.shut = time.Time{}, ""
	g.mu.Unlock()
	if opened {
		g.log.Info("alerts are rung again")
		for _, n := range g.topics {
			g.ready.TopicReady(n.topic, n.environment)
		}
	}
}

// state returns why the gateway is shut, and what is closed when it answers again.
func (g *gateway) state() (shut string, recovered <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut, g.recovered
}

// admitted is asked directly before an alert goes out: none is sent with a credential that was refused.
func (g *gateway) admitted() error {
	if shut, _ := g.state(); shut == reasonCredentials {
		return errShut
	}
	return nil
}

var errShut = errors.New("the credential is refused")

func always() error { return nil }

// probe asks until APNs answers again.
func (g *gateway) probe(ctx context.Context) {
	for n := 0; ; n++ {
		shut, recovered := g.state()
		if shut == "" {
			return
		}
		wait := min(probeBase<<min(n, 10), probeMax)
		if n == 0 {
			wait = 0
		}
		if shut == reasonCredentials {
			wait = probeRefused
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		case <-recovered:
			return
		case <-ctx.Done():
			return
		}
		out := g.attempt(ctx, probeOf(g.topics[0].topic), always)
		if out.status == 0 {
			continue
		}
		switch m := meaningOf(out.status, out.reason); m.does {
		case finish, shrink, slowDown, elsewhere:
			g.worked()
			return
		case hold:
			g.close(out.access, m.text)
		case renew:
			out.access.credential.renew(out.bearer)
		case keepToken:
			out.access.credential.keep()
		}
	}
}

// reached notes that there is a connection.
func (g *gateway) reached() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unreachable = false
	if g.under == 0 && g.shut == "" {
		g.failing = time.Time{}
	}
}

// cutOff notes that there is no connection, or none that answers. With a certificate that has expired there will be none.
func (g *gateway) cutOff(c *credential) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unreachable = true
	if expired := c.expires(); !expired.IsZero() && expired.Before(time.Now()) {
		g.shutLocked(reasonCredentials, "the certificate expired on "+expired.UTC().Format(time.DateOnly))
	}
	if g.failing.IsZero() {
		g.failing = time.Now()
	}
}
