package service_test

// The canary goes the whole way of mail: sent by EWS, told of by a stream, read, and accepted by APNs.

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/canary"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/simulator"
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

func TestACanaryAtGraphIsSentByGraphWithTheRightToSend(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		roles []string
		says  func(state, reason string) bool
	}{
		"with Mail.Send": {[]string{"Mail.Read", "Mail.Send"}, func(state, _ string) bool { return state == "accepted" || state == "lost" }},
		"without it":     {nil, func(state, reason string) bool { return state == "not_sent" && strings.Contains(reason, "Mail.Send") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inst := installWith(t, simulator.Options{Mailboxes: 4, Hybrid: true, Graph: true, GraphRoles: c.roles})
			inst.config.PublicURL, inst.config.Callbacks = "", config.Callbacks{} // polled: what the test is about comes before
			_, address := graphEntry(t, inst.sim)
			inst.config.Canary = config.Canary{Mailboxes: []string{address}, Every: time.Second, Within: time.Minute} // the first tries are before the enrolment
			inst.start()
			inst.call(http.MethodPut, "/v1/devices/phone", map[string]string{"mailbox": address, "token": strings.Repeat("ab", 32)}, nil)
			inst.eventually("the message is sent by Graph, or the canary says why not", func() bool {
				var s standing
				inst.call(http.MethodGet, "/v1/status", nil, &s)
				return len(s.Canaries) == 1 && c.says(s.Canaries[0].State, s.Canaries[0].Reason)
			})
			counts, err := inst.sim.CountsAt(simulator.Online)
			if err != nil || counts.Requests["GraphSendMail"] == 0 || counts.Requests["CreateItem"] != 0 {
				t.Errorf("%v, %v", counts.Requests, err)
			}
		})
	}
}

func TestWhatIsWrongWithACanaryHasAnAdviceOfItsOwn(t *testing.T) {
	for _, code := range []string{canary.CodeLate, canary.CodeLost, canary.CodeNoDevice, graph.CodeSending, "ErrorSendAsDenied"} {
		if b := check.Advise(&fault.Error{Op: "canary", Code: code, Remedy: fault.Fix}, check.Circumstances{}); !b.Specific() || !strings.Contains(b.Name, "canary") && !strings.Contains(b.Name, "send") {
			t.Errorf("%s: %q", code, b.Name)
		}
	}
}
