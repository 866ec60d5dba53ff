// Package expiry is the one calendar of what expires: secrets, certificates, and the certificates that servers show. It is a
// metric, a list for who asks, and warnings in the log before the day.
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

// The kinds of what expires. What a listener account signs in with is of the kind of its authentication method.
const (
	APNsCertificate = "apns_certificate" // named by its topic
	TLS             = "tls"              // the portal's own
	Server          = "server"           // the first to expire of the chain that a server shows, named by its host
)

// Soon is how long before the day it is worth telling, and the first warning.
const Soon = 30 * day

const (
	day = 24 * time.Hour
	// maxEntries bounds the names, and with them the metric: a configuration has some dozens; hosts are met by redirects too.
	maxEntries = 1000
	// lookAgain is the longest pause between two looks: the timers of a machine that slept run late.
	lookAgain = time.Hour
)

// thresholds are when the log is told, each once: so long before the day, and on it.
var thresholds = [...]time.Duration{Soon, 7 * day, day, 0}

// Entry is one thing that expires.
type Entry struct {
	Kind, Name string
	At         time.Time
}

// Calendar knows what expires when. It is a prometheus.Collector. Its methods may be called at the same time.
type Calendar struct {
	log     *zap.Logger
	metric  *prometheus.Desc
	changed chan struct{} // holds one signal

	mu      sync.Mutex
	entries map[[2]string]*entry // by kind and name
}

type entry struct {
	Entry
	told int // of thresholds, how many have passed and were told
}

// New returns an empty calendar.
func New(log *zap.Logger) *Calendar {
	return &Calendar{log: log, entries: map[[2]string]*entry{}, changed: make(chan struct{}, 1),
		metric: prometheus.NewDesc("mailbell_credential_expires_timestamp_seconds", "When a credential or certificate expires, in seconds since 1970.",
			[]string{"kind", "name"}, nil)}
}

// Set tells when something expires; the zero time: it does not, or is not there any more. Where there are as many as there may
// be, a new one is left out.
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

// List returns what expires, the first first.
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

// Run warns in the log until ctx ends: 30, 7 and 1 days before something expires, and when it has. Each is told once; what was
// renewed starts anew.
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

// warn tells what has come due and returns when to look again.
func (c *Calendar) warn(now time.Time) (next time.Duration) {
	next = lookAgain
	for _, e := range c.due(now, &next) {
		fields := []zap.Field{zap.String("kind", e.Kind), zap.String("name", e.Name), zap.Time("at", e.At)}
		if left := e.At.Sub(now); left > 0 {
			c.log.Warn("expires soon", append(fields, zap.Int("days", int((left+day-1)/day)))...)
		} else {
			c.log.Error("has expired", fields...)
		}
	}
	return next
}

// due returns what has passed a threshold since the last look, and lowers next to the next one that will be passed.
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
		if known := c.entries[[2]string{e.Kind, e.Name}]; known != nil && known.At.Equal(e.At) && passed > known.told {
			known.told = passed
			list = append(list, e)
		}
		c.mu.Unlock()
	}
	return list
}

// Earliest is when the first certificate of a chain expires; zero: the chain is empty. What a peer shows stops being trusted then.
func Earliest(chain []*x509.Certificate) (first time.Time) {
	for _, c := range chain {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}
