package alerts

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// seen is a message that came a second ago and that a hint named at once, for a device that has long been enrolled.
func seen(change func(*View)) View {
	v := View{Received: noon.Add(-time.Second), Hinted: noon, Enrolled: noon.AddDate(0, -1, 0), Ours: noon, Server: noon, MaxAge: time.Hour}
	if change != nil {
		change(&v)
	}
	return v
}

func TestWhatMayBeSent(t *testing.T) {
	listed := func(age time.Duration) func(*View) {
		return func(v *View) { v.Hinted, v.Received = time.Time{}, noon.Add(-age) }
	}
	hinted := func(age time.Duration) func(*View) {
		return func(v *View) { v.Hinted, v.Received = noon.Add(-age), noon.AddDate(0, 0, -20) }
	}
	for name, test := range map[string]struct {
		change  func(*View)
		verdict Verdict
		reason  outcome.Reason
	}{
		"new mail":                                     {nil, Send, ""},
		"it has left the Inbox":                        {func(v *View) { v.Gone = true }, Skip, outcome.Gone},
		"from the second before the enrolment":         {func(v *View) { v.Enrolled = v.Received.Add(time.Second) }, Skip, outcome.BeforeEnrolment},
		"from the second of the enrolment":             {func(v *View) { v.Enrolled = v.Received.Add(900 * time.Millisecond) }, Send, ""},
		"the enrolment is not over":                    {func(v *View) { v.Enrolled = time.Time{} }, Skip, outcome.BeforeEnrolment},
		"dated in the future, and listed only":         {listed(-mail.Tolerance - time.Second), Skip, outcome.Future},
		"dated in the future, and hinted":              {func(v *View) { v.Received = noon.AddDate(1, 0, 0) }, Send, ""},
		"dated as far ahead as servers may differ":     {listed(-mail.Tolerance), Send, ""},
		"listed after an hour":                         {listed(time.Hour), Send, ""},
		"listed after an hour and a second":            {listed(time.Hour + time.Second), SumUp, outcome.Summary},
		"listed after a day":                           {listed(mail.Window), SumUp, outcome.Summary},
		"listed after a day and a second":              {listed(mail.Window + time.Second), Skip, outcome.Late},
		"hinted an hour ago, whenever it is dated":     {hinted(time.Hour), Send, ""},
		"hinted more than an hour ago":                 {hinted(time.Hour + time.Second), SumUp, outcome.Summary},
		"hinted more than a day ago":                   {hinted(mail.Window + time.Second), Skip, outcome.Late},
		"old, and the device was not enrolled by then": {func(v *View) { listed(2 * time.Hour)(v); v.Enrolled = noon.Add(-time.Hour) }, Skip, outcome.BeforeEnrolment},
	} {
		if verdict, reason := Judge(seen(test.change)); verdict != test.verdict || reason != test.reason {
			t.Errorf("%s: verdict %d, reason %q; want %d, %q", name, verdict, reason, test.verdict, test.reason)
		}
	}
}

func TestADecisionToSendHasThePayloadOfTheContentAndWhereItIsLongASmallerOne(t *testing.T) {
	d := Decide(Case{View: seen(nil), Device: Device{ID: "phone-1", Content: SenderSubject}, Key: key(1), Message: message(nil), Source: mail.EWS, Thread: "tHrEaD"})
	want := Payload(Alert{Message: message(nil), Keys: []mail.Key{key(1)}, Device: "phone-1", Source: mail.EWS, Thread: "tHrEaD"}, SenderSubject)
	if d.Verdict != Send || d.Reason != "" || string(d.Payload) != string(want) {
		t.Errorf("%+v", d)
	}
	if d.Smaller != nil {
		t.Errorf("a payload of %d bytes has one of %d in reserve", len(d.Payload), len(d.Smaller))
	}
	long := message(func(m *mail.Message) {
		m.Subject, m.Preview = strings.Repeat("会議", 100), strings.Repeat("昼食", 100)
	})
	d = Decide(Case{View: seen(nil), Device: Device{ID: "phone-1", Content: SenderSubjectPreview}, Key: key(1), Message: long, Source: mail.EWS})
	if len(d.Payload) <= shrinkFrom || len(d.Smaller) >= len(d.Payload) || len(d.Smaller) == 0 {
		t.Errorf("the smaller payload has %d bytes, the payload %d", len(d.Smaller), len(d.Payload))
	}
}

func TestAMessageThatCannotBeReadLeadsToAnAlertThatSaysSo(t *testing.T) {
	d := Decide(Case{View: seen(nil), Device: Device{ID: "phone-1", Content: SenderSubject}, Key: key(1)})
	if d.Verdict != Send || d.Reason != outcome.Unreadable || len(d.Payload) == 0 {
		t.Errorf("%+v", d)
	}
}

func TestWhatIsNotSentHasNoPayload(t *testing.T) {
	for _, change := range []func(*View){func(v *View) { v.Gone = true }, func(v *View) { v.Hinted = noon.Add(-2 * time.Hour) }} {
		if d := Decide(Case{View: seen(change), Key: key(1), Message: message(nil)}); d.Payload != nil || d.Smaller != nil || d.Reason == "" {
			t.Errorf("%+v", d)
		}
	}
}

func TestASummaryIsOneAlertForAll(t *testing.T) {
	d := Summarize(Device{ID: "phone-1", Content: SenderSubjectPreview}, []mail.Key{key(1), key(2)})
	want := Payload(Alert{Keys: []mail.Key{key(1), key(2)}, Summary: true, Device: "phone-1"}, Generic)
	if d.Verdict != SumUp || d.Reason != outcome.Summary || string(d.Payload) != string(want) {
		t.Errorf("%+v", d)
	}
}

func ExampleJudge() {
	verdict, reason := Judge(View{Received: noon.Add(-3 * time.Hour), Enrolled: noon.AddDate(0, -1, 0), Ours: noon, Server: noon, MaxAge: time.Hour})
	fmt.Println(verdict == SumUp, reason.Sentence())
	// Output: true The message was older than max_age when its turn came; one alert sums it up with others.
}
