package api

// This file is the test notification: the whole way of an alert, on the running service.

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// testPause is the least time between two tests of a device: each makes half a dozen calls to Exchange, and APNs holds back
	// from a device what comes too often.
	testPause = 10 * time.Second
	// maxTests bounds the devices that were tested within testPause. Nobody tests more; a program that does waits.
	maxTests = 1000
)

// tests remembers which devices were tested lately.
type tests struct {
	mu   sync.Mutex
	last map[string]time.Time // by enrolment id
}

func newTests() tests { return tests{last: map[string]time.Time{}} }

// begin lets a test of a device begin, or says how long to wait.
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

// test goes the way for a device, or for the first device of a mailbox, by id.
func (a *API) test(r *http.Request, who caller) (answer, error) {
	device, address, err := readTest(r)
	if err != nil {
		return answer{}, err
	}
	if address != "" {
		_, devices, ok := a.Mailboxes.Mailbox(address)
		if !ok || len(devices) == 0 {
			return answer{}, errNoMailbox
		}
		device = slices.MinFunc(devices, func(a, b subscriptions.Device) int { return strings.Compare(a.ID, b.ID) }).ID
	} else if _, ok := a.Enrolments.Device(device); !ok {
		return answer{}, errNoDevice
	}
	if wait := a.tests.begin(device, time.Now()); wait > 0 {
		busy := *errTooManyTests
		busy.retryAfter = strconv.Itoa(int((wait + time.Second - 1) / time.Second))
		return answer{}, &busy
	}
	report := a.Test(r.Context(), device)
	a.Log.Info("test notification", zap.String("client", who.name), zap.String("device", device), zap.Bool("ok", report.OK))
	return answer{http.StatusOK, report}, nil
}

// readTest reads whom a test is for: a device, or a mailbox.
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
