package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/simulator/phonekey"
)

// postSigned posts a body that a phone has signed.
func (inst *installation) postSigned(t *testing.T, key *phonekey.Key, path, body string) (status int, answer string) {
	t.Helper()
	signature, err := key.SignPost(path, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, inst.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(phonekey.Header, signature)
	resp, err := inst.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(all)
}

func TestAPhoneConfirmsTheAlertThatItGot(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.start()
	key, err := phonekey.New()
	if err != nil {
		t.Fatal(err)
	}
	b, token := inst.boxes[0], deviceToken()
	enrolment := map[string]string{"mailbox": b.address, "token": token, "receipt_key": key.Public(), "label": "Ann's iPhone"}
	if status := inst.call(http.MethodPut, "/v1/devices/phone", enrolment, nil); status != http.StatusCreated {
		t.Fatalf("enrolling: %d", status)
	}
	b.devices = append(b.devices, "phone")
	inst.awaitListening()
	inst.deliverTo(b)
	inst.awaitAlerts(soon)
	var payload struct {
		Mailbell struct{ M, D string }
	}
	if err := json.Unmarshal(alertsOf(inst.sim, token)[0].Payload, &payload); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"d": %q, "shown": [{"m": %q, "at": %q}]}`, payload.Mailbell.D, payload.Mailbell.M, time.Now().UTC().Format(time.RFC3339Nano))
	if status, answer := inst.postSigned(t, key, "/v1/receipts", body); status != http.StatusNoContent {
		t.Fatalf("the receipt: %d %s", status, answer)
	}
	inst.awaitRest()
	var about struct{ Decisions []json.RawMessage }
	if !waitUntil(t.Context(), soon, func() bool { // the answer of APNs may come after that of the phone
		inst.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, &about)
		return len(about.Decisions) > 0
	}) {
		t.Fatal("nothing was decided")
	}
	p := launch(t, "why", "--config", inst.config, "phone")
	if code := p.wait(refusal); code != 0 {
		t.Fatalf("why: exit code %d: %s", code, p.stderr())
	}
	for _, want := range []string{"device phone (Ann's iPhone): listening", "The phone has confirmed its last alert. It showed the last one "} {
		if out := p.stdout(); !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	status, answer := inst.postSigned(t, key, "/v1/self-check", fmt.Sprintf(`{"d": "phone", "at": %q}`, time.Now().UTC().Format(time.RFC3339)))
	if status != http.StatusOK || !strings.Contains(answer, `"alerts":true`) || !strings.Contains(answer, `"last_receipt"`) || strings.Contains(answer, b.address) {
		t.Errorf("the self-check: %d %s", status, answer)
	}
}
