package main_test

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/emersion/go-smtp"

	"github.com/mailbell/mailbell/simulator"
)

// passing is how long what can pass by itself may wait until it is tried again: DESIGN section 4.
const passing = 5 * time.Minute

func TestAWrongPasswordParksWithAReasonAndHeals(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	inst.fault("wrong_password", simulator.Fault{})
	inst.fault("stream_rst", simulator.Fault{})
	inst.deliverTo(inst.boxes...)
	for _, b := range inst.boxes {
		var m mailbox
		eventually(t, soon, b.address+" is failing", func() bool {
			m = inst.mailbox(b)
			return m.State == "failing"
		})
		if !strings.Contains(m.Reason, "401") {
			t.Errorf("%s: reason %q, want one that tells of the password", b.address, m.Reason)
		}
		if wait := time.Until(m.NextTry); wait < 0 || wait > passing {
			t.Errorf("%s: next try in %v, want within %v", b.address, wait, passing)
		}
	}
	// The account is not locked out: it is tried once for all its mailboxes.
	if n := inst.sim.Counts().Unauthorized; n > 2*len(inst.boxes) {
		t.Errorf("%d tries with a wrong password", n)
	}
	inst.clear("wrong_password")
	inst.restart() // as an administrator does; else the next try may be minutes away
	inst.balance(0)
}

// steady is how long mailboxes have to be listened to in a row to count as well again.
const steady = 2 * time.Second

// One sick mailbox harms only itself, also where it is the one on whose behalf the stream of all is opened.
func TestOneSickMailboxHarmsOnlyItself(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mailbox_unknown", "impersonation_refused", "server_busy", "answer_garbage"} {
		for who, sick := range map[string]int{"anchor": 0, "member": 2} {
			t.Run(name+" of the "+who, func(t *testing.T) {
				t.Parallel()
				inst := install(t, simulator.Options{Mailboxes: 4})
				inst.start()
				for i, b := range inst.boxes { // one after the other: the first to be listened to is the anchor
					inst.enrol(b, fmt.Sprintf("phone-%d", i))
					inst.awaitListening()
				}
				b := inst.boxes[sick]
				inst.fault(name, simulator.Fault{Mailbox: b.address})
				inst.deliverTo(inst.boxes...)
				var m mailbox
				eventually(t, soon, "the sick mailbox says so", func() bool {
					m = inst.mailbox(b)
					return m.State == "failing" || m.State == "polling"
				})
				if m.Reason == "" || !m.NextTry.After(time.Now()) {
					t.Errorf("%s: %q, next try %v; want a reason and a time", m.State, m.Reason, m.NextTry)
				}
				inst.othersAreAlerted(b)
				asked := func() int { return inst.sim.Counts().Requests["GetStreamingEvents"] }
				before := asked()
				inst.fault("stream_rst", simulator.Fault{})
				eventually(t, soon, "the stream is asked for anew", func() bool { return asked() > before })
				inst.othersAreAlerted(b)
				var since time.Time // when the others were listened to, and stayed so: a stream that breaks at once is none
				if !waitUntil(t.Context(), soon, func() bool {
					if len(inst.mailboxes("listening")) < len(inst.boxes)-1 {
						since = time.Time{}
					} else if since.IsZero() {
						since = time.Now()
					}
					return !since.IsZero() && time.Since(since) > steady
				}) {
					t.Errorf("%v after the stream was cut, only %v are listened to", soon, inst.mailboxes("listening"))
				}
				inst.othersAreAlerted(b)
				inst.clear(name)
				inst.restart()
				inst.balance(0)
			})
		}
	}
}

// othersAreAlerted delivers to all mailboxes but the sick ones, until new mail is alerted there at once. What was delivered to the
// sick ones is not
// waited for.
func (inst *installation) othersAreAlerted(sick ...*box) {
	inst.t.Helper()
	var others []*box
	devices := map[string]bool{}
	for _, b := range inst.boxes {
		if !slices.Contains(sick, b) {
			others = append(others, b)
			for _, d := range b.devices {
				devices[d] = true
			}
		}
	}
	inst.deliverTo(others...)
	began := time.Now()
	var waits []alert
	if !waitUntil(inst.t.Context(), soon, func() bool {
		waits = waits[:0]
		for _, b := range inst.ledger.await(inst.t.Context(), glance) {
			if devices[b.device] {
				waits = append(waits, b)
			}
		}
		return len(waits) == 0
	}) {
		states := []string{}
		for _, b := range others {
			m := inst.mailbox(b)
			states = append(states, fmt.Sprintf("%s is %s (%s), next try %v", b.address, m.State, m.Reason, m.NextTry))
		}
		inst.t.Errorf("others are not alerted after %v: %v\n%s", time.Since(began), waits, strings.Join(states, "\n"))
	}
}

// hostile are messages that a sender made up to do harm. Each has a Message-ID, a Date or a subject of its own.
var hostile = []struct{ name, header string }{
	{"control characters", "From: \"\x01\x02\x1b[31mred\x7f\" <a@fabrikam.example>\r\nSubject: bell \x07, escape \x1b[2J, null \x00, delete \x7f\r\nMessage-ID: <1@fabrikam.example>"},
	{"line of 998 bytes", "From: b@fabrikam.example\r\nSubject: " + strings.Repeat("s", 989) + "\r\nMessage-ID: <" + strings.Repeat("m", 982) + "@x>"},
	{"giant subject", "From: c@fabrikam.example\r\nMessage-ID: <3@fabrikam.example>\r\nSubject: giant" + strings.Repeat("\r\n "+strings.Repeat("g", 990), 200)},
	{"giant sender", "From: " + strings.Repeat("x", 900) + "\r\n " + strings.Repeat("y", 900) + " <d@fabrikam.example>\r\nSubject: giant sender\r\nMessage-ID: <4@fabrikam.example>"},
	{"broken encoded words", "From: =?utf-8?Q?=ZZ?= <e@fabrikam.example>\r\nSubject: =?utf-8?B?////?= =?x-none?Q?a=?= =?utf-8?Q?=C3\r\nMessage-ID: <5@fabrikam.example>"},
	{"bytes that are no text", "From: \xff\xfe\xfd <f@fabrikam.example>\r\nSubject: \xc3\x28 \xed\xa0\x80 \xf5\x80\r\nMessage-ID: <6@fabrikam.example>"},
	{"empty subject", "From: g@fabrikam.example\r\nSubject:\r\nMessage-ID: <7@fabrikam.example>"},
	{"no subject", "From: h@fabrikam.example\r\nMessage-ID: <8@fabrikam.example>"},
	{"no From", "Subject: nobody\r\nMessage-ID: <9@fabrikam.example>"},
	{"nothing at all", "X-Nothing: 1"},
	{"markup", "From: \"</t:Subject><x>&amp;&#0;]]>\" <i@fabrikam.example>\r\nSubject: <!DOCTYPE a [<!ENTITY b \"c\">]>&b; ]]> \\u0000 \"}\r\nMessage-ID: <11@fabrikam.example>"},
	{"text that turns around", "From: j@fabrikam.example\r\nSubject: =?utf-8?B?4oCuZ25pYiDigK4=?= \u202egnib\u2028\u2029\r\nMessage-ID: <12@fabrikam.example>"},
	{"a date out of time", "From: k@fabrikam.example\r\nDate: Thu, 01 Jan 9999 00:00:00 +0000\r\nSubject: year 9999\r\nMessage-ID: <13@fabrikam.example>"},
	{"a strange Message-ID", "From: l@fabrikam.example\r\nSubject: strange\r\nMessage-ID: <\x01\xff\"><&amp;"},
}

func TestAHostileSenderHarmsNobody(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3})
	inst.start()
	inst.enrolAll()
	target := &box{address: inst.boxes[0].address}
	token := inst.enrol(target, "target")
	inst.awaitListening()

	for i, h := range hostile {
		sendMail(t, inst.sim.SMTPAddr, target.address, h.header+"\r\n\r\n\x00\x01 body \xff\r\n")
		eventually(t, soon, h.name+" is alerted", func() bool { return len(alertsOf(inst.sim, token)) == i+1 })
		inst.deliverTo(inst.boxes[1:]...)
	}
	inst.awaitAlerts(soon)
	inst.awaitRest()
	seen := map[string]bool{}
	for i, a := range alertsOf(inst.sim, token) {
		p, err := read(a)
		if err != nil || !a.Accepted() || seen[a.Headers["apns-collapse-id"]] {
			t.Errorf("%s: status %d %s, %v, alerted before %v", hostile[min(i, len(hostile)-1)].name, a.Status, a.Reason, err, seen[a.Headers["apns-collapse-id"]])
		}
		seen[a.Headers["apns-collapse-id"]] = true
		if text := p.APS.Alert.Title + p.APS.Alert.Body; strings.ContainsFunc(text, unicode.IsControl) || strings.ContainsAny(text, "\u202e\u2028\u2029") {
			t.Errorf("%s: shown as %q", hostile[min(i, len(hostile)-1)].name, text)
		}
		if p.APS.Alert.Title == "" && p.APS.Alert.Body == "" && p.APS.Alert.Key == "" {
			t.Errorf("%s: shown as nothing: %s", hostile[min(i, len(hostile)-1)].name, a.Payload)
		}
	}
	if n := len(seen); n != len(hostile) {
		t.Errorf("%d alerts, want %d", n, len(hostile))
	}
}

// sendMail sends a message as it is by SMTP.
func sendMail(t *testing.T, server, to, message string) {
	t.Helper()
	c, err := smtp.Dial(server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendMail("sender@fabrikam.example", []string{to}, strings.NewReader(message)); err != nil {
		t.Fatal(err)
	}
}

func TestControlCharactersInAnAnswerAreNotShown(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	sick := inst.boxes[1]
	inst.fault("answer_control_chars", simulator.Fault{Mailbox: sick.address})
	inst.deliverTo(&box{address: sick.address}) // its subject is another one then: it is counted by hand
	eventually(t, soon, "the alert is sent all the same", func() bool { return inst.sim.Counts().Accepted == 1 })
	p, err := read(inst.sim.Alerts(0)[0])
	if text := p.APS.Alert.Body; err != nil || text == "" || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("shown as %q (%v)", text, err)
	}
	inst.othersAreAlerted(sick)
	inst.clear("answer_control_chars")
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
}

// complains says whether GET /v1/mailboxes/{address} tells that something is wrong there: by its state, or with a message.
func (inst *installation) complains(b *box) bool {
	inst.t.Helper()
	m := inst.mailbox(b)
	if m.State != "listening" && m.Reason != "" && !strings.HasPrefix(m.Reason, "listing: under way") {
		return true
	}
	for _, d := range m.Decisions {
		if d.Outcome != "accepted" && d.Reason != "" {
			return true
		}
	}
	return false
}

// maxMemory is several times what a mailbell of four mailboxes takes with the race detector, and a part of what the answers that
// do harm would take.
const maxMemory = 250 << 20

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakMemory is the largest resident memory that a process has had; 0 where the system does not tell.
func peakMemory(t *testing.T, p *process) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := highWater.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no VmHWM in %s", text)
	}
	kib, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak memory: %d MiB", kib>>10)
	return kib << 10
}
