package main_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// person is somebody who signed in to the admin page.
type person struct {
	inst   *installation
	cookie string
}

// signIn signs in with the token of the operator.
func (inst *installation) signIn() person {
	inst.t.Helper()
	p := person{inst: inst}
	resp, _ := p.do(http.MethodPost, "/admin/sign-in", url.Values{"token": {inst.token}}, "")
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		inst.t.Fatalf("sign-in: %d", resp.StatusCode)
	}
	p.cookie = resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
	return p
}

// do asks for a page, or posts a form, and follows no redirect.
func (p person) do(method, path string, form url.Values, accept string) (*http.Response, string) {
	p.inst.t.Helper()
	req, err := http.NewRequestWithContext(p.inst.t.Context(), method, p.inst.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.inst.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Cookie", p.cookie)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := p.inst.client.Transport.RoundTrip(req)
	if err != nil {
		p.inst.t.Fatalf("%s %s: %v", method, path, err)
	}
	if accept != "" { // whoever asked reads it
		return resp, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.inst.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(text)
}

func TestTheAdminPageAnswersWhyAPhoneIsSilentAndNeverShowsContent(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 2})
	inst.start()
	b := inst.boxes[0]
	inst.enrol(b, "phone")
	inst.enrol(inst.boxes[1], "other")
	inst.awaitListening()
	subject := `Merger "><script>alert(1)</script> ` + "=?utf-8?q?=E2=80=AE?="
	message := fmt.Sprintf("From: \"Zephyrine <img src=x> Quill\" <quill@sender.example>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <1@sender.example>\r\n\r\nBodkin.\r\n",
		b.address, subject, time.Now().Format(time.RFC1123Z))
	if _, err := inst.sim.Deliver(b.address, time.Time{}, []byte(message)); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the message is alerted", func() bool { return inst.sim.Counts().Accepted > 0 })

	p := inst.signIn()
	resp, _ := p.do(http.MethodGet, "/admin/search?q=phone", nil, "")
	page := resp.Header.Get("Location")
	if want := "/admin/mailboxes/" + b.address + "?device=phone"; page != want {
		t.Fatalf("the search leads to %q, want %q", page, want)
	}
	var text string
	eventually(t, soon, "the page shows the outcome", func() bool {
		_, text = p.do(http.MethodGet, page, nil, "")
		return strings.Contains(text, ">accepted<")
	})
	_, overview := p.do(http.MethodGet, "/admin/", nil, "")
	for _, want := range []string{"listener-01", "com.contoso.mail", "takes writes", "2 of 2 mailboxes are listened to"} {
		if !strings.Contains(overview, want) {
			t.Errorf("the overview does not show %q", want)
		}
	}
	for _, content := range []string{"Merger", "alert(1)", "Quill", "quill@", "Bodkin"} {
		if strings.Contains(text+overview, content) {
			t.Errorf("a page shows %q of a message", content)
		}
	}

	_, rest, _ := strings.Cut(text, `name="csrf" value="`)
	csrf, _, _ := strings.Cut(rest, `"`)
	_, good := p.do(http.MethodPost, "/admin/test-notifications", url.Values{"device": {"phone"}, "csrf": {csrf}}, "")
	if !strings.Contains(good, "APNs accepted the test alert for phone") {
		t.Errorf("a test of a good installation: %s", good)
	}
	inst.fault("impersonation_refused", simulator.Fault{})
	_, bad := p.do(http.MethodPost, "/admin/test-notifications", url.Values{"device": {"other"}, "csrf": {csrf}}, "")
	if !strings.Contains(bad, "was not accepted") || !strings.Contains(bad, "ErrorImpersonateUserDenied") {
		t.Errorf("a test without the right to impersonate: %s", bad)
	}
	inst.clear("impersonation_refused")

	// A page that somebody has open does not hold up the stop.
	stream, _ := p.do(http.MethodGet, "/admin/", nil, "text/event-stream")
	defer stream.Body.Close()
	if _, err := stream.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if code := inst.service().terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > stopTime/3 {
		t.Errorf("the stop took %v", took)
	}
	if log := inst.service().stderr(); strings.Contains(log, "cut off at the stop") {
		t.Error("the open page was cut off")
	}
}
