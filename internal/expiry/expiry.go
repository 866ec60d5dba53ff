// Package expiry has the dates on which secrets and certificates expire, also those of servers. It provides a metric and a list, and
// warns in the log before each date.
package expiry

import (
	"cmp"
	"context"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The kinds of entries. The credential of a listener account has its authentication method as kind.
const (
	APNsCertificate = "apns_certificate" // named by its topic
	TLS             = "tls"              // the certificate of the API
	Server          = "server"           // the first to expire of the chain that a server shows, named by its host
)

// Soon is how long before the date the first warning is.
const Soon = 30 * day

// Advice is what to do before something expires.
const Advice = "Have it renewed before that day; mailbell takes up a changed file by itself."

const (
	day = 24 * time.Hour
	// maxEntries bounds the entries, and with them the metric: a configuration has some dozens, but redirects lead to any number of hosts.
	maxEntries = 1000
	// lookAgain is the longest pause between two checks: on a machine that slept, timers run late.
	lookAgain = time.Hour
)

// thresholds are the times before the date at which the log warns, each once.
var thresholds = [...]time.Duration{Soon, 7 * day, day, 0}

// Entry is one thing that expires.
type Entry struct {
	Kind, Name string
	At         time.Time
}

// Calendar has the entries. It is a prometheus.Collector. Its methods are safe for concurrent use.
type Calendar struct {
	log     *zap.Logger
	metric  *prometheus.Desc
	changed chan struct{} // holds one signal

	mu      sync.Mutex
	entries map[[2]string]*entry // by kind and name
}

type entry struct {
	Entry
	warned int // how many of the thresholds have passed and were logged
}

// New returns an empty calendar.
func New(log *zap.Logger) *Calendar {
	return &Calendar{log: log, entries: map[[2]string]*entry{}, changed: make(chan struct{}, 1),
		metric: prometheus.NewDesc("mailbell_credential_expires_timestamp_seconds", "When a credential or certificate expires, in seconds since 1970.",
			[]string{"kind", "name"}, nil)}
}

// Set sets when something expires; the zero time removes the entry. If there are already maxEntries, a new one is ignored.
func (c *Calendar) Set(kind, name string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := [2]string{kind, name}
	e := c.entries[key]
	switch {
	case at.IsZero():
		delete(c.entries, key)
	case e == nil && len(c.entries) < maxEntries:
		c.entries[key] = &entry{Entry: Entry{kind, name, at}}
	case e == nil || e.At.Equal(at):
		return
	default:
		*e = entry{Entry: Entry{kind, name, at}}
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// List returns the entries, the earliest first.
func (c *Calendar) List() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Entry, 0, len(c.entries))
	for _, e := range c.entries {
		list = append(list, e.Entry)
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// Describe implements prometheus.Collector.
func (c *Calendar) Describe(to chan<- *prometheus.Desc) { to <- c.metric }

// Collect implements prometheus.Collector.
func (c *Calendar) Collect(to chan<- prometheus.Metric) {
	for _, e := range c.List() {
		to <- prometheus.MustNewConstMetric(c.metric, prometheus.GaugeValue, float64(e.At.Unix()), e.Kind, e.Name)
	}
}

// Run warns in the log until ctx ends: 30, 7 and 1 days before something expires, and when it has expired. It warns once of each; after a
// renewal the warnings begin again.
func (c *Calendar) Run(ctx context.Context) {
	for {
		next := c.warn(time.Now())
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-c.changed:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// warn logs the warnings that are due, and returns when to check again.
func (c *Calendar) warn(now time.Time) (next time.Duration) {
	next = lookAgain
	for _, e := range c.due(now, &next) {
		fields := []zap.Field{zap.String("kind", e.Kind), zap.String("name", e.Name), zap.Time("at", e.At)}
		if left := e.At.Sub(now); left > 0 {
			c.log.Warn("expires soon", append(fields, zap.Int("days", int((left+day-1)/day)), zap.String("advice", Advice))...)
		} else {
			c.log.Error("has expired", fields...)
		}
	}
	return next
}

// due returns the entries that passed a threshold since the last check, and lowers next to the time of the next threshold.
func (c *Calendar) due(now time.Time, next *time.Duration) (list []Entry) {
	for _, e := range c.List() {
		passed := 0
		for _, t := range thresholds {
			if at := e.At.Add(-t); !at.After(now) {
				passed++
			} else {
				*next = min(*next, at.Sub(now))
			}
		}
		c.mu.Lock()
		if known := c.entries[[2]string{e.Kind, e.Name}]; known != nil && known.At.Equal(e.At) {
			if passed > known.warned {
				list = append(list, e)
			}
			known.warned = passed // fewer than before where the clock was ahead: they are warned of when their time comes
		}
		c.mu.Unlock()
	}
	return list
}

// Earliest is when the first certificate of a chain expires, which ends the trust in the chain; zero: the chain is empty.
func Earliest(chain []*x509.Certificate) (first time.Time) {
	for _, c := range chain {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}
