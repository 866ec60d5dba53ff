package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/expiry"
)

var pictures = flag.String("pictures", "", "a `folder` to which the browser's tests write the pictures of docs/admin.md")

// browserWait bounds each step of a test in the browser, on a machine that runs everything at once.
const browserWait = 60 * time.Second

// The promises stand in testdata/browser/run.mjs, which drives the browser.
func TestInTheBrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not here (Debian: chromium; make packages installs it)")
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not here (Debian: nodejs npm; make packages says so)")
	}
	if _, err := os.Stat("testdata/browser/node_modules/playwright-core"); err != nil {
		t.Skip("playwright-core is not here: make packages installs it")
	}
	s := newSite(t)
	s.stepped = make(chan struct{}, 16)
	s.stepped <- struct{}{} // the first step of the first test
	s.show()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><html lang="en"><link rel="icon" href="data:,"><title>A chat</title><a href="%s/admin/mailboxes/ann@contoso.com">look at this</a>`, s.server.URL)
	}))
	defer other.Close()
	folder := *pictures
	if folder != "" {
		if folder, err = filepath.Abs(folder); err != nil {
			t.Fatal(err)
		}
	}
	given, err := json.Marshal(map[string]any{
		"url": s.server.URL, "other": strings.Replace(other.URL, "127.0.0.1", "localhost", 1), // another site
		"token": adminToken, "chromium": chromium, "pictures": folder, "timeout": browserWait.Milliseconds(),
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "run.mjs", string(given))
	cmd.Dir = "testdata/browser"
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var line struct{ Name, Wrong, Do string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Errorf("the browser's program said %s", lines.Text())
			continue
		}
		switch line.Do {
		case "":
			kept++
			t.Run(line.Name, func(t *testing.T) {
				if line.Wrong != "" {
					t.Error(line.Wrong)
				}
			})
		case "step":
			s.stepped <- struct{}{}
		case "change":
			s.change()
		}
		if line.Name == "a test that is refused says why" { // the tests from here on need not wait
			close(s.stepped)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the browser's program: %v\n%s", err, said.Bytes())
	}
	if want := 14; kept != want {
		t.Errorf("%d promises were looked at, want %d", kept, want)
	}
}

// show gives the pages something to show.
func (s *site) show() {
	s.mu.Lock()
	s.overview.Exchange = []api.ExchangeEntry{{Name: "headquarters", Version: "Exchange2016", Capacity: 2500, Skew: -120}}
	s.overview.Exchange = append(s.overview.Exchange, api.ExchangeEntry{Name: "cloud", Capacity: 1250, Online: true, EWS: "streaming", Graph: true})
	s.sources = map[string]string{"bob@contoso.com": "ews", "eve@fabrikam.com": "graph"}
	s.overview.Topics = []api.Topic{{Topic: "com.contoso.mail", Environment: "production", Refused: map[string]int{"BadDeviceToken": 2}}}
	s.overview.Webhooks = []api.Webhook{{Name: "mdm", Delivered: 412, LastSuccess: time.Now().Add(-40 * time.Minute)},
		{Name: "helpdesk", Waiting: 3, Delivered: 88, LastFailure: time.Now().Add(-time.Minute), Error: "POST to the webhook helpdesk: HTTP 503: its receiver did not take the event", NextTry: time.Now().Add(time.Minute)}}
	phone := s.devices["ann-phone"]
	phone.Label, phone.ReceiptKey = "Ann’s iPhone", "BFLPt4iADCrgQz6HxxA8on9jqnd+4qrWcZ5D75XLPIIqHStgRib7rUfUczLSV0Pec04vCd3HoghVgQM1fmsS9zQ="
	s.devices["ann-phone"] = phone
	s.overview.Accounts = append(s.overview.Accounts, api.Account{Exchange: "headquarters", Name: "listener-02", Kind: "basic", Mailboxes: 1180, Capacity: 1250, Streams: 6,
		Reason: "ErrorServerBusy: the server asks to wait", Advice: "Nothing: mailbell waits.", NextTry: time.Now().Add(time.Minute)})
	s.overview.Credentials = append(s.overview.Credentials, expiry.Entry{Kind: "client_secret", Name: "online-01", At: time.Now().Add(200 * 24 * time.Hour)})
	s.mu.Unlock()
	s.pages.ring.mu.Lock()
	defer s.pages.ring.mu.Unlock()
	for i := range ringSize {
		x := float64(i)
		load := 60 + 50*math.Sin(x/55) + 9*math.Sin(x*1.7)
		s.pages.ring.list = append(s.pages.ring.list, sample{
			at: time.Now().Add(time.Duration(i-ringSize) * time.Minute), alerts: math.Round(max(load, 0)), took: latency{.04 + .01*math.Sin(x/9), .3 + .2*math.Sin(x/31) + .05*math.Sin(x*2.3)},
			screen: latency{1.2 + .2*math.Sin(x/9), 6 + 2*math.Sin(x/31) + math.Sin(x*2.3)},
		})
	}
}

// change makes one thing more go wrong.
func (s *site) change() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overview.Conditions = append(slices.Clone(s.overview.Conditions), check.Condition{
		Kind: check.KindAPNs, Name: "com.contoso.mail production", Level: check.LevelWarn, Since: time.Now(), Count: 40, Reason: "connection refused", Cause: "APNs cannot be reached", Advice: "Open TCP 443 from this machine to api.push.apple.com.",
	})
}
