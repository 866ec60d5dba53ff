package listener

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mailbell/mailbell/subscriptions"
)

// metrics of hearing and ringing. Labels are bounded: a reason is one of our own words or of Apple's, never of a mailbox.
type metrics struct {
	outcomes  *prometheus.CounterVec
	hints     prometheus.Counter
	recovered prometheus.Counter
	late      prometheus.Counter
	listings  prometheus.Counter
	streams   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, l *Listener) *metrics {
	f := promauto.With(reg)
	if reg != nil {
		reg.MustRegister(states{l})
	}
	return &metrics{
		outcomes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_outcomes_total", Help: "Outcomes of messages for devices."}, []string{"outcome", "reason"}),
		hints: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_hints_total", Help: "New mail that streams told of."}),
		recovered: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_recovered_total", Help: "Messages that a listing found without a hint."}),
		late: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_recovered_late_total", Help: "Messages that a listing found although their stream was open and should have told of them."}),
		listings: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_listings_total", Help: "Complete listings of mailboxes."}),
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "mailbell_streams", Help: "Open streams."}),
	}
}

func (m *metrics) outcome(d subscriptions.Decision) {
	if d.Outcome == "waiting" {
		d.Reason = "unreadable" // its code is the server's, who could make up any number of them
	}
	m.outcomes.WithLabelValues(d.Outcome, d.Reason).Inc()
}

// states counts the mailboxes by state when it is asked: status is read, not pushed.
type states struct{ l *Listener }

var stateDesc = prometheus.NewDesc("mailbell_mailboxes", "Mailboxes by state.", []string{"state"}, nil)

func (s states) Describe(ch chan<- *prometheus.Desc) { ch <- stateDesc }

func (s states) Collect(ch chan<- prometheus.Metric) {
	n := s.l.Count()
	for _, state := range []subscriptions.State{subscriptions.Resolving, subscriptions.Listening, subscriptions.Polling,
		subscriptions.WaitingForCapacity, subscriptions.OutOfScope, subscriptions.Failing} {
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, float64(n[state]), string(state))
	}
}
