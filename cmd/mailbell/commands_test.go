package main_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// strict decodes one JSON object that holds these members and no others.
func strict(t *testing.T, text string, into any, members ...string) {
	t.Helper()
	var have map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &have); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, m := range members {
		if _, ok := have[m]; !ok {
			t.Fatalf("%s is missing: %s", m, text)
		}
		delete(have, m)
	}
	if len(have) > 0 {
		t.Fatalf("more than DESIGN section 4 says: %v", have)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

func TestTheDemoPrintsEachAlertAndTheSummary(t *testing.T) {
	t.Parallel()
	p := launch(t, "demo", "--mailboxes", "7", "--messages", "30", "--exit")
	if code := p.wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d, want 0:\n%s%s", code, p.stdout(), p.stderr())
	}
	lines := strings.Split(strings.TrimSpace(p.stdout()), "\n")
	type alert struct {
		Device     string
		Mailbox    string
		Message    string
		CollapseID string `json:"collapse_id"`
		APNsID     string `json:"apns_id"`
		Topic      string
		Latency    float64 `json:"latency_ms"`
	}
	pushes, alerted := map[string]bool{}, map[[2]string]bool{}
	for _, line := range lines[:len(lines)-1] {
		var a alert
		strict(t, line, &a, "device", "mailbox", "message", "collapse_id", "apns_id", "topic", "latency_ms")
		pushes[a.APNsID], alerted[[2]string{a.Device, a.Message}] = true, true
		if a.Device == "" || !strings.Contains(a.Mailbox, "@") || a.Message == "" || len(a.CollapseID) != 22 || a.Topic == "" || a.Latency <= 0 {
			t.Errorf("%s", line)
		}
	}
	var sum struct {
		Mailboxes, Messages, Alerts, Lost, Duplicates, Resent int
		P50                                                   float64 `json:"p50_ms"`
		P99                                                   float64 `json:"p99_ms"`
	}
	strict(t, lines[len(lines)-1], &sum, "mailboxes", "messages", "alerts", "lost", "duplicates", "resent", "p50_ms", "p99_ms")
	const alerts = 30 + 4 + 4 // the 3rd and the 6th of 7 mailboxes have two devices; 30 messages, dealt round robin, are 4 for each of them
	if sum.Mailboxes != 7 || sum.Messages != 30 || sum.Alerts != alerts || sum.Lost+sum.Duplicates+sum.Resent != 0 || len(pushes) != alerts || len(alerted) != alerts {
		t.Errorf("%+v with %d apns-ids of %d alerts, want %d alerts and nothing lost, doubled or sent again", sum, len(pushes), len(alerted), alerts)
	}
	if sum.P50 <= 0 || sum.P99 < sum.P50 {
		t.Errorf("p50 %v ms, p99 %v ms", sum.P50, sum.P99)
	}
}

// announcement is the line of JSON of `simulate`.
type announcement struct {
	EWSURL          string `json:"ews_url"`
	AutodiscoverURL string `json:"autodiscover_url"`
	APNsURL         string `json:"apns_url"`
	SMTP            string
	CAFile          string `json:"ca_file"`
	Username        string
	Password        string
	Mailboxes       []string
	Config          string
	ControlURL      string `json:"control_url"`
	APIURL          string `json:"api_url"`
	APITokenFile    string `json:"api_token_file"`
	Topic           string
}

// The service runs as it is with the configuration that the simulator writes; both are processes here.
func TestTheServiceRunsAgainstTheSimulatorAsItIs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "simulator")
	sim := launch(t, "simulate", "--dir", dir, "--mailboxes", "3")
	eventually(t, soon, "the simulator announces itself", func() bool { return strings.HasSuffix(sim.stdout(), "\n") })
	var a announcement
	strict(t, sim.stdout(), &a, "ews_url", "autodiscover_url", "apns_url", "token_url", "smtp", "ca_file", "username", "password",
		"mailboxes", "config", "control_url", "api_url", "api_token_file", "topic")
	if len(a.Mailboxes) != 3 || a.Config != filepath.Join(dir, "mailbell.yaml") || a.Topic == "" || a.Username == "" || a.Password == "" {
		t.Errorf("%+v", a)
	}
	for _, name := range []string{a.CAFile, a.Config, a.APITokenFile} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	token, err := os.ReadFile(a.APITokenFile)
	if err != nil {
		t.Fatal(err)
	}

	service := launch(t, "run", "--config", a.Config)
	client := &http.Client{Transport: &http.Transport{}, Timeout: soon}
	t.Cleanup(client.CloseIdleConnections)
	call := func(method, target, body string) (status int, answer string) {
		req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(target, a.APIURL) {
			req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	eventually(t, soon, "the service is ready", func() bool {
		status, _ := call(http.MethodGet, a.APIURL+"/readyz", "")
		return status == http.StatusOK
	})
	device := deviceToken()
	if status, text := call(http.MethodPut, a.APIURL+"/v1/devices/phone", `{"mailbox":"`+a.Mailboxes[1]+`","token":"`+device+`"}`); status != http.StatusCreated {
		t.Fatalf("enrolling: %d %s", status, text)
	}
	if status, text := call(http.MethodPost, a.ControlURL+"/messages?to="+url.QueryEscape(a.Mailboxes[1]), "Subject: by control\r\nFrom: a@fabrikam.example\r\n\r\nHello.\r\n"); status != http.StatusOK || !strings.Contains(text, `"item_id"`) {
		t.Fatalf("POST /messages: %d %s", status, text)
	}
	sendMail(t, a.SMTP, a.Mailboxes[1], "Subject: by SMTP\r\nFrom: a@fabrikam.example\r\n\r\nHello.\r\n")
	var alerts []string
	eventually(t, soon, "both messages are alerted", func() bool {
		_, text := call(http.MethodGet, a.ControlURL+"/alerts?after=0", "")
		alerts = strings.Split(strings.TrimSpace(text), "\n")
		return len(alerts) == 2
	})
	for _, line := range alerts {
		var alert struct {
			N       int
			Token   string
			Status  int
			Headers map[string]string
		}
		if err := json.NewDecoder(bytes.NewReader([]byte(line))).Decode(&alert); err != nil || alert.Token != device || alert.Status != 200 || alert.Headers["apns-topic"] != a.Topic {
			t.Errorf("%s (%v)", line, err)
		}
	}
	for _, p := range []*process{service, sim} {
		if code := p.terminate(); code != 0 {
			t.Errorf("mailbell %s: exit code %d after SIGTERM, want 0", p.cmd.Args[1], code)
		}
	}
	if lines := strings.Count(sim.stdout(), "\n"); lines != 1 {
		t.Errorf("simulate printed %d lines, want one", lines)
	}
}

func TestTheVersionIsTold(t *testing.T) {
	t.Parallel()
	p := launch(t, "version")
	if code := p.wait(soon); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if out := p.stdout(); !regexp.MustCompile(`^mailbell \S+\n$`).MatchString(out) {
		t.Errorf("standard output: %q", out)
	}
	if log := p.stderr(); log != "" {
		t.Errorf("standard error: %q", log)
	}
}
