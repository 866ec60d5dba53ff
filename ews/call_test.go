package ews

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/internal/requestid"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

// exchange starts a TLS server, and returns a client that signs in there, and its URL.
func exchange(t *testing.T, o Options, h http.HandlerFunc) (*Client, string) {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := proxy.LoadRoots(file)
	if err != nil {
		t.Fatal(err)
	}
	rt := auth.Basic{Username: `CONTOSO\svc-bell`, Password: "pass"}.RoundTripper(auth.Hosts{URLs: []string{srv.URL}}, proxy.Settings{Roots: roots}, 4)
	t.Cleanup(rt.(interface{ CloseIdleConnections() }).CloseIdleConnections)
	o.HTTP = rt
	if o.UserAgent == "" {
		o.UserAgent = "mailbell/1.2.3"
	}
	return New(o), srv.URL + "/EWS/Exchange.asmx"
}

func TestARequestSaysWhoAsksForWhomAndWhere(t *testing.T) {
	var got *http.Request
	var body string
	c, url := exchange(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		w.Header().Set("X-CalculatedBETarget", "ex01.contoso.com")
		w.Header().Add("Set-Cookie", "exchangecookie=ddb8c383; path=/; HttpOnly")
		w.Header().Add("Set-Cookie", "X-BackEndOverrideCookie=CO1PR06MB222.namprd06.prod.outlook.com~1941996295; path=/; secure; HttpOnly")
		io.WriteString(w, sample(t, "02"))
	})
	id, a, err := c.Subscribe(t.Context(), Target{URL: url, Mailbox: "mara&co@contoso.com", Anchor: "alfred@contoso.com", Affinity: true, Cookie: "CO1~1"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "JgBibjFwcjAzbWIyMDIubmFtcHJkMDMucHJvZC5vdXRsb29rLmNvbRAAAADwXxVesOnHS5BxUHKwAW88SHjwd1iB0Ag="; id != want {
		t.Errorf("id %q", id)
	}
	want := http.Header{
		"Authorization": {"Basic Q09OVE9TT1xzdmMtYmVsbDpwYXNz"}, "Content-Type": {"text/xml; charset=utf-8"}, "Accept": {"text/xml"}, "User-Agent": {"mailbell/1.2.3"},
		"Client-Request-Id": {a.RequestID}, "Return-Client-Request-Id": {"true"}, "X-Anchormailbox": {"alfred@contoso.com"}, "X-Preferserveraffinity": {"true"},
		"Cookie": {"X-BackEndOverrideCookie=CO1~1"}, "Content-Length": got.Header["Content-Length"],
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got.ContentLength != int64(len(body)) || len(got.TransferEncoding) != 0 || got.Method != "POST" || got.URL.Path != "/EWS/Exchange.asmx" {
		t.Errorf("%s %s, length %d of %d, %v", got.Method, got.URL.Path, got.ContentLength, len(body), got.TransferEncoding)
	}
	if !strings.Contains(body, "<t:PrimarySmtpAddress>mara&amp;co@contoso.com</t:PrimarySmtpAddress>") {
		t.Errorf("body %s", body)
	}
	if a.Backend != "ex01.contoso.com" || a.Cookie != "CO1PR06MB222.namprd06.prod.outlook.com~1941996295" || a.ServerTime.IsZero() || a.Began.IsZero() || a.Ended.Before(a.Began) {
		t.Errorf("answer %+v", a)
	}

	if _, _, err := c.Subscribe(t.Context(), Target{URL: url, Mailbox: "mara@contoso.com"}); err != nil {
		t.Fatal(err)
	}
	if h := got.Header; h.Get("X-AnchorMailbox") != "mara@contoso.com" || h.Get("Cookie") != "" || h.Get("X-PreferServerAffinity") != "" {
		t.Errorf("without a group: %v", h)
	}
	if _, _, err := c.Subscribe(t.Context(), Target{URL: url}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(body, "Impersonation") || got.Header.Get("X-AnchorMailbox") != "" {
		t.Errorf("without a mailbox: %v %s", got.Header, body)
	}
}

func TestAConnectionIsUsedAgain(t *testing.T) {
	remotes := map[string]bool{}
	c, url := exchange(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		remotes[r.RemoteAddr] = true
		io.WriteString(w, sample(t, "02"))
		w.(http.Flusher).Flush() // chunked
		io.WriteString(w, "\r\n")
	})
	for range 5 {
		if _, _, err := c.Subscribe(t.Context(), Target{URL: url}); err != nil {
			t.Fatal(err)
		}
	}
	if len(remotes) != 1 {
		t.Errorf("%d connections", len(remotes))
	}
}

func TestCredentialsNeverGoElsewhere(t *testing.T) {
	c, url := exchange(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stolen" {
			t.Error("the redirect was followed")
		}
		http.Redirect(w, r, "/stolen", http.StatusFound)
	})
	_, _, err := c.Subscribe(t.Context(), Target{URL: url})
	if e := fault.Of(err); e.Code != CodeRedirect || e.Remedy != fault.Fix || !strings.Contains(e.Text, `it leads to "127.0.0.1`) {
		t.Errorf("redirect: %v", err)
	}
	_, _, err = c.Subscribe(t.Context(), Target{URL: strings.Replace(url, "https:", "http:", 1)})
	if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Scope != fault.Mailbox || e.Fault.Remedy != fault.Fix || e.Fault.Code != auth.CodeHost {
		t.Errorf("http: %v", err)
	}
	_, _, err = c.Subscribe(t.Context(), Target{URL: strings.Replace(url, "127.0.0.1", "localhost", 1)})
	if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Scope != fault.Mailbox || e.Fault.Code != auth.CodeHost || !e.Fault.Moved || !strings.Contains(e.Fault.Text, "trusted_hosts") {
		t.Errorf("another host than is configured: %v", err)
	}
}

func TestACallHasItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := streams(Options{Timeout: 7 * time.Second}, func(w *io.PipeWriter) { io.WriteString(w, "<s:Envelope xmlns:s='u'>") })
		began := time.Now()
		_, _, err := c.GetItem(t.Context(), target, []string{"a"})
		if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != proxy.CodeTimeout || e.Fault.Scope != fault.Server || time.Since(began) != 7*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = c.GetItem(ctx, target, []string{"a"})
		if _, ok := errors.AsType[*Error](err); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's own end is nobody's fault: %v", err)
		}
	})
}

func TestASilentServerIsGivenUpOverTLSToo(t *testing.T) {
	c, url := exchange(t, Options{Timeout: 100 * time.Millisecond, Silence: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if len(r.Header["X-Idempotency-Key"]) != 0 {
			t.Error("net/http's own sign was sent")
		}
		io.WriteString(w, streaming(heartbeat)[:200])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	_, _, err := c.GetItem(t.Context(), Target{URL: url}, []string{"a"})
	if e := fault.Of(err); e.Code != proxy.CodeTimeout || e.Scope != fault.Server {
		t.Errorf("call: %v", err)
	}
	s, err := c.GetStreamingEvents(t.Context(), Target{URL: url}, []string{"a"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Next(); fault.Of(err).Code != CodeHeldBack {
		t.Errorf("stream: %v", err)
	}
}

func TestAURLThatIsNoneIsAFault(t *testing.T) {
	if _, _, err := answers(200, "").Subscribe(t.Context(), Target{URL: "https://%zz/"}); fault.Of(err).Code != CodeURL || fault.Of(err).Remedy != fault.Fix {
		t.Errorf("%v", err)
	}
}

func TestCallsKeepToTheirBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		began := time.Now()
		const perSecond = 4 // three at once, and then three a second: what is not live mail has three quarters
		c := New(Options{Pace: pace.New(perSecond, 3), HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-time.After(100 * time.Millisecond)
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(sample(t, "02")))}, nil
		})})
		done := make(chan error)
		for range 10 {
			go func() {
				_, _, err := c.Subscribe(t.Context(), target)
				done <- err
			}()
		}
		for range 10 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began).Round(time.Second / 10); most.Load() != 3 || took != 2400*time.Millisecond {
			t.Errorf("%d at once, in %v", most.Load(), took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := c.Subscribe(ctx, target); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestAnErrorBeforeTheSuccessIsSurvived(t *testing.T) {
	c := answers(200, sample(t, "34")+"\n"+sample(t, "02"))
	if id, _, err := c.Subscribe(t.Context(), target); err != nil || id == "" {
		t.Errorf("%q, %v", id, err)
	}
	c = answers(200, sample(t, "34")+sample(t, "12"))
	if _, _, err := c.Subscribe(t.Context(), target); fault.Of(err).Code != "ErrorServerBusy" {
		t.Errorf("two errors: the first speaks, got %v", err)
	}
}

func TestWhatIsKeptOfASubscriptionIsBounded(t *testing.T) {
	for length, fits := range map[int]bool{maxID: true, maxID + 1: false, 900_000: false} {
		subscribed := response("Subscribe", success("Subscribe", `<m:SubscriptionId>`+strings.Repeat("i", length)+`</m:SubscriptionId>`))
		_, _, err := answers(http.StatusOK, subscribed).Subscribe(t.Context(), target)
		_, _, _, pushErr := answers(http.StatusOK, subscribed).SubscribePush(t.Context(), target, Push{Frequency: time.Minute})
		for _, err := range []error{err, pushErr} {
			if fits != (err == nil) || err != nil && (fault.Of(err).Code != CodeUnparseableAnswer || len(err.Error()) > 500) {
				t.Errorf("an id of %d bytes: %.500v", length, err)
			}
		}
	}
	folder := response("GetFolder", success("GetFolder", `<m:Folders><t:Folder><t:FolderId Id="AQApA="/></t:Folder></m:Folders>`))
	for length, want := range map[int]int{maxCookie: maxCookie, maxCookie + 1: 0} {
		a, err := answers(http.StatusOK, folder, "Set-Cookie", overrideCookie+"="+strings.Repeat("c", length)).GetFolder(t.Context(), target)
		if err != nil || len(a.Cookie) != want {
			t.Errorf("a cookie of %d bytes: %d, %v", length, len(a.Cookie), err)
		}
	}
}

func TestOfficialSamplesAreUnderstood(t *testing.T) {
	for _, name := range []string{"02", "07", "11", "14"} {
		if id, _, err := answers(200, sample(t, name)).Subscribe(t.Context(), target); err != nil || id == "" {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
	if err := answers(200, sample(t, "19")).Unsubscribe(t.Context(), target, "x"); err != nil {
		t.Errorf("19: %v", err)
	}
	for name, want := range map[string]string{
		"05": "ErrorInvalidSubscription", "12": "ErrorSubscriptionDelegateAccessNotSupported", "17": "ErrorSubscriptionAccessDenied", "20": "ErrorSubscriptionNotFound",
		"34": "ErrorServerBusy", "35": "ErrorSchemaValidation",
	} {
		for _, status := range []int{200, 500} {
			err := answers(status, sample(t, name)).Unsubscribe(t.Context(), target, "x")
			if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != want || e.RequestID == "" {
				t.Errorf("%s with status %d: %v, want %s", name, status, err, want)
			}
		}
	}
	l, err := answers(200, sample(t, "26")).FindItem(t.Context(), target, 0, 6)
	if err != nil || len(l.Messages) != 6 || l.Messages[4].Subject != "For your perusal" || l.Last || l.Next != 6 || l.Total != 8 {
		t.Errorf("26: %+v, %v", l, err)
	}
}

func TestItemsOfAnOfficialSampleAreUnderstood(t *testing.T) {
	// There is no official answer of GetItem; the items of SyncFolderItems have the same form.
	s := &scanner{doc: []byte(sample(t, "23"))}
	var got []mail.Message
	var walk func()
	walk = func() {
		for at := s.depth; s.child(at); {
			if string(s.name) != "Message" {
				walk()
				continue
			}
			var m mail.Message
			message(s, &m, "")
			got = append(got, m)
		}
	}
	walk()
	if s.err != nil || len(got) < 2 {
		t.Fatalf("%d items, %v", len(got), s.err)
	}
	want := mail.Message{
		ItemID: "q04QAAAA==", Class: "IPM.Note", Subject: "RE: Company Soccer Team", Received: time.Date(2013, 8, 29, 15, 22, 10, 0, time.UTC),
		Sent: time.Date(2013, 8, 29, 15, 22, 10, 0, time.UTC), Thread: "AAQkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwAQACAi+NTh0F5Eg5YDwpJsXPE=",
		InternetID: got[0].InternetID, From: got[0].From, Read: got[0].Read,
	}
	if diff := cmp.Diff(want, got[0]); diff != "" || !strings.HasSuffix(got[0].From.Address, "@contoso.com") {
		t.Errorf("(-want +got):\n%s\n%+v", diff, got[0].From)
	}
}

func TestARequestIDIsARandomUUID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	kinds := map[byte]bool{}
	for range 200 {
		id := requestid.New()
		if !form.MatchString(id) {
			t.Fatalf("%s is no UUID of version 4", id)
		}
		kinds[id[15]], kinds[id[20]] = true, true
	}
	if len(kinds) != 16 {
		t.Errorf("the digits beside version and variant take %d values", len(kinds))
	}
}

func TestOfSeveralErrorsTheFirstSpeaks(t *testing.T) {
	two := failure("Unsubscribe", "ErrorAccessDenied", "x", "") + failure("Unsubscribe", "ErrorServerBusy", "x", "")
	for name, body := range map[string]string{
		"then another":   response("Unsubscribe", two),
		"then a success": response("Unsubscribe", failure("Unsubscribe", "ErrorAccessDenied", "x", "")+success("Unsubscribe", "")),
		"after one":      response("Unsubscribe", success("Unsubscribe", "")+failure("Unsubscribe", "ErrorAccessDenied", "x", "")),
	} {
		if err := answers(200, body).Unsubscribe(t.Context(), target, "x"); fault.Of(err).Code != "ErrorAccessDenied" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnEmptyTextTakesNoneAway(t *testing.T) {
	body := response("Unsubscribe", failure("Unsubscribe", "ErrorAccessDenied", "Access is denied.", "<m:Message> </m:Message>"))
	if err := answers(200, body).Unsubscribe(t.Context(), target, "x"); !strings.Contains(err.Error(), "Access is denied.") {
		t.Error(err)
	}
}

func TestWithoutSettingsCallsHaveTheirBoundsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		began := time.Now()
		done := make(chan error)
		for range 300 {
			go func() {
				_, _, err := c.Subscribe(t.Context(), target)
				done <- err
			}()
		}
		if err := <-done; fault.Of(err).Code != CodeHangs || time.Since(began) != 2*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		for range 299 {
			<-done
		}
		if most.Load() != pace.MaxInFlight/8 {
			t.Errorf("%d calls at once", most.Load())
		}
	})
}

func TestBehindAnAnswerLittleIsRead(t *testing.T) {
	body := strings.NewReader(sample(t, "02") + strings.Repeat(" ", 1<<20))
	size := body.Len()
	c := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(body)}, nil
	})})
	if _, _, err := c.Subscribe(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	if read := size - body.Len(); read > 16<<10 {
		t.Errorf("%d bytes", read)
	}
}

// A gateway may pass on all that the server has said, and not that it has ended.
func TestAnAnswerThatDoesNotEndIsTakenWithinASecond(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   string
	}{
		"a success": {200, sample(t, "19"), ""}, "an error": {200, sample(t, "20"), "ErrorSubscriptionNotFound"},
		"a fault": {500, soapFaultOf("a:ErrorServerBusy", "x", "<e:ResponseCode xmlns:e=\"u\">ErrorServerBusy</e:ResponseCode>"), "ErrorServerBusy"},
	} {
		synctest.Test(t, func(t *testing.T) {
			client := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
				read, write := io.Pipe()
				go func() { _, _ = io.WriteString(write, c.body) }()
				return &http.Response{StatusCode: c.status, Request: r, Body: read}, nil
			})})
			began := time.Now()
			err := client.Unsubscribe(t.Context(), target, "x")
			code := ""
			if err != nil {
				code = fault.Of(err).Code
			}
			if code != c.code || time.Since(began) > trailing {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
		})
	}
}

// body is one of an answer that says when it is closed.
type body struct {
	io.Reader
	closed *int
}

func (b body) Close() error { *b.closed++; return nil }

func TestEveryAnswerIsClosedWhateverItSays(t *testing.T) {
	busy := soapFaultOf("a:ErrorServerBusy", "x", "")
	for name, c := range map[string]struct {
		status int
		media  string
		body   string
	}{
		"a success": {200, "text/xml", sample(t, "19")}, "an error": {200, "text/xml", sample(t, "20")}, "nothing": {200, "text/xml", ""}, "cut off": {200, "text/xml", sample(t, "19")[:300]},
		"a web page": {200, "text/html", "<html>"}, "a redirect": {302, "", ""}, "a fault": {500, "text/xml", busy}, "a refusal": {403, "text/html", "<html>"},
	} {
		closed := 0
		client := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: c.status, Request: r, Header: http.Header{"Content-Type": {c.media}}, Body: body{strings.NewReader(c.body), &closed}}, nil
		})})
		_ = client.Unsubscribe(t.Context(), target, "x")
		if closed == 0 {
			t.Errorf("%s: its connection is held for ever", name)
		}
	}
}

// until is a reader that ends properly when a context ends: as servers do that see us go.
type until struct{ ctx context.Context }

func (u until) Read([]byte) (int, error) {
	<-u.ctx.Done()
	return 0, io.EOF
}

func TestAnAnswerThatEndsBecauseWeGoIsNoAnswer(t *testing.T) {
	for _, status := range []int{200, 503} {
		synctest.Test(t, func(t *testing.T) {
			c := New(Options{Timeout: 7 * time.Second, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Request: r, Body: io.NopCloser(until{r.Context()})}, nil
			})})
			want := proxy.CodeTimeout
			if status != 200 {
				want = "HTTP 503" // the status has come
			}
			if err := c.Unsubscribe(t.Context(), target, "x"); fault.Of(err).Code != want {
				t.Errorf("%d: %v", status, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := c.Unsubscribe(ctx, target, "x")
			if _, ok := errors.AsType[*Error](err); ok || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d: the caller's own end is nobody's fault: %v", status, err)
			}
		})
	}
}

func TestOnlyWhatChangesNothingMayBeSentAgain(t *testing.T) {
	var sign bool
	c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		_, sign = r.Header["X-Idempotency-Key"] // net/http's
		return nil, io.ErrUnexpectedEOF
	})})
	for name, call := range map[string]struct {
		do    func() error
		again bool
	}{
		"GetItem":     {func() error { _, _, err := c.GetItem(t.Context(), target, []string{"a"}); return err }, true},
		"FindItem":    {func() error { _, err := c.FindItem(t.Context(), target, 0, 1); return err }, true},
		"GetFolder":   {func() error { _, err := c.GetFolder(t.Context(), target); return err }, true},
		"Subscribe":   {func() error { _, _, err := c.Subscribe(t.Context(), target); return err }, false},
		"Unsubscribe": {func() error { return c.Unsubscribe(t.Context(), target, "x") }, false},
		"GetStreamingEvents": {func() error {
			_, err := c.GetStreamingEvents(t.Context(), target, []string{"a"}, time.Minute)
			return err
		}, false},
	} {
		if err := call.do(); err == nil || sign != call.again {
			t.Errorf("%s: sent again by net/http is %v", name, sign)
		}
	}
}
