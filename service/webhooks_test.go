package service

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/webhooks"
)

// received is what a webhook brought: each event, and the number of its signatures.
type received struct {
	mu         sync.Mutex
	events     []string
	signatures []int
	status     int // of its answer
}

func (p *received) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var e struct {
		Type string
		Data json.RawMessage
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e.Type+" "+string(e.Data))
	p.signatures = append(p.signatures, len(strings.Fields(r.Header.Get("webhook-signature"))))
	return &http.Response{StatusCode: p.status, Body: http.NoBody, Request: r}, nil
}

// answer sets the status of the answers from now on.
func (p *received) answer(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

const hookSecret, nextHookSecret = config.Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), config.Secret("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX")

// hooked are rooms that have nothing but a webhook, which runs.
func hooked(t *testing.T) (*rooms, *received) {
	t.Helper()
	to := &received{status: http.StatusNoContent}
	w := config.Webhook{Name: "mdm", URL: "https://mdm.contoso.com/", Secret: hookSecret}
	r := &rooms{service: &Service{log: zap.NewNop(), version: "1.2.3"}, hooksOf: []config.Webhook{w}, webhooks: webhooks.New(webhooks.Options{
		Hooks: []webhooks.Hook{{Name: w.Name, URL: w.URL, Secrets: webhookSecrets(w), Transport: to}}, Log: zap.NewNop(), Metrics: prometheus.NewRegistry(),
	})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		r.webhooks.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r, to
}

func TestAnEventHasIdsAndReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := hooked(t)
		since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		d := subscriptions.Device{ID: "phone", Mailbox: "ann@contoso.com", Token: "9c1d2e3f", Topic: "com.contoso.mail", Label: "Ann's iPhone"}
		r.tellStarted()
		r.alertLost(d, subscriptions.Decision{Key: mail.Key{1}, Reason: "BadTopic", Status: 400, Outcome: outcome.Refused, At: since})
		for _, state := range []subscriptions.State{subscriptions.Failing, subscriptions.WaitingForCapacity, subscriptions.OutOfScope, subscriptions.Polling, subscriptions.Listening} {
			r.mailboxChanged(change{Address: "ann@contoso.com", Standing: subscriptions.Standing{State: state, Reason: "why"}, Since: since})
		}
		synctest.Wait()
		of := func(kind, state string) string {
			return kind + ` {"mailbox":"ann@contoso.com","state":"` + state + `","since":"2026-03-01T12:00:00Z","reason":"why"}`
		}
		want := []string{
			`service.started {"version":"1.2.3"}`,
			`device.alert_lost {"device":"phone","mailbox":"ann@contoso.com","message":"` + (mail.Key{1}).String() + `","reason":"BadTopic","apns_status":400}`,
			of("mailbox.failing", "failing"), of("mailbox.failing", "waiting_for_capacity"), of("mailbox.out_of_scope", "out_of_scope"), of("mailbox.listening", "polling"), of("mailbox.listening", "listening"),
		}
		if !slices.Equal(to.events, want) {
			t.Errorf("%s\nwant\n%s", strings.Join(to.events, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestTheDataOfAnEventIsDescribed(t *testing.T) {
	document, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties map[string]any
			}
		}
	}
	if err := yaml.Unmarshal(document, &d); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]any{"ServiceEventData": versionData{}, "DeviceGoneData": deviceData{}, "DeviceAlertLostData": alertData{}, "MailboxChangedData": mailboxData{}} {
		var fields, required []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(data)) {
			field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, field)
			if options == "" {
				required = append(required, field)
			}
		}
		s := d.Components.Schemas[name]
		slices.Sort(fields)
		if described := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(fields, described) || !slices.Equal(required, s.Required) {
			t.Errorf("%s has %q, always %q; described are %q, and always %q", name, fields, required, described, s.Required)
		}
	}
}

func TestAWebhookThatFailsIsAmongWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := hooked(t)
		wrong := func() []check.Condition {
			g := gathering{rooms: r, list: map[conditionKey]*check.Condition{}}
			g.hooks()
			list := make([]check.Condition, 0, 1)
			for _, c := range g.list {
				list = append(list, *c)
			}
			return list
		}
		to.answer(http.StatusServiceUnavailable)
		r.tellStarted()
		synctest.Wait()
		if list := wrong(); len(list) != 1 || list[0].Name != "mdm" || list[0].Cause != "the receiver of a webhook takes no events" || !strings.Contains(list[0].Reason, "HTTP 503") || !list[0].NextTry.After(time.Now()) {
			t.Errorf("%+v", list)
		}
		to.answer(http.StatusNoContent)
		<-time.After(time.Minute)
		synctest.Wait()
		if list := wrong(); len(list) != 0 {
			t.Errorf("it is over: %+v", list)
		}
	})
}

func TestAChangedSecretOfAWebhookIsTakenUpAndOtherChangesAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := hooked(t)
		w := r.hooksOf[0]
		try := func(w config.Webhook) {
			r.updateWebhooks(&config.Config{Webhooks: []config.Webhook{w}})
			r.tellStarted()
			synctest.Wait()
		}
		try(w)
		w.NextSecret = nextHookSecret
		try(w)
		w.URL, w.NextSecret = "https://elsewhere.contoso.com/", ""
		try(w)
		w = r.hooksOf[0]
		w.Secret, w.NextSecret = nextHookSecret, ""
		try(w)
		if want := []int{1, 2, 2, 1}; !slices.Equal(to.signatures, want) {
			t.Errorf("%v signatures, want %v", to.signatures, want)
		}
		if s := r.hooks(); len(s) != 1 || s[0].Delivered != 4 || s[0].Error != "" {
			t.Errorf("%+v", s)
		}
	})
	w := config.Webhook{Name: "mdm", URL: "https://mdm.contoso.com/", Secret: hookSecret, Events: []string{"device.gone"}}
	other := w
	other.URL = "https://elsewhere.contoso.com/"
	for name, c := range map[string]struct {
		to   []config.Webhook
		want []string
	}{"the same": {[]config.Webhook{w}, nil}, "another secret": {[]config.Webhook{{Name: w.Name, URL: w.URL, Secret: nextHookSecret, Events: w.Events}}, nil}, "another URL": {[]config.Webhook{other}, []string{"webhooks"}}, "none": {nil, []string{"webhooks"}}} {
		if got := roomsDiffer(&config.Config{Webhooks: []config.Webhook{w}}, &config.Config{Webhooks: c.to}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
