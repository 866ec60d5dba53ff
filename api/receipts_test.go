package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/simulator/phonekey"
	"github.com/mailbell/mailbell/subscriptions"
)

// keyOf makes the key of a phone, and its public half as an app enrols it.
func keyOf(t testing.TB) (key *phonekey.Key, public string) {
	t.Helper()
	key, err := phonekey.New()
	if err != nil {
		t.Fatal(err)
	}
	return key, key.Public()
}

// signature is the header of a request that a phone signed.
func signature(t testing.TB, key *phonekey.Key, text string) string {
	t.Helper()
	s, err := key.Sign([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// enrolWith enrols the device phone with a key.
func (d *backend) enrolWith(t testing.TB, public string) {
	t.Helper()
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", strings.Replace(enrolment, "{", `{"receipt_key": "`+public+`", `, 1)), 201, "")
}

func receiptBody(at time.Time) string {
	return fmt.Sprintf(`{"d": "phone", "shown": [{"m": %q, "at": %q}, {"at": %[2]q}]}`, mail.Key{1, 2}, at.UTC().Format(time.RFC3339Nano))
}

func TestAReceiptNeedsNoTokenAndTheSignatureOfThePhone(t *testing.T) {
	d := newBackend(t)
	key, public := keyOf(t)
	d.enrolWith(t, public)
	now := time.Now()
	body := receiptBody(now)
	for range 2 { // an app that got no answer sends them again
		is(t, d.ask(t, "", "POST", "/v1/receipts", body, signatureHeader, signature(t, key, "POST /v1/receipts\n"+body)), 204, "")
	}
	if len(d.shown) != 2 || d.shown[0].Key != (mail.Key{1, 2}) || d.shown[0].At.Sub(now).Abs() > time.Millisecond {
		t.Errorf("%+v", d.shown)
	}
	is(t, d.ask(t, "", "GET", "/v1/receipts", ""), 401, "")
	is(t, d.ask(t, adminToken, "GET", "/v1/receipts", ""), 405, "")
}

func TestAReceiptIsSentAgainWhereTheStateIsAway(t *testing.T) {
	d := newBackend(t)
	key, public := keyOf(t)
	d.enrolWith(t, public)
	body := receiptBody(time.Now())
	send := func() *http.Response {
		return d.ask(t, "", "POST", "/v1/receipts", body, signatureHeader, signature(t, key, "POST /v1/receipts\n"+body))
	}
	d.away = errors.New("connection refused")
	is(t, send(), 503, "")
	var m Mailbox
	if err := json.NewDecoder(d.ask(t, readToken, "GET", "/v1/mailboxes/ann@contoso.com", "").Body).Decode(&m); err != nil || m.Unread != "connection refused" {
		t.Errorf("decisions are missing, and %q is said: %v", m.Unread, err)
	}
	d.away = nil
	is(t, send(), 204, "")
}

func TestAWrongSignatureAndAnUnknownDeviceHaveOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // answers to wrong signatures become slow
		d := newBackend(t)
		defer d.handler.Close()
		key, public := keyOf(t)
		other, _ := keyOf(t)
		d.enrolWith(t, public)
		is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/without", strings.Replace(enrolment, "ann@", "bob@", 1)), 201, "")
		body := receiptBody(time.Now())
		good := signature(t, key, signedReceipts+body)
		var first string
		for name, c := range map[string]struct{ body, signature string }{
			"no signature":            {body, ""},
			"not base64":              {body, strings.Repeat("-", 88)},
			"in base64url":            {body, strings.NewReplacer("+", "-", "/", "_").Replace("++//" + good[4:])},
			"too short":               {body, good[:84]},
			"of another key":          {body, signature(t, other, signedReceipts+body)},
			"of another body":         {body + " ", good},
			"of another call":         {body, signature(t, key, signedSelfCheck+body)},
			"of the body alone":       {body, signature(t, key, body)},
			"of an unknown device":    {strings.Replace(body, "phone", "nobody", 1), signature(t, key, signedReceipts+strings.Replace(body, "phone", "nobody", 1))},
			"of a device without key": {strings.Replace(body, "phone", "without", 1), signature(t, key, signedReceipts+strings.Replace(body, "phone", "without", 1))},
		} {
			a := d.ask(t, "", "POST", "/v1/receipts", c.body, signatureHeader, c.signature)
			all, _ := io.ReadAll(a.Body)
			a.Header.Del(requestID) // of each another
			got := fmt.Sprint(a.StatusCode, a.Header, string(all))
			if first == "" {
				first = got
			}
			if a.StatusCode != http.StatusForbidden || got != first {
				t.Errorf("%s: %s, and not %s", name, got, first)
			}
		}
		if len(d.shown) != 0 {
			t.Errorf("taken: %+v", d.shown)
		}
		if n := d.log.FilterMessage("sign-in with a wrong token").Len(); n == 0 {
			t.Error("the log says nothing of it")
		}
	})
}

func TestAPhoneThatSendsTooMuchIsToldToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		defer d.handler.Close()
		key, public := keyOf(t)
		d.enrolWith(t, public)
		body := receiptBody(time.Now())
		signed := signature(t, key, signedReceipts+body)
		status := 0
		var last *http.Response
		for range 100 {
			last = d.ask(t, "", "POST", "/v1/receipts", body, signatureHeader, signed)
			status = last.StatusCode
			if status != http.StatusNoContent {
				break
			}
		}
		if status != http.StatusTooManyRequests || last.Header.Get("Retry-After") != "1" {
			t.Errorf("%d %s", status, last.Header)
		}
	})
}

func TestAWrongReceiptIsRefusedWithAllThatIsWrong(t *testing.T) {
	d := newBackend(t)
	long := strings.Repeat(`{"at": "2026-03-01T12:00:00Z"},`, receipts.MaxShown) + `{"at": "2026-03-01T12:00:00Z"}`
	for name, c := range map[string]struct{ body, want string }{
		"not JSON":       {"d=phone", "400"},
		"empty":          {"{}", "422 d required, shown required"},
		"wrong types":    {`{"d": 1, "shown": {}}`, "422 d wrong_type, shown wrong_type"},
		"none":           {`{"d": "phone", "shown": []}`, "422 shown invalid"},
		"too many":       {`{"d": "phone", "shown": [` + long + `]}`, "422 shown invalid"},
		"no object":      {`{"d": "phone", "shown": [1, null]}`, "422 shown[0] wrong_type, shown[1] wrong_type"},
		"wrong members":  {`{"d": "a b", "x": 1, "shown": [{"m": "AQ", "at": "now", "y": 1}, {}]}`, "422 d invalid, shown[0].m invalid, shown[0].at invalid, shown[0].y unknown, shown[1].at required, x unknown"},
		"a key too long": {`{"d": "phone", "shown": [{"m": "AQAAAAAAAAAAAAAAAAAAAA\n", "at": "2026-03-01T12:00:00Z"}]}`, "422 shown[0].m invalid"},
		"a member twice": {`{"d": "phone", "shown": [{"at": "2026-03-01T12:00:00Z", "at": "2026-03-01T12:00:00Z"}]}`, "422 shown[0] wrong_type"},
		"too large":      {`{"d": "phone"` + strings.Repeat(" ", maxSigned) + `}`, "413"},
	} {
		if got := told(t, d.ask(t, "", "POST", "/v1/receipts", c.body)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestTheDocumentationForAppsHasWhatASignatureTakes(t *testing.T) {
	text, err := os.ReadFile("../docs/payload.md")
	if err != nil {
		t.Fatal(err)
	}
	row := func(name string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^    ` + name + ` +(.+)$`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("there is no %s", name)
		}
		return string(m[1])
	}
	d := newBackend(t)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/ann-phone", strings.Replace(enrolment, "{", `{"receipt_key": "`+row("receipt_key")+`", `, 1)), 201, "")
	is(t, d.ask(t, "", "POST", "/v1/receipts", row("body"), "Mailbell-Signature", row("Mailbell-Signature")), 204, "")
	for _, want := range []string{`Data("POST /v1/receipts\n".utf8) + body`, `forHTTPHeaderField: "Mailbell-Signature"`, fmt.Sprintf("%d receipts in `shown`", receipts.MaxShown)} {
		if !strings.Contains(string(text), want) {
			t.Errorf("it lacks %q", want)
		}
	}
}

func TestAMailboxSaysWhetherItsPhonesAnswer(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 201, "")
	var m Mailbox
	read := func() {
		t.Helper()
		m = Mailbox{}
		if err := json.NewDecoder(d.ask(t, readToken, "GET", "/v1/mailboxes/ann@contoso.com", "").Body).Decode(&m); err != nil {
			t.Fatal(err)
		}
	}
	if read(); m.DeviceStates[0].Receipts != nil {
		t.Error("a phone without a key has receipts")
	}
	_, public := keyOf(t)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", strings.Replace(enrolment, "{", `{"receipt_key": "`+public+`", `, 1)), 200, "")
	if read(); m.DeviceStates[0].Receipts == nil || *m.DeviceStates[0].Receipts != (DeviceReceipts{Accepted: 1}) {
		t.Errorf("%+v", m.DeviceStates[0].Receipts)
	}
	d.shownAt = noon.Add(3 * time.Second)
	if read(); *m.DeviceStates[0].Receipts != (DeviceReceipts{Accepted: 1, Shown: 1}) || !m.Decisions[1].Shown.Equal(d.shownAt) || !m.Decisions[0].Shown.IsZero() {
		t.Errorf("%+v %+v", m.DeviceStates[0].Receipts, m.Decisions)
	}
}

func TestAnAlertOfTheLastMinuteIsNotMissedYet(t *testing.T) {
	d := newBackend(t)
	_, public := keyOf(t)
	now := time.Now()
	device := subscriptions.Device{ID: "ann", ReceiptKey: public}
	one := func(age time.Duration, shown bool) subscriptions.Decision {
		s := subscriptions.Decision{Device: "ann", Outcome: outcome.Accepted, At: now.Add(-age)}
		if shown {
			s.Shown = s.At.Add(time.Second)
		}
		return s
	}
	list := []subscriptions.Decision{one(time.Second, false), one(2*time.Second, true), one(answering, false), one(time.Hour, true),
		{Device: "bob", Outcome: outcome.Accepted}, {Device: "ann", Outcome: outcome.Refused}}
	if got := *d.handler.receiptsOf(device, list, now); got != (DeviceReceipts{Accepted: 3, Shown: 2}) {
		t.Errorf("%+v", got)
	}
}

func TestASentenceSaysWhetherThePhoneAnswers(t *testing.T) {
	var got []string
	for _, r := range []DeviceReceipts{{}, {Accepted: 1}, {Accepted: 1, Shown: 1}, {Accepted: 3}, {Accepted: 3, Shown: 2}, {Accepted: 3, Shown: 3}} {
		got = append(got, r.Sentence())
	}
	want := []string{
		"No alert is remembered that the phone could have confirmed.", "The phone has not confirmed its last alert.", "The phone has confirmed its last alert.",
		"The phone has confirmed none of its last 3 alerts.", "The phone has not confirmed 1 of its last 3 alerts.", "The phone has confirmed its last 3 alerts.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzReceipts(f *testing.F) {
	f.Add([]byte(receiptBody(noon)))
	f.Add([]byte(`{"d": "a", "shown": [{"m": null, "at": "9999-12-31T23:59:59Z"}, [], 1e9, {"at": {}}]}`))
	f.Add([]byte(`{"d": "a", "d": "b"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		device, list, err := readReceipts(body)
		if err != nil {
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Status != 400 && p.Status != 422 || (p.Status == 422) != (len(p.Errors) > 0) || len(p.Errors) > maxErrors {
				t.Fatalf("%#v", err)
			}
			return
		}
		if !pattern.Device.Matches(device) || len(list) == 0 || len(list) > receipts.MaxShown || slices.ContainsFunc(list, func(s receipts.Shown) bool { return s.At.IsZero() && s.At.Year() != 1 }) {
			t.Fatalf("passed: %q %+v", device, list)
		}
	})
}

func TestAPhoneLearnsHowItStandsAndNothingOfOthers(t *testing.T) {
	d := newBackend(t)
	key, public := keyOf(t)
	d.enrolWith(t, public)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/tablet", strings.NewReplacer(deviceHex, strings.Repeat("ab", 32), "sandbox", "production").Replace(enrolment)), 201, "")
	ask := func(at time.Time) *http.Response {
		body := fmt.Sprintf(`{"d": "phone", "at": %q}`, at.Format(time.RFC3339))
		return d.ask(t, "", "POST", "/v1/self-check", body, signatureHeader, signature(t, key, "POST /v1/self-check\n"+body))
	}
	is(t, ask(time.Now()), 200, fmt.Sprintf(`{"d": "phone", "token": "9c1d2e3f", "topic": "com.contoso.mail", "environment": "sandbox", "enrolled": "2026-03-01T12:00:00Z",
		"alerts": true, "state": "listening", "says": %q,
		"last_alert": {"message": %q, "device": "phone", "outcome": "accepted", "received": "2026-03-01T12:00:00Z", "decided": "2026-03-01T12:00:00Z",
			"apns_id": "0c5f0000-0000-0000-0000-000000000000", "apns_status": 200}}`, says(subscriptions.Listening), mail.Key{1}))
	if got := told(t, ask(time.Now().Add(-mail.Tolerance-time.Minute))); got != "422 at invalid" {
		t.Errorf("an old question: %s", got)
	}
	if got := told(t, d.ask(t, "", "POST", "/v1/self-check", `{"d": "phone"}`)); got != "422 at required" {
		t.Errorf("without a time: %s", got)
	}
	body := fmt.Sprintf(`{"d": "phone", "at": %q}`, time.Now().Format(time.RFC3339))
	is(t, d.ask(t, "", "POST", "/v1/self-check", body, signatureHeader, signature(t, key, signedReceipts+body)), 403, "")
}

func TestAPhoneLearnsThatNoAlertsAreSent(t *testing.T) {
	d := newBackend(t)
	d.handler.SendOff = true
	s := d.handler.standingOf(t.Context(), subscriptions.Device{ID: "phone", Token: deviceHex})
	if s.Alerts || s.State != subscriptions.Listening || !strings.Contains(s.Says, "switched alerts off") || s.Cause != "nothing is sent" {
		t.Errorf("%+v", s)
	}
}

func TestAPhoneThatIsBehindLearnsWhyAndUntilWhen(t *testing.T) {
	d := newBackend(t)
	s := d.handler.standingOf(t.Context(), subscriptions.Device{ID: "quiet", Token: deviceHex})
	if s.Alerts || s.State != subscriptions.BehindState || s.Says != says(subscriptions.BehindState) || s.Cause != "it is throttled" || !s.NextTry.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v", s)
	}
}

func TestEveryStateHasASentenceForThePerson(t *testing.T) {
	states := append(subscriptions.States(), subscriptions.BehindState, subscriptions.RefusedState)
	seen := map[string]bool{}
	for _, s := range states {
		if seen[says(s)] || says(s) == "" {
			t.Errorf("%s: %q", s, says(s))
		}
		seen[says(s)] = true
	}
}

func FuzzSelfCheck(f *testing.F) {
	f.Add([]byte(`{"d": "phone", "at": "2026-11-28T09:30:00Z"}`))
	f.Add([]byte(`{"d": null, "at": "0000-01-01T00:00:00+24:00", "x": []}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		device, _, err := readSelfCheck(body)
		if p, ok := errors.AsType[*Problem](err); err != nil && (!ok || p.Status != 400 && p.Status != 422) {
			t.Fatalf("%#v", err)
		}
		if err == nil && !pattern.Device.Matches(device) {
			t.Fatalf("passed: %q", device)
		}
	})
}

// counting counts what is read.
type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}

func TestNoMoreOfAPhonesRequestIsReadThanItMayHave(t *testing.T) {
	d := newBackend(t)
	for _, target := range []string{"/v1/receipts", "/v1/self-check"} {
		body := &counting{Reader: strings.NewReader(strings.Repeat(" ", maxBody))}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, target, body)
		r.ContentLength = maxBody
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if w.Code != http.StatusRequestEntityTooLarge || body.n > maxSigned+1 {
			t.Errorf("%s: %d after %d bytes", target, w.Code, body.n)
		}
	}
}
