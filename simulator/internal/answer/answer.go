// Package answer writes the JSON answers of the simulator's servers.
package answer

import (
	"encoding/json"
	"net/http"
)

// JSON answers with a status and v, in which <, > and & stand as they are.
func JSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(v)
}
