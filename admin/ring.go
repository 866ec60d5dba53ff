package admin

// What the pictures show: the alerts of each minute of the last hours, and how long they took. Once a minute the metrics are read, which
// are counted anyway; the differences go into a ring. It is in memory only, so it begins anew with the service.

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/outcome"
)

const (
	// sampleEvery is the time between two readings of the metrics.
	sampleEvery = time.Minute
	// ringSize bounds the ring: six hours, in 24 KiB. A longer memory is Prometheus' job.
	ringSize = 360
)

// The metrics that are read.
const (
	outcomesMetric = "mailbell_outcomes_total"
	secondsMetric  = "mailbell_alert_seconds"  // from Exchange's notification to APNs' acceptance
	screenMetric   = "mailbell_screen_seconds" // from Exchange's receipt of a message to the screen of a phone
)

// sample is a minute.
type sample struct {
	at     time.Time // its end
	alerts float64   // that APNs accepted
	took   latency   // to APNs' acceptance
	screen latency   // to the screen of a phone
}

// latency is how long alerts took, in seconds; not a number: none was measured.
type latency struct{ p50, p99 float64 }

// ring has the newest samples.
type ring struct {
	log    *zap.Logger
	gather prometheus.Gatherer
	before counters // of the last reading; only run uses it

	mu   sync.Mutex
	list []sample // the oldest first
}

// counters are what the metrics count since the start of the service.
type counters struct {
	alerts float64
	took   []bucket
	screen []bucket
}

// bucket is a bucket of a histogram: how many took this long or less.
type bucket struct {
	bound float64
	count uint64
}

// run reads the metrics once a minute until stop is closed.
func (g *ring) run(stop <-chan struct{}) {
	g.before = g.read()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			g.sample(now)
		}
	}
}

// sample adds what has happened since the last reading.
func (g *ring) sample(now time.Time) {
	read := g.read()
	s := sample{at: now, alerts: max(read.alerts-g.before.alerts, 0), took: latencyOf(since(g.before.took, read.took)), screen: latencyOf(since(g.before.screen, read.screen))}
	g.before = read
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.list) == ringSize {
		copy(g.list, g.list[1:])
		g.list = g.list[:ringSize-1]
	}
	g.list = append(g.list, s)
}

// samples are those of the last hours, the oldest first.
func (g *ring) samples() []sample {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]sample(nil), g.list...)
}

// read reads the metrics.
func (g *ring) read() (c counters) {
	families, err := g.gather.Gather()
	if err != nil { // and what could be read nevertheless
		g.log.Warn("metrics could not be read", zap.Error(err))
	}
	for _, f := range families {
		switch f.GetName() {
		case outcomesMetric:
			for _, m := range f.GetMetric() {
				if labelled(m, "outcome", string(outcome.Accepted)) {
					c.alerts += m.GetCounter().GetValue()
				}
			}
		case secondsMetric:
			for _, m := range f.GetMetric() {
				c.took = append(c.took, buckets(m.GetHistogram())...)
			}
		case screenMetric:
			for _, m := range f.GetMetric() {
				c.screen = append(c.screen, buckets(m.GetHistogram())...)
			}
		}
	}
	return c
}

// buckets are those of a histogram, and one for all that took longer.
func buckets(h *dto.Histogram) (list []bucket) {
	for _, b := range h.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) {
			list = append(list, bucket{b.GetUpperBound(), b.GetCumulativeCount()})
		}
	}
	return append(list, bucket{math.Inf(1), h.GetSampleCount()})
}

func labelled(m *dto.Metric, name, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue() == value
		}
	}
	return false
}

// since are the buckets of what was counted after an earlier reading.
func since(earlier, now []bucket) []bucket {
	list := make([]bucket, len(now))
	for i, b := range now {
		list[i] = b
		if i < len(earlier) && earlier[i].count <= b.count {
			list[i].count -= earlier[i].count
		}
	}
	return list
}

func latencyOf(list []bucket) latency { return latency{quantile(list, 0.5), quantile(list, 0.99)} }

// quantile estimates a quantile, as Prometheus does: within a bucket linearly, and what took longer than all bounds as long as the last.
func quantile(list []bucket, q float64) float64 {
	if len(list) == 0 || list[len(list)-1].count == 0 {
		return math.NaN()
	}
	rank := q * float64(list[len(list)-1].count)
	var from, below float64
	for _, b := range list {
		if float64(b.count) >= rank {
			in := float64(b.count) - below
			switch {
			case math.IsInf(b.bound, 1):
				return from
			case in <= 0:
				return b.bound
			}
			return from + (b.bound-from)*(rank-below)/in
		}
		from, below = b.bound, float64(b.count)
	}
	return from
}
