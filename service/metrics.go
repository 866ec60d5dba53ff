package service

// What monitoring has to know at once: that nothing can be recorded, or that a topic reaches no device.

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	writableDesc = prometheus.NewDesc("mailbell_state_writable", "1 where the state takes writes; 0 where not, and nothing can be enrolled.", nil, nil)
	silentDesc   = prometheus.NewDesc("mailbell_apns_silent_devices", "Devices of a topic to which nothing can be sent now.",
		[]string{"topic", "environment"}, nil)
)

// harm is collected when it is asked for. Counters do not tell it: a device that cannot be sent to is counted once, whatever comes afterwards.
type harm struct{ *rooms }

// Describe describes the metrics.
func (harm) Describe(ch chan<- *prometheus.Desc) { ch <- writableDesc; ch <- silentDesc }

// Collect asks the state, and counts the devices.
func (h harm) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	writable := 1.0
	if h.book.Ping(ctx) != nil {
		writable = 0
	}
	ch <- prometheus.MustNewConstMetric(writableDesc, prometheus.GaugeValue, writable)
	silent := h.devices() // what is left of them has no topic in the configuration
	for _, t := range h.sender.Topics() {
		if t.Reason == "" {
			silent[t.Topic+" "+t.Environment] = 0
		}
	}
	for name, n := range silent {
		topic, environment, _ := strings.Cut(name, " ")
		ch <- prometheus.MustNewConstMetric(silentDesc, prometheus.GaugeValue, float64(n), topic, environment)
	}
}
