package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// phoneKey signs for a phone, as CryptoKit does.
type phoneKey struct{ *ecdsa.PrivateKey }

func newPhoneKey(t *testing.T) (k phoneKey, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return phoneKey{key}, base64.StdEncoding.EncodeToString(point)
}

// post posts a body that the phone has signed.
func (k phoneKey) post(t *testing.T, inst *installation, path, body string) (status int, answer string) {
	t.Helper()
	hash := sha256.Sum256([]byte("POST " + path + "\n" + body))
	r, s, err := ecdsa.Sign(rand.Reader, k.PrivateKey, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, inst.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Mailbell-Signature", base64.StdEncoding.EncodeToString(signature[:]))
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
	key, public := newPhoneKey(t)
	b, token := inst.boxes[0], deviceToken()
	enrolment := map[string]string{"mailbox": b.address, "token": token, "receipt_key": public, "label": "Ann's iPhone"}
	if status := inst.call(http.MethodPut, "/v1/devices/phone", enrolment, nil); status != http.StatusCreated {
		t.Fatalf("enrolling: %d", status)
	}
	b.devices = append(b.devices, "phone")
	inst.awaitListening()
	inst.deliverTo(b)
	inst.awaitAlerts(soon)
	inst.awaitRest()
	var payload struct {
		Mailbell struct{ M, D string }
	}
	if err := json.Unmarshal(alertsOf(inst.sim, token)[0].Payload, &payload); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"d": %q, "shown": [{"m": %q, "at": %q}]}`, payload.Mailbell.D, payload.Mailbell.M, time.Now().UTC().Format(time.RFC3339Nano))
	if status, answer := key.post(t, inst, "/v1/receipts", body); status != http.StatusNoContent {
		t.Fatalf("the receipt: %d %s", status, answer)
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
	status, answer := key.post(t, inst, "/v1/self-check", fmt.Sprintf(`{"d": "phone", "at": %q}`, time.Now().UTC().Format(time.RFC3339)))
	if status != http.StatusOK || !strings.Contains(answer, `"alerts":true`) || !strings.Contains(answer, `"last_receipt"`) || strings.Contains(answer, b.address) {
		t.Errorf("the self-check: %d %s", status, answer)
	}
}
