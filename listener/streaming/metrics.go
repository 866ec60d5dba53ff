package streaming

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics of streaming, which the groups of all accounts share.
type Metrics struct {
	hints, late prometheus.Counter
	streams     prometheus.Gauge
}

// NewMetrics registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		hints: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_hints_total", Help: "New mail that streams told of."}),
		late: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_recovered_late_total",
			Help: "Messages that a listing found although their stream was open and should have told of them."}),
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "mailbell_streams", Help: "Open streams."}),
	}
}
