package service_test

// An organisation that is down says so itself: in the log above info, in the status and for each mailbox and device, within a minute.

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// says tells whether a cause is one of those wanted, with | between them.
func says(wanted, cause string) bool {
	return cause != "" && slices.Contains(strings.Split(wanted, " | "), cause)
}

// wrong waits until the status names a cause, and returns it.
func (inst *installation) wrong(cause string) (found check.Condition) {
	inst.t.Helper()
	inst.eventually("the status says: "+cause, func() bool {
		for _, c := range inst.overview().Conditions {
			if says(cause, c.Cause) {
				found = c
				return true
			}
		}
		return false
	})
	return found
}

func (inst *installation) overview() (s api.Status) {
	inst.t.Helper()
	inst.call(http.MethodGet, "/v1/status", nil, &s)
	return s
}

// told waits for the warning of a cause in the log.
func (inst *installation) told(cause string) map[string]any {
	inst.t.Helper()
	var fields map[string]any
	inst.eventually("the log warns of: "+cause, func() bool {
		for _, l := range inst.log.All() {
			if text, _ := l.ContextMap()["cause"].(string); l.Level == zapcore.WarnLevel && says(cause, text) {
				fields = l.ContextMap()
				return true
			}
		}
		return false
	})
	return fields
}

func TestAnOrganisationThatIsDownSaysSoItself(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		edit    func(inst *installation)
		after   func(inst *installation) // once it listens; nil: it never does
		cause   string
		kind    string
		count   int
		advice  string
		mailbox bool // its mailboxes have the advice; else its devices
	}{
		{"the proxy is dead", func(inst *installation) {
			inst.configure("listen: ", "proxy: {url: 'http://"+tcptest.Quiet(t)+"'}\nlisten: ")
		}, nil, "the proxy cannot be reached", check.KindExchange, mailboxes, "proxy.url", true},
		{"the certificate is not trusted", func(inst *installation) {
			inst.write("other.pem", otherAuthority(inst))
			inst.configure("ca_file: ca.pem", "ca_file: other.pem")
		}, nil, "the server's certificate is of an unknown issuer", check.KindExchange, mailboxes, "ca_file", true},
		{"Exchange is gone", func(inst *installation) {
			inst.configure("autodiscover_url: "+inst.sim.AutodiscoverURL, "ews_url: https://"+tcptest.Quiet(t)+"/EWS/Exchange.asmx")
		}, nil, "the connection is refused", check.KindExchange, mailboxes, "firewall", true},
		{"the password is wrong", func(inst *installation) { inst.write("password", "a wrong one\n") }, nil, // as long as it may be Autodiscover alone, that is said
			"Autodiscover does not accept the user name or password | sign-ins have failed, and mailbell pauses", check.KindAccount, mailboxes, "Correct the password", true},
		{"APNs is gone", func(inst *installation) {
			inst.configure("url: "+inst.sim.APNsURL, "url: https://"+tcptest.Quiet(t))
		}, func(inst *installation) { inst.deliver() }, "APNs cannot be reached", check.KindAPNs, mailboxes, "api.push.apple.com", false},
		{"the key of APNs is wrong", nil, func(inst *installation) {
			inst.fault("apns_answer", simulator.Fault{Reason: "InvalidProviderToken"})
			inst.deliver()
		}, "the APNs key is wrong", check.KindAPNs, mailboxes, "key_id", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inst := install(t, "")
			if c.edit != nil {
				c.edit(inst)
				inst.load()
				inst.config.Listen = "127.0.0.1:0"
			}
			inst.start()
			if n := len(inst.overview().Conditions); n != 0 {
				t.Errorf("nobody is enrolled, and %d things are wrong", n)
			}
			inst.enrol()
			if c.after != nil {
				inst.awaitListening()
				c.after(inst)
			}
			began := time.Now()
			found := inst.wrong(c.cause)
			if found.Kind != c.kind || found.Level == check.LevelInfo || !strings.Contains(found.Advice, c.advice) || found.Since.IsZero() || found.Reason == "" {
				t.Errorf("%+v", found)
			}
			inst.eventually("all whom it concerns are counted", func() bool { return inst.wrong(c.cause).Count == c.count })
			if fields := inst.told(c.cause); !strings.Contains(fmt.Sprint(fields["advice"]), c.advice) {
				t.Errorf("%v", fields)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
			for address, device := range inst.devices {
				var m api.Mailbox
				var d api.Device
				inst.eventually("the mailbox and its device have the advice", func() bool {
					m, d = api.Mailbox{}, api.Device{}
					inst.call(http.MethodGet, "/v1/mailboxes/"+address, nil, &m)
					inst.call(http.MethodGet, "/v1/devices/"+device, nil, &d)
					return strings.Contains(d.Advice, c.advice) && d.State != "listening" && (!c.mailbox || strings.Contains(m.Advice, c.advice))
				})
				if len(m.DeviceStates) != 1 || m.DeviceStates[0].State == "listening" {
					t.Errorf("%+v", m.DeviceStates)
				}
				break // one speaks for all
			}
		})
	}
}

func TestLittleRoomIsWarnedOfBeforeMailboxesWait(t *testing.T) {
	t.Parallel()
	for cause, c := range map[string]struct{ places, waiting int }{
		"the listener accounts are nearly full": {mailboxes * 100 / 80, 0},
		"no listener account has room":          {mailboxes - 1, 1},
	} {
		t.Run(cause, func(t *testing.T) {
			t.Parallel()
			inst := install(t, "")
			inst.config.Exchange[0].MailboxesPerAccount = c.places
			inst.start()
			inst.enrol()
			found := inst.wrong(cause)
			if found.Kind != check.KindCapacity || found.Level != check.LevelWarn || !strings.Contains(found.Advice, "Add listener accounts") {
				t.Errorf("%+v", found)
			}
			inst.eventually("those that wait are counted", func() bool { return inst.wrong(cause).Count == c.waiting })
			inst.told(cause)
		})
	}
}

// otherAuthority is a certificate that has issued nothing here.
func otherAuthority(inst *installation) string {
	cert, _ := inst.certificate("another authority")
	return cert
}
