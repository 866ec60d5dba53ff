// Package receipts takes the receipts of phones: an app's Notification Service Extension says that iOS is showing an alert, and signs it
// with the key of its enrolment. It is the only proof that an alert came as far as the screen: the promise of APNs' acceptance ends before.
//
// Receipts are kept with the decisions that they are about. They change nothing else.
package receipts

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// MaxShown bounds the receipts of one request: as many as a summary has keys.
	MaxShown = 16
	// maxAge is how old a receipt may be: decisions about older messages are hardly ever kept.
	maxAge = 24 * time.Hour
	// A phone may send perPhone requests a second, and burst of them at once after a time without network. APNs sends it far less.
	perPhone = 1
	burst    = 60
	// sweepAt is the number of phones from which those that are not enrolled any more are looked for.
	sweepAt = 1024
)

// Shown is a receipt: when a phone showed the alert for a message.
type Shown struct {
	Key mail.Key // zero: the alert was about no message, as a test notification is
	At  time.Time
}

// Options of New; all are required.
type Options struct {
	Device func(id string) (subscriptions.Device, bool)
	// Note keeps with a decision when its alert was shown. known: there is such a decision; first: nobody said so before. One that is
	// not known yet takes a receipt along that is not older than mail.Tolerance. An error says that the state is away.
	Note    func(ctx context.Context, d subscriptions.Device, s Shown) (decision subscriptions.Decision, first, known bool, err error)
	Metrics prometheus.Registerer
}

// Receipts takes them.
type Receipts struct {
	o        Options
	stranger string // a public key
	results  *prometheus.CounterVec
	screen   prometheus.Histogram

	mu     sync.Mutex
	phones map[string]*phone // by enrolment id; of those that signed something since the start
	sweep  int               // the number of phones at which they are swept
}

// phone is what is known of one.
type phone struct {
	limit *rate.Limiter
	key   string    // that signed its newest receipt
	last  time.Time // when it showed the alert of that, on our clock; zero: none
}

// The results of receipts, in the metric.
const (
	resultShown    = "shown"
	resultRepeated = "repeated"
	resultTest     = "test"    // it is about no message
	resultEarly    = "early"   // no decision is kept that it is about, but APNs' answer may be under way
	resultUnknown  = "unknown" // likewise, and the alert is older
	resultTooOld   = "too_old"
	resultFuture   = "future"
)

// New returns what takes receipts; it remembers none.
func New(o Options) *Receipts {
	f := promauto.With(o.Metrics)
	r := &Receipts{o: o, stranger: newStranger(), phones: map[string]*phone{}, sweep: sweepAt,
		results: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_receipts_total", Help: "Receipts of phones for alerts that they showed, by what they were worth."}, []string{"result"}),
		screen: f.NewHistogram(prometheus.HistogramOpts{
			Name:                        "mailbell_screen_seconds",
			Help:                        "From when Exchange received a message, in whole seconds of its clock, to when a phone showed the alert, on the phone's clock.",
			Buckets:                     []float64{.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 3600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour}),
	}
	for _, result := range []string{resultShown, resultRepeated, resultTest, resultEarly, resultUnknown, resultTooOld, resultFuture} {
		r.results.WithLabelValues(result)
	}
	return r
}

// Signed finds the device that signed a text. false: there is no such device, it has no key, or another key signed; that takes as long.
func (r *Receipts) Signed(device string, text, signature []byte) (subscriptions.Device, bool) {
	d, ok := r.o.Device(device)
	if !ok || d.ReceiptKey == "" {
		d.ReceiptKey = r.stranger
	}
	key, err := parseKey(d.ReceiptKey)
	if err != nil || !verify(key, text, signature) {
		return subscriptions.Device{}, false
	}
	return d, true
}

// Allow takes a request of a device that signed it, or says how long it has to wait.
func (r *Receipts) Allow(device string) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	turn := r.phone(device).limit.Reserve()
	wait = turn.Delay()
	if wait > 0 {
		turn.Cancel()
	}
	return wait
}

// phone finds one, or makes it. The mutex is held.
func (r *Receipts) phone(device string) *phone {
	p := r.phones[device]
	if p != nil {
		return p
	}
	if len(r.phones) >= r.sweep {
		for id := range r.phones {
			if _, enrolled := r.o.Device(id); !enrolled {
				delete(r.phones, id)
			}
		}
		r.sweep = max(2*len(r.phones), sweepAt)
	}
	p = &phone{limit: rate.NewLimiter(perPhone, burst)}
	r.phones[device] = p
	return p
}

// Take keeps the receipts of a device that signed them. What tells nothing new changes nothing: an app may send its receipts again, and has
// to after an error.
func (r *Receipts) Take(ctx context.Context, d subscriptions.Device, list []Shown) error {
	now := time.Now()
	for _, s := range list {
		result, err := r.note(ctx, d, s, now)
		if err != nil {
			return err
		}
		r.results.WithLabelValues(result).Inc()
		if result == resultTooOld || result == resultFuture {
			continue
		}
		r.mu.Lock()
		p := r.phone(d.ID)
		if p.key != d.ReceiptKey { // the enrolment has another phone by now
			p.key, p.last = d.ReceiptKey, time.Time{}
		}
		if at := earlier(s.At, now); at.After(p.last) {
			p.last = at
		}
		r.mu.Unlock()
	}
	return nil
}

// note keeps one receipt, and says what it was worth.
func (r *Receipts) note(ctx context.Context, d subscriptions.Device, s Shown, now time.Time) (result string, err error) {
	switch {
	case now.Sub(s.At) > maxAge:
		return resultTooOld, nil
	case s.At.Sub(now) > mail.Tolerance:
		return resultFuture, nil
	case s.Key == mail.Key{}:
		return resultTest, nil
	}
	s.At = earlier(s.At, now)
	decision, first, known, err := r.o.Note(ctx, d, s)
	switch {
	case err != nil:
		return "", err
	case !known && now.Sub(s.At) <= mail.Tolerance:
		return resultEarly, nil
	case !known:
		return resultUnknown, nil
	case !first:
		return resultRepeated, nil
	}
	if !decision.Came.IsZero() {
		r.screen.Observe(max(s.At.Sub(decision.Came), 0).Seconds())
	}
	return resultShown, nil
}

// earlier is the earlier of two times: a phone whose clock is fast has shown an alert by now, and not later.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Last is when a device showed an alert for the last time, as it says; zero: it has not since the start, or since it has another key.
func (r *Receipts) Last(device string) time.Time {
	d, _ := r.o.Device(device)
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.phones[device]; p != nil && p.key == d.ReceiptKey {
		return p.last
	}
	return time.Time{}
}
