package api

import "net/http"

// Standby answers for an instance that does not hold the state: it is running and not ready, and says why. Clients have to repeat every
// other call, until a load balancer leads them to the instance that holds the state.
func Standby(why string) http.Handler {
	away := newProblem("standby", why)
	mux := http.NewServeMux()
	mux.Handle("/healthz", text("ok\n"))
	aboutAPI(mux)
	mux.Handle("/readyz", reading(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("not ready: " + why + "\n"))
	}))
	mux.Handle("/", refusal(away))
	return framed(mux)
}
