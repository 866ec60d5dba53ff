package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// What a server sends unasked is printed by net/http, to the standard logger.
func TestWhatALibraryPrintsReachesTheLogWithoutTheBytesOfAServer(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	server := inst.serve(trusted, good, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		pass(t, 200*time.Millisecond) // until the connection is idle
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nXylophone")
		pass(t, 200*time.Millisecond)
	}))
	ewsAt(server + "/EWS/Exchange.asmx")(inst)
	inst.extend("log: {level: debug}\n")
	p := inst.start()
	inst.enrol(inst.boxes[0], "phone")
	eventually(t, soon, "the library has printed", func() bool { return strings.Contains(p.stderr(), "Unsolicited response") })
	for line := range strings.Lines(p.stderr()) {
		if !strings.HasPrefix(line, "{") || strings.Contains(line, "Xylophone") || strings.Contains(line, "200 OK") {
			t.Error(line)
		}
	}
}

// No secret and no mail content in a log line, an error, a metric or the state; device tokens in the state only.
func TestNothingThatIsSecretOrOfAMailIsToldAnywhere(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	inst.extend("log: {level: debug}\n")
	tokens := []string{}
	inst.start()
	for i, b := range inst.boxes {
		tokens = append(tokens, inst.enrol(b, fmt.Sprintf("phone-%d", i)))
	}
	inst.awaitListening()

	// What a log is most likely to tell of: everything that goes wrong.
	var told bytes.Buffer // what the API answered
	ask := func(method, path, token string, body any) {
		_, answer := inst.raw(method, path, token, body)
		told.Write(answer)
	}
	mail := func(b *box) { // the same subject and sender each time: they are what is searched for
		n := inst.ledger.count()
		inst.ledger.expect(nil)
		message := fmt.Sprintf("From: \"Zephyrine Quill\" <zephyrine.quill@sender.example>\r\nReply-To: reply.quill@sender.example\r\nTo: <%s>\r\nSubject: Xylophone merger papers %d\r\nMessage-ID: <quill-%d@sender.example>\r\nDate: %s\r\n\r\nBodkin and its text.\r\n",
			b.address, n, n, time.Now().Format(time.RFC1123Z))
		if _, err := inst.sim.Deliver(b.address, time.Time{}, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	all := func() {
		for _, b := range inst.boxes {
			mail(b)
		}
	}
	all()
	eventually(t, soon, "mail is alerted", func() bool { return inst.sim.Counts().Accepted >= len(inst.boxes) })
	inst.sim.Unregister(tokens[4], time.Now().Add(time.Hour)) // 410: the device goes
	mail(inst.boxes[4])
	eventually(t, soon, "the device has gone", func() bool { return inst.call(http.MethodGet, "/v1/devices/phone-4", nil, nil) == http.StatusNotFound })
	for _, f := range []struct {
		name string
		set  simulator.Fault
	}{
		{"apns_answer", simulator.Fault{Token: tokens[0], Status: 400, Reason: "BadDeviceToken"}},
		{"apns_answer", simulator.Fault{Token: tokens[1], Status: 429, Reason: "TooManyRequests"}},
		{"apns_answer", simulator.Fault{Count: 2}},
		{"apns_cut", simulator.Fault{}},
		{"apns_cut", simulator.Fault{Count: 2}},
		{"item_unreadable", simulator.Fault{Mailbox: inst.boxes[1].address}},
		{"answer_control_chars", simulator.Fault{Mailbox: inst.boxes[1].address}},
		{"answer_entities", simulator.Fault{Mailbox: inst.boxes[2].address}},
		{"answer_garbage", simulator.Fault{Mailbox: inst.boxes[2].address}},
		{"stream_half", simulator.Fault{Count: 1}},
		{"stream_rst", simulator.Fault{}},
		{"mailbox_unknown", simulator.Fault{Mailbox: inst.boxes[3].address}},
	} {
		inst.fault(f.name, f.set)
		all()
		pass(t, 150*time.Millisecond)
		ask(http.MethodGet, "/v1/mailboxes", inst.token, nil)
		inst.clear(f.name)
	}
	inst.kill()
	inst.start()
	all()
	inst.fault("wrong_password", simulator.Fault{})
	inst.fault("stream_rst", simulator.Fault{})
	all()
	eventually(t, soon, "a mailbox is failing", func() bool { return len(inst.mailboxes("failing")) > 0 })

	stranger := "f00dfeedf00dfeedf00dfeedf00dfeed"
	secretBody := []byte(`{"mailbox":"` + inst.boxes[0].address + `","token":"` + tokens[0] + `","topic":7,"tokenn":"` + tokens[1] + `"}`)
	ask(http.MethodPut, "/v1/devices/phone-0", inst.token, secretBody)
	ask(http.MethodPut, "/v1/devices/phone-0", stranger, secretBody)
	ask(http.MethodPut, "/v1/devices/phone-0", inst.token, secretBody[:len(secretBody)/2])
	ask(http.MethodPut, "/v1/devices/phone-9", inst.token, map[string]string{"mailbox": "quill@elsewhere.example", "token": tokens[2]})
	ask(http.MethodGet, "/v1/devices/"+tokens[3], inst.token, nil)
	for _, path := range []string{"/metrics", "/v1/status", "/v1/devices", "/v1/devices/phone-0", "/v1/mailboxes", "/healthz", "/readyz", "/openapi.yaml", "/", "/v1/nothing"} {
		ask(http.MethodGet, path, inst.token, nil)
		ask(http.MethodGet, path, stranger, nil)
	}
	for _, b := range inst.boxes {
		ask(http.MethodGet, "/v1/mailboxes/"+b.address, inst.token, nil)
	}
	inst.stop()

	file := func(name string) string {
		text, err := os.ReadFile(filepath.Join(inst.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	places := map[string]string{"an answer of the API": told.String(), "the state": file("mailbell.db")}
	for i, p := range inst.runs {
		places[fmt.Sprintf("the log of run %d", i+1)] = p.stderr() + p.stdout()
	}
	for name, text := range places {
		if len(text) < 200 {
			t.Errorf("%s is empty: the search would find nothing", name)
		}
	}
	key, _ := pem.Decode(inst.sim.APNsKeyPEM)
	secrets := map[string]string{
		"the subject": "Xylophone", "the sender's name": "Zephyrine", "the sender's address": "quill@sender", "the text": "Bodkin",
		"the Message-ID": "quill-", "the password": inst.sim.Password, "the APNs key": string(key.Bytes), "the APNs key in base64": strings.Split(string(inst.sim.APNsKeyPEM), "\n")[1],
		"the token of operator": inst.token, "the token of mdm": file("mdm.token"), "a bearer token": stranger,
		"the credentials": base64.StdEncoding.EncodeToString([]byte(inst.sim.Username + ":" + inst.sim.Password)),
	}
	for what, secret := range secrets {
		for name, text := range places {
			for _, form := range []string{secret, strings.ToLower(secret), hex.EncodeToString([]byte(secret)), base64.RawStdEncoding.EncodeToString([]byte(secret))[:len(secret)*4/3/4*4]} {
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("%s is in %s: %q", what, name, text[max(0, i-200):min(len(text), i+200)])
				}
			}
		}
	}
	jwt := regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.`)
	for name, text := range places {
		if found := jwt.FindString(text); found != "" {
			t.Errorf("a provider token is in %s", name)
		}
		for i, token := range tokens {
			in := strings.Contains(strings.ToLower(text), token)
			if name == "the state" {
				if !in && i < 4 { // else the search looks in the wrong place
					t.Errorf("the token of phone-%d is not in the state", i)
				}
			} else if in || strings.Contains(strings.ToLower(text), token[:9]) {
				t.Errorf("more than 8 characters of a device token are in %s", name)
			}
		}
	}
	if !strings.Contains(told.String(), tokens[0][:8]) {
		t.Error("the API does not show 8 characters of the token: the search would find nothing")
	}
}
