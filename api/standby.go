package api

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Standby answers for an instance that does not hold the state: it is running and not ready, and says why. Clients have to repeat every
// other call, until a load balancer leads them to the instance that holds the state. Its metrics say that it is a standby, so that
// monitoring does not take it for one that is down; they tell no more than /readyz does, and need no token either.
func Standby(why string) http.Handler {
	away := newProblem("standby", why)
	registry := prometheus.NewRegistry()
	registry.MustRegister(standby(1))
	mux := http.NewServeMux()
	mux.Handle("/healthz", text("ok\n"))
	mux.Handle("/metrics", reading(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP))
	aboutAPI(mux)
	mux.Handle("/readyz", reading(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("not ready: " + why + "\n"))
	}))
	mux.Handle("/", refusal(away))
	return framed(mux)
}

// standby is the metric of whether an instance is one: 1 or 0.
func standby(is float64) prometheus.Collector {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailbell_standby", Help: "1 where this instance does not hold the state, and sends nothing; 0 where it does."})
	gauge.Set(is)
	return gauge
}
