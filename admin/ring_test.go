package admin

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// counted are metrics as the service has them.
type counted struct {
	*prometheus.Registry
	outcomes *prometheus.CounterVec
	seconds  prometheus.Histogram
	screen   prometheus.Histogram
}

func newCounted() counted {
	c := counted{prometheus.NewRegistry(),
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: outcomesMetric, Help: "."}, []string{"outcome", "reason"}),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: secondsMetric, Help: ".", Buckets: []float64{.1, .5, 1, 10}, NativeHistogramBucketFactor: 1.1}),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: screenMetric, Help: ".", Buckets: []float64{.1, .5, 1, 10}, NativeHistogramBucketFactor: 1.1}),
	}
	c.MustRegister(c.outcomes, c.seconds, c.screen)
	return c
}

func TestTheRingHasWhatEachMinuteBrought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		c.outcomes.WithLabelValues("accepted", "").Add(1000) // before
		c.seconds.Observe(5)
		g := &ring{log: zap.NewNop(), gather: c}
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			g.run(stop)
			close(ended)
		}()
		synctest.Wait()
		for minute := range 3 {
			for range minute * 10 {
				c.outcomes.WithLabelValues("accepted", "").Inc()
				c.seconds.Observe(.3)
				c.screen.Observe(.6)
			}
			c.outcomes.WithLabelValues("accepted", "summary").Inc()
			c.outcomes.WithLabelValues("refused", "BadTopic").Add(7)
			<-time.After(sampleEvery)
			synctest.Wait()
		}
		close(stop)
		<-ended
		var got []string
		for _, s := range g.samples() {
			got = append(got, fmt.Sprintf("%.0f %.2f %.3f", s.alerts, s.took.p50, s.took.p99)+fmt.Sprintf(" %.1f", s.screen.p50))
		}
		if want := "1 NaN NaN NaN, 11 0.30 0.496 0.8, 21 0.30 0.496 0.8"; strings.Join(got, ", ") != want {
			t.Errorf("%q, want %q", strings.Join(got, ", "), want)
		}
	})
}

func TestTheRingIsBoundedAndForgetsTheOldest(t *testing.T) {
	g := &ring{log: zap.NewNop(), gather: newCounted()}
	begin := time.Now()
	for i := range ringSize + 10 {
		g.sample(begin.Add(time.Duration(i) * time.Minute))
	}
	list := g.samples()
	if len(list) != ringSize || !list[0].at.Equal(begin.Add(10*time.Minute)) || !list[ringSize-1].at.Equal(begin.Add((ringSize+9)*time.Minute)) {
		t.Errorf("%d samples from %v", len(list), list[0].at)
	}
	if cap(list) > 2*ringSize {
		t.Errorf("room for %d samples", cap(list))
	}
}

func TestWithoutTheMetricsThereIsNoPictureAndNoFailure(t *testing.T) {
	g := &ring{log: zap.NewNop(), gather: prometheus.NewRegistry()}
	g.sample(time.Now())
	if s := g.samples()[0]; s.alerts != 0 || !math.IsNaN(s.took.p50) {
		t.Errorf("%+v", s)
	}
	if p := secondsPicture(g.samples()); !p.Empty || p.Says == "" {
		t.Errorf("%+v", p)
	}
	for _, p := range []picture{alertsPicture(nil), secondsPicture(nil), screenPicture(nil)} {
		if !p.Empty || p.Says == "" || len(p.Hours) > 0 {
			t.Errorf("%+v", p)
		}
	}
}

func TestAQuantileIsPrometheusOwn(t *testing.T) {
	list := []bucket{{.1, 50}, {1, 90}, {10, 100}, {math.Inf(1), 100}}
	for q, want := range map[float64]float64{.25: .05, .5: .1, .9: 1, .95: 5.5, 1: 10} {
		if got := quantile(list, q); math.Abs(got-want) > 1e-9 {
			t.Errorf("%g: %g, want %g", q, got, want)
		}
	}
	if got := quantile([]bucket{{1, 0}, {math.Inf(1), 4}}, .5); got != 1 {
		t.Errorf("beyond all bounds: %g", got)
	}
}

func TestAPictureStaysInItsFrameAndSaysWhatItShows(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)
	var list []sample
	for i := range 120 {
		s := sample{at: noon.Add(time.Duration(i) * time.Minute), alerts: float64(i * i), took: latency{.02, 3000}, screen: latency{1, 90}}
		if i%10 == 5 {
			s.alerts, s.took = 0, latency{math.NaN(), math.NaN()}
		}
		list = append(list, s)
	}
	for _, p := range []picture{alertsPicture(list), secondsPicture(list), screenPicture(list), alertsPicture(list[:1]), secondsPicture(list[:1])} {
		all := strings.Fields(p.Area)
		for _, l := range p.Lines {
			all = append(all, strings.Fields(l.Points)...)
		}
		if len(all) == 0 || p.Empty {
			t.Errorf("%s: nothing is drawn", p.Title)
		}
		for _, at := range all {
			var x, y float64
			if _, err := fmt.Sscanf(at, "%g,%g", &x, &y); err != nil || x < chartLeft-2 || x > chartWidth || y < chartTop || y > chartHeight-chartBottom {
				t.Errorf("%s: a point at %s: %v", p.Title, at, err)
			}
		}
	}
	if got, want := alertsPicture(list).Says, "In the last minute 14161, at most 14161, at 13:59 UTC."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := secondsPicture(list).Says, "At 13:59 UTC half of the alerts took at most 20 ms, 99 of 100 at most 50 min."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := screenPicture(list).Says, "At 13:59 UTC half of the alerts took at most 1.0 s, 99 of 100 at most 1 min."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := len(secondsPicture(list).Lines); n != 2*13 {
		t.Errorf("%d lines, want two, each interrupted twelve times", n)
	}
}
