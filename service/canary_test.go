package service_test

// The canary goes the whole way of mail: sent by EWS, told of by a stream, read, and accepted by APNs.

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/config"
)

// standing is what GET /v1/status says of a canary.
type standing struct {
	Canaries []struct {
		Mailbox, State, Reason, Advice string
		LastSuccess                    time.Time `json:"last_success"`
	}
	Conditions []condition
}

type condition struct{ Kind, Name, Cause string }

func (inst *installation) awaitCanary(state string) (s standing) {
	inst.t.Helper()
	inst.eventually("the canary is "+state, func() bool {
		s = standing{}
		inst.call(http.MethodGet, "/v1/status", nil, &s)
		return len(s.Canaries) == 1 && s.Canaries[0].State == state
	})
	return s
}

func TestACanaryGoesTheWholeWayOfMail(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.startWithDevices()
	inst.stop()
	address := inst.sim.Mailboxes()[0]
	inst.config.Canary = config.Canary{Mailboxes: []string{address}, Every: time.Hour, Within: time.Minute}
	inst.start()
	s := inst.awaitCanary("accepted")
	if s.Canaries[0].LastSuccess.IsZero() || s.Canaries[0].Reason != "" || slices.ContainsFunc(s.Conditions, func(c condition) bool { return c.Kind == "canary" }) {
		t.Errorf("%+v", s)
	}
	alerts := inst.sim.Alerts(0)
	if len(alerts) != 1 || !strings.Contains(string(alerts[0].Payload), `"mailbell canary `) || !strings.Contains(string(alerts[0].Payload), inst.devices[address]) {
		t.Errorf("%d alerts: %s", len(alerts), alerts[0].Payload)
	}
}

func TestACanaryWithoutADeviceIsSaidToBeNotSentWithTheAdvice(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	address := inst.sim.Mailboxes()[0]
	inst.config.Canary = config.Canary{Mailboxes: []string{address}, Every: time.Hour, Within: time.Minute}
	inst.start()
	s := inst.awaitCanary("not_sent")
	if !strings.Contains(s.Canaries[0].Reason, "no device is enrolled") || !strings.Contains(s.Canaries[0].Advice, "Enrol a device") {
		t.Errorf("%+v", s)
	}
	if want := (condition{"canary", address, "a canary has no device"}); !slices.Contains(s.Conditions, want) {
		t.Errorf("%+v", s.Conditions)
	}
}
