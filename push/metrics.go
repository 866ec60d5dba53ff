package push

import (
	"net/http"
	"strconv"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	answers     *prometheus.CounterVec
	connections prometheus.Gauge
	dials       *prometheus.CounterVec
	http2Errors *prometheus.CounterVec
	resent      prometheus.Counter
	removals    prometheus.Counter
	seconds     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		answers: f.NewCounterVec(prometheus.CounterOpts{Name: "mailbell_apns_answers_total",
			Help: "Answers of APNs; a reason that Apple does not document is counted as other."}, []string{"status", "reason"}),
		connections: f.NewGauge(prometheus.GaugeOpts{Name: "mailbell_apns_connections", Help: "Open connections to APNs."}),
		dials: f.NewCounterVec(prometheus.CounterOpts{Name: "mailbell_apns_dials_total",
			Help: "Connections to APNs that were tried."}, []string{"result"}),
		http2Errors: f.NewCounterVec(prometheus.CounterOpts{Name: "mailbell_apns_http2_errors_total",
			Help: "HTTP/2 errors on connections to APNs, refused streams among them."}, []string{"type"}),
		resent: f.NewCounter(prometheus.CounterOpts{Name: "mailbell_resent_total",
			Help: "Alerts sent again without knowing whether APNs had accepted them before; what another process sent is not known, and not in it."}),
		removals: f.NewCounter(prometheus.CounterOpts{Name: "mailbell_removals_held_total",
			Help: "Devices that APNs called gone and that stay enrolled, because many failed alike."}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{Name: "mailbell_apns_push_seconds",
			Help:    "From the call that sends an alert to the answer that settled it, with waiting and repeats.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
	}
}

// answered counts an answer.
func (m *metrics) answered(status int, reason outcome.Reason) {
	s := "other"
	if http.StatusText(status) != "" {
		s = strconv.Itoa(status)
	}
	m.answers.WithLabelValues(s, string(reason)).Inc()
}
