package ews

// The pace of the calls to the servers of an exchange entry, by all its accounts together.

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"
)

// MaxInFlight bounds the calls at once where nothing else is configured: each holds a connection and a buffer. How many of these are worth
// being under way is found from the answers.
const MaxInFlight = 512

// Pace is how fast the servers of an exchange entry are called. Live mail goes first: it has places of its own, and a quarter of the rate.
type Pace struct {
	places             [purposes]*places
	rate, others, look Limiter // nil: no rate is configured
}

// NewPace returns a pace within two bounds, of calls a second and of calls at once; 0: none is configured.
func NewPace(perSecond, inFlight int) *Pace {
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
func (p *Pace) LookUps() Limiter { return lookUps{p} }

type lookUps struct{ p *Pace }

// Wait waits until a look-up may be made.
func (l lookUps) Wait(ctx context.Context) error {
	return await(ctx, "a look-up", l.p.look, l.p.others, l.p.rate)
}

// turn waits until the rate allows a call.
func (p *Pace) turn(ctx context.Context, of purpose, op string) error {
	if of == reading {
		return await(ctx, op, p.rate)
	}
	return await(ctx, op, p.others, p.rate)
}

func await(ctx context.Context, op string, limits ...Limiter) error {
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
