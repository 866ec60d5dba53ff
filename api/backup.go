package api

// A copy of the state file, from the service that has it open.

import (
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"
)

var errNotInFile = newProblem("no_state_file", "the state is not in a file but in Redis: back it up there")

// backup writes a copy of the state. It has all device tokens in it, and the secret of the installation.
func (a *API) backup(w http.ResponseWriter, _ *http.Request, who caller) error {
	if a.Backup == nil {
		return errNotInFile
	}
	out := &unhurried{to: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/octet-stream")
	err := a.Backup(out)
	if err != nil && !out.begun {
		return err
	}
	a.Log.Info("state backed up", zap.String("client", who.name), zap.Bool("whole", err == nil))
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
