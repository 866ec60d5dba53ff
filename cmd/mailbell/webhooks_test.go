package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mailbell/mailbell/simulator"
)

// webhookSecret is of the specification's own tests.
const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// portal is a program that receives webhooks.
type portal struct {
	mu    sync.Mutex
	got   []string // type and data, in the order in which they came
	wrong []string
}

func (p *portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	hook, wrong := standardwebhooks.NewWebhook(webhookSecret)
	if wrong == nil {
		wrong = hook.Verify(body, r.Header)
	}
	var event struct {
		Type string
		Data json.RawMessage
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || wrong != nil || json.Unmarshal(body, &event) != nil {
		p.wrong = append(p.wrong, fmt.Sprint(err, wrong, string(body)))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.got = append(p.got, event.Type+" "+string(event.Data))
	w.WriteHeader(http.StatusNoContent)
}

func (p *portal) events() (got, wrong []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got), slices.Clone(p.wrong)
}

// hook has an installation tell a portal.
func (inst *installation) hook(url, secret string) {
	inst.t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(inst.config), "webhook"), []byte(secret+"\n"), 0o600); err != nil {
		inst.t.Fatal(err)
	}
	inst.extend(fmt.Sprintf("webhooks: [{name: mdm, url: '%s/hooks', secret_file: webhook, events: []}]\n", url))
}

// portal is one that the installation tells of what happens.
func (inst *installation) portal() *portal {
	inst.t.Helper()
	p := &portal{}
	server := httptest.NewServer(p)
	inst.t.Cleanup(server.Close)
	inst.hook(server.URL, webhookSecret)
	return p
}

func TestACheckPostsAnEventThatTellsNothingToEachWebhook(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	p := inst.portal()
	inst.edit("events: []", "events: [device.gone]")
	code, results, said := inst.check()
	if code != 0 || !slices.ContainsFunc(results, func(r result) bool { return r.state == "ok" && r.name == "webhook mdm" }) {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	if got, wrong := p.events(); len(got) != 1 || !strings.HasPrefix(got[0], `service.check {"version":"`) || len(wrong) > 0 {
		t.Errorf("the portal got %q; wrong: %q", got, wrong)
	}
}

func TestThePortalIsToldOfADeviceThatIsGone(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	p := inst.portal()
	inst.start()
	b, token := inst.boxes[0], deviceToken()
	if status := inst.call(http.MethodPut, "/v1/devices/phone", map[string]string{"mailbox": b.address, "token": token}, nil); status != http.StatusCreated {
		t.Fatalf("enrolling: %d", status)
	}
	inst.awaitListening()
	inst.sim.Unregister(token, time.Now().Add(time.Hour)) // behind the enrolment, or the token is thought to be a new one
	inst.deliverTo(b)
	var got, wrong []string
	if !waitUntil(t.Context(), soon, func() bool {
		got, wrong = p.events()
		return len(got) >= 3 || len(wrong) > 0
	}) || len(wrong) > 0 || len(got) != 3 {
		t.Fatalf("%d events, %q; wrong: %q", len(got), got, wrong)
	}
	slices.Sort(got)
	for i, want := range []string{
		`device.alert_lost {"device":"phone","mailbox":"` + b.address + `","message":"`,
		`device.gone {"device":"phone","mailbox":"` + b.address + `","topic":"com.contoso.mail","reason":"Unregistered"}`,
		`service.started {"version":"`,
	} {
		if !strings.HasPrefix(got[i], want) {
			t.Errorf("event %d is %s, want %s", i, got[i], want)
		}
	}
	var status struct {
		Webhooks []struct {
			Name                     string
			Waiting, Delivered, Lost int
			LastSuccess              time.Time `json:"last_success"`
		}
	}
	inst.call(http.MethodGet, "/v1/status", nil, &status)
	if len(status.Webhooks) != 1 || status.Webhooks[0].Delivered < 2 || status.Webhooks[0].Lost != 0 || status.Webhooks[0].LastSuccess.IsZero() { // the answer to the last one may not have been read yet
		t.Errorf("%+v", status.Webhooks)
	}
}
