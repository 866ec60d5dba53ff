package admin

// The test notification: posted, and answered with a page of its steps, or as a stream of them while they happen.

import (
	"bytes"
	"errors"
	"html/template"
	"net/http"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/audit"
)

// testBody is what the page of a test shows.
type testBody struct {
	Device string
	Back   string
	Report check.Report
}

// test sends a test notification to a device, for a visitor who may.
func (p *Pages) test(w http.ResponseWriter, r *http.Request, v visitor) {
	if !v.Tests() {
		event := audit.Event{Action: audit.TestSent, Client: v.Name, Device: r.PostForm.Get("device"), Outcome: audit.Refused, Code: roleNotAllowed}
		p.api.Record(r, event, nil)
		p.refuse(w, r, http.StatusForbidden, "The role "+string(v.Role)+" does not allow a test notification. It needs test or admin.")
		return
	}
	id := r.PostForm.Get("device")
	d, ok := p.api.Enrolment(id)
	if !ok {
		p.refuse(w, r, http.StatusNotFound, "No device is enrolled with this id.")
		return
	}
	b := testBody{Device: d.ID, Back: linkDevice(d.Mailbox, d.ID)}
	var steps *events
	after := func(s check.Step) {
		if steps != nil {
			steps.sendPart(p.templates["test"], "step", s)
		}
	}
	if wantsStream(r) {
		steps, ok = p.startStream(w)
		if !ok {
			return
		}
		defer p.endStream(steps)
		steps.write([]byte(":\n\n")) // the headers go out before the first step is done
	}
	var err error
	b.Report, err = p.api.SendTest(r, v.Name, d.ID, after)
	pr, refused := errors.AsType[*api.Problem](err)
	switch {
	case refused && steps != nil:
		steps.send("refused", visible([]byte(template.HTMLEscapeString(pr.Detail))))
	case refused:
		p.fail(w, pr.Status, pr.Detail+".")
	case steps != nil:
		steps.sendPart(p.templates["test"], "verdict", b)
	default:
		p.render(w, http.StatusOK, "test", page{Title: "Test notification", Visitor: v, Body: b})
	}
}

// refuse answers with an error, to the script in words only.
func (p *Pages) refuse(w http.ResponseWriter, r *http.Request, status int, text string) {
	if !wantsStream(r) {
		p.fail(w, status, text)
		return
	}
	http.Error(w, text, status)
}

// sendPart sends a part of a page as an event with its name.
func (s *events) sendPart(of *template.Template, name string, data any) {
	var b bytes.Buffer
	if err := of.ExecuteTemplate(&b, name, data); err != nil {
		return
	}
	s.send(name, visible(b.Bytes()))
}
