// Package pace is the pace of the calls to the servers of an exchange entry, by all its accounts together: how many are under way at once,
// which is found from the answers, and how many are made a second.
package pace

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// MaxInFlight bounds the calls at once where nothing else is configured: each holds a connection and a buffer. How many of these are worth
// being under way is found from the answers.
const MaxInFlight = 512

// Pace is how fast the servers of an exchange entry are called. Live mail goes first: it has places of its own, and a quarter of the rate.
type Pace struct {
	places             [purposes]*places
	rate, others, look limiter // nil: no rate is configured
}

// limiter spreads calls over time.
type limiter interface {
	Wait(ctx context.Context) error
}

// New returns a pace within two bounds, of calls a second and of calls at once; 0: none is configured.
func New(perSecond, inFlight int) *Pace {
	if inFlight <= 0 {
		inFlight = MaxInFlight
	}
	p := &Pace{places: newPlaces(inFlight)}
	if perSecond > 0 {
		p.rate = rate.NewLimiter(rate.Limit(perSecond), perSecond)
		p.others = rate.NewLimiter(rate.Limit(perSecond)*3/4, max(1, perSecond*3/4))
		p.look = rate.NewLimiter(rate.Limit(perSecond)/2, max(1, perSecond/2))
	}
	return p
}

// LookUps is the pace of the look-ups that are made besides EWS: two thirds of what live mail leaves.
func (p *Pace) LookUps() LookUps { return LookUps{p} }

// LookUps is the pace of look-ups.
type LookUps struct{ p *Pace }

// Wait waits until a look-up may be made.
func (l LookUps) Wait(ctx context.Context) error {
	return await(ctx, "a look-up", l.p.look, l.p.others, l.p.rate)
}

// Call is one call that has its place, or waits for it.
type Call struct {
	places *places
	place  *place
}

// Enter waits for a place of a call for a mailbox; one that others wait for is the first to get it. false: the mailbox hung before, and
// there is no place for such.
func (p *Pace) Enter(ctx context.Context, of Purpose, mailbox string, first bool) (Call, bool) {
	place := p.places[of].enter(ctx, mailbox, first)
	return Call{p.places[of], place}, place != nil
}

// Begin notes that the request of a call is made. Where it hangs and others wait, giveUp is called, which must end it.
func (c Call) Begin(giveUp context.CancelFunc) { c.places.begin(c.place, giveUp) }

// GivenUp says whether the call was given up for others.
func (c Call) GivenUp() bool { return c.places.wasGivenUp(c.place) }

// Began is when the request was made.
func (c Call) Began() time.Time { return c.place.began }

// Leave gives the place back, or ends the wait for it.
func (c Call) Leave(how Ending) { c.places.leave(c.place, how) }

// Hung notes that the call was not answered in time.
func (c Call) Hung() { c.places.hung(c.place.mailbox) }

// Worth is how many calls of a purpose it is worth to have under way at once, by all who share the pace.
func (p *Pace) Worth(of Purpose) int { return p.places[of].worth() }

// Turn waits until the rate allows a call. Its error is that of ctx, and says for which operation.
func (p *Pace) Turn(ctx context.Context, of Purpose, op string) error {
	if of == Reading {
		return await(ctx, op, p.rate)
	}
	return await(ctx, op, p.others, p.rate)
}

func await(ctx context.Context, op string, limits ...limiter) error {
	for _, limit := range limits {
		if limit == nil {
			continue
		}
		if err := limit.Wait(ctx); err != nil {
			return fmt.Errorf("%s: waiting for its turn: %w", op, err)
		}
	}
	return nil
}
