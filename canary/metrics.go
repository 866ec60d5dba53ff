package canary

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Why a canary was lost, in the metric.
const (
	lostUnsent = "not_sent"     // it could not be sent
	lostMissed = "not_accepted" // no alert was accepted in time
)

// metrics name no mailbox.
type metrics struct {
	took prometheus.Histogram
	lost *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, c *Canary) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		took: f.NewHistogram(prometheus.HistogramOpts{
			Name: "mailbell_canary_seconds", Help: "From when a mailbox sent itself a canary to when APNs accepted its alert.",
			Buckets:                     []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour}),
		lost: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_canary_lost_total", Help: "Canaries that could not be sent, or of which no alert was accepted in time."}, []string{"reason"}),
	}
	for _, reason := range []string{lostUnsent, lostMissed} {
		m.lost.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(lastSuccess{c})
	}
	return m
}

// lastSuccess is a gauge that is there once each mailbox had a success.
type lastSuccess struct{ c *Canary }

func lastSuccessDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailbell_canary_last_success_timestamp_seconds",
		"When APNs accepted the alert of a canary last, of the mailbox for which that is the longest ago.", nil, nil)
}

// Describe implements prometheus.Collector.
func (lastSuccess) Describe(to chan<- *prometheus.Desc) { to <- lastSuccessDesc() }

// Collect implements prometheus.Collector.
func (l lastSuccess) Collect(to chan<- prometheus.Metric) {
	if at, ok := l.c.oldest(); ok {
		to <- prometheus.MustNewConstMetric(lastSuccessDesc(), prometheus.GaugeValue, float64(at.UnixMilli())/1000)
	}
}
