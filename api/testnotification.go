package api

// The test notification: all steps of an alert, on the running service.

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// testPause is the least time between two tests of a device: each makes six calls to Exchange, and APNs throttles a device that gets too
	// many alerts.
	testPause = 10 * time.Second
	// maxTests bounds the devices that are tested within testPause. A program that tests more has to wait.
	maxTests = 1000
)

// tests remembers which devices were tested within testPause.
type tests struct {
	mu   sync.Mutex
	last map[string]time.Time // by enrolment id
}

func newTests() tests { return tests{last: map[string]time.Time{}} }

// begin begins a test of a device, or returns how long to wait.
func (t *tests) begin(device string, now time.Time) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[device]; ok && now.Sub(last) < testPause {
		return testPause - now.Sub(last)
	}
	if len(t.last) >= maxTests {
		for id, last := range t.last {
			if now.Sub(last) >= testPause {
				delete(t.last, id)
			}
		}
		if len(t.last) >= maxTests {
			return testPause
		}
	}
	t.last[device] = now
	return 0
}

// test sends a test notification to a device, or to the first device of a mailbox by id.
func (a *API) test(r *http.Request, who caller) (answer, error) {
	device, address, err := readTest(r)
	if err != nil {
		return answer{}, err
	}
	if address != "" {
		_, devices, ok := a.Mailboxes.Mailbox(r.Context(), address)
		if !ok || len(devices) == 0 {
			return answer{}, errNoMailbox
		}
		device = slices.MinFunc(devices, func(a, b subscriptions.Device) int { return strings.Compare(a.ID, b.ID) }).ID
	}
	report, err := a.SendTest(r, who.name, device, nil)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: report}, nil
}

// readTest reads the device or mailbox of a test.
func readTest(r *http.Request) (device, address string, err error) {
	body, err := readBody(r)
	if err != nil {
		return "", "", err
	}
	fields, err := readObject(body)
	if err != nil {
		return "", "", err
	}
	f := &form{fields: fields}
	device, address = f.text("device", false, pattern.Device.Check), f.text("mailbox", false, mail.ParseAddress)
	switch {
	case len(f.errs) > 0:
	case device == "" && address == "":
		f.fail("device", codeRequired, "want a device or a mailbox")
	case device != "" && address != "":
		f.fail("mailbox", codeInvalid, "want a device or a mailbox, not both")
	}
	return device, address, f.end()
}
