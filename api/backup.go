package api

// A copy of the state file, from the service that has it open.

import (
	"io"
	"net/http"
	"time"

	"github.com/mailbell/mailbell/internal/audit"
)

var errNotInFile = newProblem("no_state_file", "the state is not in a file but in Redis: back it up there")

// backup writes a copy of the state. It has all device tokens in it, and the secret of the installation.
func (a *API) backup(w http.ResponseWriter, r *http.Request, who caller) error {
	event := audit.Event{Action: audit.StateBackedUp, Client: who.name}
	if a.Backup == nil {
		a.Record(r, event, errNotInFile)
		return errNotInFile
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Method == http.MethodHead { // nobody gets a copy
		return nil
	}
	out := &unhurried{to: w, control: http.NewResponseController(w)}
	err := a.Backup(out)
	a.Record(r, event, err)
	if err != nil && !out.begun {
		return err
	}
	if err != nil {
		panic(http.ErrAbortHandler) // what was sent is cut off, and must not look whole
	}
	return nil
}

// unhurried gives each write its own time.
type unhurried struct {
	to      io.Writer
	control *http.ResponseController
	begun   bool
}

// Write implements io.Writer.
func (u *unhurried) Write(b []byte) (int, error) {
	u.begun = true
	_ = u.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	return u.to.Write(b)
}
