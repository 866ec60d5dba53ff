package inbox

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mailbell/mailbell/subscriptions"
)

// metrics of reading and sending. Labels are bounded: they come from package outcome, never from a mailbox or a peer.
type metrics struct {
	outcomes  *prometheus.CounterVec
	recovered prometheus.Counter
	listings  prometheus.Counter
	alert     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		outcomes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_outcomes_total", Help: "Outcomes of messages for devices."}, []string{"outcome", "reason"}),
		recovered: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_recovered_total", Help: "Messages that a listing found without a hint."}),
		listings: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_listings_total", Help: "Complete listings of mailboxes."}),
		alert: f.NewHistogram(prometheus.HistogramOpts{
			Name: "mailbell_alert_seconds", Help: "From when Exchange told of a message to when APNs accepted its alert. What only a listing found is not in it.",
			Buckets:                     []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour}),
	}
}

func (m *metrics) outcome(d subscriptions.Decision) {
	m.outcomes.WithLabelValues(string(d.Outcome), string(d.Reason)).Inc()
}
