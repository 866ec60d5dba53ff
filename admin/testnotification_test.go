package admin

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestATestNotificationWithoutJavaScriptIsAPageWithItsSteps(t *testing.T) {
	s := newSite(t)
	s.enter(t, testToken)
	form := "device=bob-phone&csrf=" + s.csrf(t)
	s.post(t, "/admin/test-notifications", form).shows(t, 200, "was not accepted", "enrolment", "12 ms", "sign in", "HTTP 401: the password is wrong", "Correct password_file.",
		`href="/admin/mailboxes/bob@contoso.com?device=bob-phone"`)
	s.post(t, "/admin/test-notifications", form).shows(t, 429, "once in ten seconds")
	if !slices.Equal(s.tested, []string{"bob-phone"}) {
		t.Errorf("tested %v", s.tested)
	}
	for outcome, code := range map[string]any{"failed": nil, "refused": "tested_too_soon"} {
		lines := s.log.FilterMessage("test notification").FilterField(zap.String("outcome", outcome)).All()
		if len(lines) != 1 || lines[0].ContextMap()["client"] != "helpdesk" || fmt.Sprint(lines[0].ContextMap()["admin_page"]) != "true" || lines[0].ContextMap()["code"] != code {
			t.Errorf("%s: the log has %v", outcome, lines)
		}
	}
}

func TestOnlyWhoMaySendsATestNotification(t *testing.T) {
	s := newSite(t)
	s.enter(t, readToken)
	form := "device=bob-phone&csrf=" + s.csrf(t)
	s.post(t, "/admin/test-notifications", form).shows(t, 403, "needs test or admin")
	a := s.post(t, "/admin/test-notifications", form, "Accept", eventStream)
	if a.StatusCode != 403 || strings.Contains(a.text, "<") {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
	if strings.Contains(s.get(t, "/admin/mailboxes/bob@contoso.com").text, "test-notifications") {
		t.Error("the page offers a test to whom may not send it")
	}
	s.enter(t, adminToken)
	csrf := s.csrf(t)
	s.post(t, "/admin/test-notifications", "device=nobody&csrf="+csrf).shows(t, 404, "No device")
	s.post(t, "/admin/test-notifications", "device=bob-phone&csrf=x").shows(t, 403, "nothing was done")
	s.post(t, "/admin/test-notifications", "device=bob-phone&csrf="+csrf, "Sec-Fetch-Site", "cross-site").shows(t, 403, "nothing was done")
	s.get(t, "/admin/test-notifications?device=bob-phone&csrf="+csrf).shows(t, 404)
	if len(s.tested) != 0 {
		t.Errorf("tested %v", s.tested)
	}
}

// askForSteps has a test sent as the script of the page does; the caller closes the answer.
func (s *site) askForSteps(t *testing.T, csrf string) *http.Response {
	t.Helper()
	form := url.Values{"device": {"bob-phone"}, "csrf": {csrf}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.server.URL+"/admin/test-notifications", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", eventStream)
	a, err := s.browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTheStepsOfATestAreToldAsTheyHappen(t *testing.T) {
	s := newSite(t)
	s.stepped = make(chan struct{})
	s.enter(t, testToken)
	a := s.askForSteps(t, s.csrf(t))
	defer a.Body.Close()
	if got := a.Header.Get("Content-Type"); got != eventStream {
		t.Fatalf("Content-Type: %s", got)
	}
	lines := bufio.NewScanner(a.Body)
	for _, want := range []string{"enrolment", "location", "HTTP 401: the password is wrong"} {
		s.stepped <- struct{}{} // and not one step further
		event(t, lines, "step", want)
	}
	event(t, lines, "verdict", "was not accepted")
}

// event reads the next event and checks its name and that it has a text.
func event(t *testing.T, lines *bufio.Scanner, name, text string) {
	t.Helper()
	var got, data string
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "event: "):
			got = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			data += line[len("data: "):] + "\n"
		case line == "" && got != "":
			if got != name || !strings.Contains(data, text) {
				t.Fatalf("the event is %s: %s, want %s with %q", got, data, name, text)
			}
			return
		}
	}
	t.Fatalf("the stream ended before %s: %v", name, lines.Err())
}

// The script shows what it is answered, as words.
func TestATestThatCannotBeToldAsItHappensIsRefusedInWords(t *testing.T) {
	s := newSite(t)
	s.enter(t, testToken)
	send := func(csrf string) (*http.Response, string) {
		a := s.askForSteps(t, csrf)
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a, string(text)
	}
	if a, text := send("of another session"); a.StatusCode != http.StatusForbidden || strings.Contains(text, "<") || !strings.Contains(text, "Open the page again") {
		t.Errorf("%d %s", a.StatusCode, text)
	}
	csrf := s.csrf(t)
	for range maxStreams {
		s.pages.streams <- struct{}{}
	}
	if a, text := send(csrf); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "Too many pages") || a.Header.Get("Retry-After") == "" {
		t.Errorf("%d %q", a.StatusCode, text)
	}
	if len(s.tested) != 0 {
		t.Errorf("tested %v", s.tested)
	}
}
