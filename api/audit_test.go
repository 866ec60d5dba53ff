package api

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEachAnswerHasTheIDOfItsRequest(t *testing.T) {
	d := newBackend(t)
	for given, kept := range map[string]bool{"": false, "abc-123": true, "a b": false, "x\u202e": false, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false} {
		a := d.ask(t, enrolToken, "GET", "/v1/devices", "", requestID, given)
		if got := a.Header.Get(requestID); got == "" || (got == given) != kept {
			t.Errorf("%q: the answer has %q", given, got)
		}
	}
	for _, target := range []string{"/healthz", "/v1/../x", "/nothing", "/admin/"} {
		if d.ask(t, "", "GET", target, "").Header.Get(requestID) == "" {
			t.Errorf("%s: none", target)
		}
	}
}

func TestTheAuditLogHasEveryActOfAClientAndWhatBecameOfIt(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 201, "")
	for _, c := range []struct {
		token, method, target, body string
		status                      int
		want                        string // client action outcome code device mailbox
	}{
		{enrolToken, "PUT", "/v1/devices/phone", enrolment, 200, "mdm device_changed done  phone ann@contoso.com"},
		{enrolToken, "PUT", "/v1/devices/a%20b", enrolment, 422, "mdm device_enrolled refused wrong_fields  "},
		{enrolToken, "PUT", "/v1/devices/phone", "{", 400, "mdm device_enrolled refused not_json phone "},
		{readToken, "PUT", "/v1/devices/phone", enrolment, 403, "grafana call_refused refused role_not_allowed phone "},
		{enrolToken, "GET", "/metrics", "", 403, "mdm call_refused refused role_not_allowed  "},
		{readToken, "GET", "/v1/devices:export", "", 200, "grafana devices_exported done   "},
		{readToken, "GET", "/v1/devices:export?tokens=true", "", 403, "grafana devices_exported refused role_not_allowed  "},
		{enrolToken, "POST", "/v1/devices:import", `{"id":"x"}`, 200, "mdm devices_imported done   "},
		{testToken, "POST", "/v1/test-notifications", `{"device": "phone"}`, 200, "helpdesk test_notification_sent failed  phone ann@contoso.com"},
		{testToken, "POST", "/v1/test-notifications", `{"device": "phone"}`, 429, "helpdesk test_notification_sent refused tested_too_soon phone ann@contoso.com"},
		{adminToken, "PUT", "/v1/exchange/online/listen_by", `{"listen_by": "graph"}`, 200, "operator listen_by_changed done   "},
		{adminToken, "GET", "/v1/state:backup", "", 404, "operator state_backed_up refused no_state_file  "},
		{adminToken, "GET", "/v1/devices/phone", "", 200, ""}, // who reads is not in it
		{enrolToken, "DELETE", "/v1/devices/phone", "", 204, "mdm device_removed done  phone ann@contoso.com"},
		{"wrong-0123456789abcdef", "DELETE", "/v1/devices/phone", "", 401, " sign_in_refused refused   "},
	} {
		d.log.TakeAll()
		a := d.ask(t, c.token, c.method, c.target, c.body, requestID, "r-1", "X-Forwarded-For", "198.51.100.9")
		is(t, a, c.status, "")
		var got []string
		for _, l := range d.log.All() {
			m := l.ContextMap()
			if m["stream"] != "audit" {
				continue
			}
			text := func(name string) string { s, _ := m[name].(string); return s }
			got = append(got, strings.Join([]string{text("client"), text("action"), text("outcome"), text("code"), text("device"), text("mailbox")}, " "))
			if text("address") != "192.0.2.1" || text("forwarded_for") != "198.51.100.9" || text("client") != "" && text("request_id") != "r-1" {
				t.Errorf("%s %s: %v", c.method, c.target, m)
			}
		}
		var want []string
		if c.want != "" {
			want = []string{c.want}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.target, diff)
		}
	}
}

func TestAnActThatWasBegunAndDidNotSucceedHasFailed(t *testing.T) {
	d := newBackend(t)
	d.refuse = errors.New("disk full")
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 503, "")
	d.handler.Backup = func(w io.Writer) error {
		_, _ = w.Write([]byte("x"))
		return errors.New("disk full")
	}
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("a copy that was cut off looks whole")
			}
		}()
		d.ask(t, adminToken, "GET", "/v1/state:backup", "")
	}()
	var got []string
	for _, l := range d.log.All() {
		if m := l.ContextMap(); m["stream"] == "audit" {
			got = append(got, m["action"].(string)+" "+m["outcome"].(string)+" "+m["code"].(string))
		}
	}
	if diff := cmp.Diff([]string{"device_enrolled failed state_store_away", "state_backed_up failed state_store_away"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsAskedForWithHEADIsGivenToNobody(t *testing.T) {
	d := newBackend(t)
	d.handler.Backup = func(io.Writer) error {
		t.Error("a copy was made")
		return nil
	}
	is(t, d.ask(t, adminToken, "PUT", "/v1/devices/phone", enrolment), 201, "")
	d.log.TakeAll()
	for _, target := range []string{"/v1/state:backup", "/v1/devices:export?tokens=true"} {
		is(t, d.ask(t, adminToken, "HEAD", target, ""), 200, "")
	}
	if said := d.log.All(); len(said) > 0 {
		t.Errorf("the audit log: %v", said)
	}
}
