// Package audit writes who did what, as a stream of its own: a line of JSON for each act, in a file, or in the log where none is configured.
// A line has never anything of a message, nor a secret.
package audit

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Action is what was done.
type Action string

// The actions.
const (
	DeviceEnrolled  Action = "device_enrolled"
	DeviceChanged   Action = "device_changed" // or enrolled again as it was
	DeviceRemoved   Action = "device_removed"
	DevicesImported Action = "devices_imported"
	DevicesExported Action = "devices_exported"
	TestSent        Action = "test_notification_sent"
	ListenByChanged Action = "listen_by_changed"
	StateBackedUp   Action = "state_backed_up"
	SignedIn        Action = "signed_in"  // to the admin page
	SignedOut       Action = "signed_out" // of it
	SignInRefused   Action = "sign_in_refused"
	CallRefused     Action = "call_refused" // the role does not allow it
)

// Outcome is what became of it.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // nothing was done
	Failed  Outcome = "failed"  // it was begun
)

// Event is one act. Fields that do not apply are empty, and left out.
type Event struct {
	Action    Action
	Outcome   Outcome
	Code      string // of the problem, where it was refused or failed
	Client    string // who: the client of the API, also of a person whose token it is
	Page      bool   // on the admin page
	Address   string // from where the connection came
	Forwarded string // the address that a proxy names
	Request   string // the id of the request
	Call      string // the method and the kind of path, where the call was refused
	Device    string
	Mailbox   string
	Exchange  string
	ListenBy  string
	Role      string // that a sign-in gave
	Issuer    string // of the provider at which a person signed in
	Subject   string // its id of the person
	Tokens    bool   // device tokens were given out in full
	Devices   int
	Created   int
	Changed   int
	Rejected  int // lines of an import
	Mailboxes int
	Times     int // the same since the last line
}

// messages are the events in the log.
var messages = map[Action]string{
	TestSent:        "test notification",
	ListenByChanged: "mailboxes are listened to another way",
	SignedIn:        "signed in to the admin page",
	SignedOut:       "signed out of the admin page",
	SignInRefused:   "sign-in with a wrong token",
}

func (e Event) message() string {
	if m := messages[e.Action]; m != "" {
		return m
	}
	return strings.ReplaceAll(string(e.Action), "_", " ")
}

// fields adds those that apply.
func (e Event) fields(f []zap.Field) []zap.Field {
	f = append(f, zap.String("stream", "audit"), zap.String("action", string(e.Action)), zap.String("outcome", string(e.Outcome)))
	for _, t := range []struct{ name, value string }{
		{"code", e.Code}, {"client", e.Client}, {"address", e.Address}, {"forwarded_for", e.Forwarded}, {"request_id", e.Request}, {"call", e.Call},
		{"device", e.Device}, {"mailbox", e.Mailbox}, {"exchange", e.Exchange}, {"listen_by", e.ListenBy},
		{"role", e.Role}, {"issuer", e.Issuer}, {"subject", e.Subject},
	} {
		if t.value != "" {
			f = append(f, zap.String(t.name, t.value))
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"devices", e.Devices}, {"created", e.Created}, {"changed", e.Changed}, {"refused", e.Rejected}, {"mailboxes", e.Mailboxes}, {"times", e.Times}} {
		if n.value != 0 {
			f = append(f, zap.Int(n.name, n.value))
		}
	}
	if e.Page {
		f = append(f, zap.Bool("admin_page", true))
	}
	if e.Tokens {
		f = append(f, zap.Bool("tokens", true))
	}
	return f
}

// Log is the stream. Its zero value cannot be used.
type Log struct {
	log *zap.Logger

	mu      sync.Mutex
	path    string // empty: the events are in the log
	file    *os.File
	torn    bool        // the last line is not whole
	full    bool        // the last line could not be written, though the file could be opened
	fields  []zap.Field // of the last event: used again
	failure error
	encoder zapcore.Encoder
}

// New returns a stream into a log. The caller closes it.
func New(log *zap.Logger) *Log {
	return &Log{log: log, encoder: zapcore.NewJSONEncoder(zapcore.EncoderConfig{TimeKey: "time", EncodeTime: zapcore.RFC3339NanoTimeEncoder, LineEnding: "\n"})}
}

// Use has the events written to a file from now on, after the lines that it has, or to the log where path is empty. It opens the file anew, so
// that one that was renamed is left, and one that failed is tried again: it is called again and again. That a file can be opened on a full
// disk says nothing: there the next event tells.
func (l *Log) Use(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.file
	l.full = l.full && path == l.path
	l.path, l.file = path, nil
	var err error
	if path != "" {
		l.file, err = open(path)
	}
	if err != nil || !l.full {
		l.note(err)
	}
	if old != nil {
		old.Close() // each write has said whether it is good
	}
}

// open opens a file, and no pipe: that would wait for its reader, and so would every call.
func open(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		return nil, fmt.Errorf("%s is a named pipe: want a file", path)
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// Failure says why the events are not in their file, but in the log; nil: they are where they should be.
func (l *Log) Failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Record writes an event before it returns. One that the file does not take is in the log.
func (l *Log) Record(e Event) {
	entry := zapcore.Entry{Level: zapcore.InfoLevel, Time: time.Now(), LoggerName: l.log.Name(), Message: e.message()}
	if e.Outcome != Done {
		entry.Level = zapcore.WarnLevel
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fields = e.fields(l.fields[:0])
	if l.file != nil {
		err := l.write(entry, l.fields)
		l.full = err != nil
		l.note(err)
		if err == nil {
			return
		}
	}
	_ = l.log.Core().Write(entry, l.fields) // whatever the level of the log is; there is nowhere else to say that it fails
}

// write writes an event to the file. The mutex is held.
func (l *Log) write(entry zapcore.Entry, fields []zap.Field) error {
	entry.Time = entry.Time.UTC()
	line, err := l.encoder.EncodeEntry(entry, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	if l.torn { // a full disk took a part of the last one
		if _, err := l.file.WriteString("\n"); err != nil {
			return err
		}
		l.torn = false
	}
	n, err := l.file.Write(line.Bytes())
	l.torn = err != nil && n > 0
	return err
}

// note remembers how the file is. The mutex is held.
func (l *Log) note(err error) {
	l.failure = nil
	if err != nil {
		l.failure = fmt.Errorf("writing the audit log: %w", err)
	}
}

// Close closes the file. Events that come later are in the log.
func (l *Log) Close() { l.Use("") }
