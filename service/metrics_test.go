package service_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/simulator"
)

// measures tells whether the metrics have this line.
func (inst *installation) measures(line string) bool {
	inst.t.Helper()
	resp := inst.ask(http.MethodGet, "/metrics", nil)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		inst.t.Fatal(err)
	}
	return strings.Contains(string(text), "\n"+line+"\n")
}

// An alert of Prometheus can wait for each of these: it stays for as long as the harm does.
func TestMonitoringIsToldOfATopicThatReachesNobodyAndOfAStateThatTakesNothing(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	silent := func(topic string, devices int) {
		t.Helper()
		line := fmt.Sprintf(`mailbell_apns_silent_devices{environment="production",topic="%s"} %d`, topic, devices)
		inst.eventually(line, func() bool { return inst.measures(line) })
	}
	writable := func(is int) {
		t.Helper()
		line := fmt.Sprintf("mailbell_state_writable %d", is)
		inst.eventually(line, func() bool { return inst.measures(line) })
	}
	inst.startWithDevices()
	silent(inst.sim.Topic, 0)
	inst.fault("apns_answer", simulator.Fault{Reason: "InvalidProviderToken"})
	inst.deliver()
	silent(inst.sim.Topic, mailboxes)
	inst.stop()

	inst.config.APNs[0].Topic = "com.contoso.other"
	inst.start()
	silent(inst.sim.Topic, mailboxes)
	silent("com.contoso.other", 0)
	writable(1)
	if err := os.Remove(inst.config.State.Path); err != nil {
		t.Fatal(err)
	}
	writable(0)
}
