package api

// Many enrolments at once, and all of them: NDJSON, a device a line.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"mime"
	"net/http"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// importers is how many lines of an import are enrolled at once: they are written together, and more would not be quicker.
	importers = 64
	// maxAhead bounds the lines that are read and whose answers are not written yet.
	maxAhead = 1024
	// maxImports bounds the imports at once; one has all the state store can do.
	maxImports = 2
	// flushEvery is how often an answer goes out while others come.
	flushEvery = 200 * time.Millisecond
)

var (
	errManyImports = newProblem("too_many_imports", "two imports are under way; try again when one has ended")
	errNDJSON      = newProblem("wrong_content_type", "want Content-Type: application/x-ndjson")
)

// ImportLine is the answer to one line of an import.
type ImportLine struct {
	Line   int          `json:"line"` // of the body, from 1
	ID     string       `json:"id,omitempty"`
	Status int          `json:"status"`           // as PUT /v1/devices/{id} would have it
	Code   string       `json:"code,omitempty"`   // of the problem, where it was refused
	Detail string       `json:"detail,omitempty"` // why it was refused
	Errors []FieldError `json:"errors,omitempty"`
}

// ImportEnd is the last line of the answer to an import. Without it the answer was cut off.
type ImportEnd struct {
	Lines   int    `json:"lines"` // that were answered
	Created int    `json:"created"`
	Changed int    `json:"changed"` // or the same as before
	Refused int    `json:"refused"`
	Stopped string `json:"stopped,omitempty"` // why it ended before its last line; what follows was not looked at
}

// ExportLine is a line of an export: an import takes it if it has the token.
type ExportLine struct {
	ID          string `json:"id"`
	Mailbox     string `json:"mailbox"`
	Token       string `json:"token,omitempty"` // in full, and only where it is asked for
	Topic       string `json:"topic"`
	Environment string `json:"environment"`
	Exchange    string `json:"exchange,omitempty"`
	Label       string `json:"label,omitempty"`
	ReceiptKey  string `json:"receipt_key,omitempty"`
}

// importing is an import under way.
type importing struct {
	*API
	ctx  context.Context // ends with a reason not to enrol what was read
	end  context.CancelCauseFunc
	http *http.ResponseController
	out  *bufio.Writer

	workers [importers]chan *imported
	seed    maphash.Seed
	ahead   chan *imported // in the order of the lines
	stop    sync.Once
	stopped chan struct{} // closed: no further line is read
	why     string        // once that is so
}

// imported is a line, and then its answer.
type imported struct {
	e      subscriptions.Enrolment
	answer ImportLine
	done   chan struct{}
}

// importDevices enrols a device a line. Lines with the same id are enrolled in their order, all else at once. The answers come in the order
// of the lines while further lines are sent.
func (a *API) importDevices(w http.ResponseWriter, r *http.Request, who caller) error {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // where that cannot be, the client gets the answers at the end
	if !isNDJSON(r.Header.Get("Content-Type")) {
		return errNDJSON
	}
	select {
	case a.imports <- struct{}{}:
		defer func() { <-a.imports }()
	default:
		return errManyImports
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	i := &importing{API: a, ctx: ctx, end: cancel, http: control, out: bufio.NewWriter(w), seed: maphash.MakeSeed(),
		ahead: make(chan *imported, maxAhead), stopped: make(chan struct{})}
	body := bufio.NewReader(r.Body)
	if r.Header.Get("Expect") != "" { // reading says 100 Continue: to some clients an answer that begins before is a refusal (RFC 9110 section 10.1.1)
		_, _ = body.Peek(1) // readAll has the error
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	var tasks sync.WaitGroup
	for n := range i.workers {
		i.workers[n] = make(chan *imported, maxAhead/importers)
		tasks.Go(func() { i.enrolAll(i.workers[n]) }) //nolint:contextcheck // a write is completed also where the client hangs up
	}
	tasks.Go(func() { i.readAll(body) })
	end, err := i.answerAll()
	if err != nil { // the client is gone
		advice := ""
		if errors.Is(err, os.ErrDeadlineExceeded) {
			advice = "Have the client read the answers while it sends the lines, or send fewer at once: what it does not read fills the connection."
		}
		a.Log.Warn("an import has ended early", zap.Int("line", end.Lines), zap.Error(err), zap.String("advice", advice))
		i.giveUp(errBroken)
		for range i.ahead { // what was read before
		}
	}
	tasks.Wait()
	if err == nil {
		end.Stopped = i.why
		i.write(end)
		err = i.flush()
	}
	event := audit.Event{Action: audit.DevicesImported, Client: who.name, Created: end.Created, Changed: end.Changed, Rejected: end.Refused}
	if err != nil || end.Stopped != "" {
		event.Outcome = audit.Failed
	}
	a.Record(r, event, nil)
	return nil
}

func isNDJSON(kind string) bool {
	if kind == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(kind)
	switch kind {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json", "application/x-www-form-urlencoded": // the last is curl's
		return err == nil
	}
	return false
}

// giveUp has no further line read, and none enrolled that was. false: it has ended already.
func (i *importing) giveUp(why *Problem) bool {
	i.end(why)
	return i.readNoMore(why.Detail)
}

func (i *importing) readNoMore(why string) (first bool) {
	i.stop.Do(func() {
		first, i.why = true, why
		close(i.stopped)
	})
	return first
}

// readAll reads the lines and hands each to the worker of its id.
func (i *importing) readAll(body io.Reader) {
	defer close(i.ahead)
	defer func() {
		for _, w := range i.workers {
			close(w)
		}
	}()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxBody)
	for n := 1; ; n++ {
		_ = i.http.SetReadDeadline(time.Now().Add(readTimeout)) // for each line its own
		if !lines.Scan() {
			break
		}
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		next := &imported{done: make(chan struct{})}
		next.answer.Line = n
		var err error
		next.answer.ID, next.e, err = readLine(lines.Bytes())
		if err != nil {
			next.refuse(err)
			close(next.done)
		}
		select {
		case i.ahead <- next:
		case <-i.stopped:
			return
		}
		if err != nil {
			continue
		}
		select {
		case i.workers[maphash.String(i.seed, next.answer.ID)%importers] <- next:
		case <-i.stopped:
			next.refuse(errState) // it was not looked at
			close(next.done)
			return
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		i.readNoMore("a line is longer than 64 KiB")
	case err != nil:
		i.readNoMore(errBroken.Detail)
	default:
		i.readNoMore("")
	}
}

// enrolAll enrols the devices of one worker.
func (i *importing) enrolAll(lines <-chan *imported) {
	for next := range lines {
		i.enrolOne(next)
		close(next.done)
	}
}

func (i *importing) enrolOne(next *imported) {
	defer func() {
		if recover() != nil {
			i.Log.Error("panic while answering", zap.String("method", http.MethodPost), zap.Stack("stack")) // as in guarded
			next.refuse(errPanic)
			i.giveUp(errPanic)
		}
	}()
	if i.ctx.Err() != nil {
		next.refuse(context.Cause(i.ctx))
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(i.ctx), changeTimeout)
	defer cancel()
	_, created, err := i.Enrolments.Enrol(ctx, next.e, nil)
	switch {
	case err != nil:
		next.refuse(err)
		if problemOf(err) == errState && i.giveUp(errState) { // so would all others be, one after the other
			i.Log.Error("an import has ended early", zap.Int("line", next.answer.Line), zap.Error(err))
		}
	case created:
		next.answer.Status = http.StatusCreated
	default:
		next.answer.Status = http.StatusOK
	}
}

// refuse has a line answered with an error.
func (l *imported) refuse(err error) {
	p := problemOf(err)
	l.answer.Status, l.answer.Code, l.answer.Detail, l.answer.Errors = p.Status, p.Code, p.Detail, p.Errors
}

// answerAll writes the answers. What is written goes out before anything is waited for.
func (i *importing) answerAll() (end ImportEnd, err error) {
	flushed := time.Now()
	for {
		next, more, err := await(i.ahead, i.flush)
		if err != nil || !more {
			return end, err
		}
		if _, _, err := await(next.done, i.flush); err != nil {
			return end, err
		}
		i.write(next.answer)
		end.Lines++
		switch next.answer.Status {
		case http.StatusCreated:
			end.Created++
		case http.StatusOK:
			end.Changed++
		default:
			end.Refused++
		}
		if time.Since(flushed) >= flushEvery {
			if err := i.flush(); err != nil {
				return end, err
			}
			flushed = time.Now()
		}
	}
}

// await takes from a channel, and calls first before it waits.
func await[T any](c <-chan T, first func() error) (v T, more bool, err error) {
	select {
	case v, more = <-c:
		return v, more, nil
	default:
	}
	if err = first(); err != nil {
		return v, false, err
	}
	v, more = <-c
	return v, more, nil
}

func (i *importing) write(line any) {
	data, err := json.Marshal(line)
	if err != nil {
		panic(err) // as in write
	}
	_, _ = i.out.Write(append(data, '\n')) // flush has its error
}

func (i *importing) flush() error {
	_ = i.http.SetWriteDeadline(time.Now().Add(readTimeout))
	if err := i.out.Flush(); err != nil {
		return err
	}
	return i.http.Flush()
}

// exportDevices writes all enrolments, by their ids.
func (a *API) exportDevices(w http.ResponseWriter, r *http.Request, who caller) error {
	q := r.URL.Query()
	tokens := q.Get("tokens") == "true"
	switch {
	case q.Has("tokens") && !tokens && q.Get("tokens") != "false":
		return invalid(FieldError{"tokens", codeInvalid, "want true or false"})
	case tokens && !who.role.may(readTokens):
		a.Record(r, audit.Event{Action: audit.DevicesExported, Client: who.name, Tokens: true}, errForbidden)
		return errForbidden
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if r.Method == http.MethodHead { // nobody gets a line
		return nil
	}
	control, out := http.NewResponseController(w), json.NewEncoder(w)
	event := audit.Event{Action: audit.DevicesExported, Client: who.name, Tokens: tokens}
	for after, more := "", true; more; {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // for each page its own
		var list []subscriptions.Device
		list, after = a.Enrolments.Devices("", after, maxLimit)
		for _, d := range list {
			line := ExportLine{ID: d.ID, Mailbox: d.Mailbox, Topic: d.Topic, Environment: d.Environment, Exchange: d.Exchange, Label: d.Label, ReceiptKey: d.ReceiptKey}
			if tokens {
				line.Token = d.Token
			}
			if out.Encode(line) != nil { // the client is gone
				event.Outcome = audit.Failed
				a.Record(r, event, nil)
				return nil
			}
			event.Devices++
		}
		more = after != ""
	}
	a.Record(r, event, nil)
	return nil
}
