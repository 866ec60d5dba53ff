package inbox

import (
	"testing"
	"time"
	"unsafe"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestAReceiptIsKeptWithTheNewestAcceptedAlertOfTheDevice(t *testing.T) {
	var h history
	at := time.UnixMicro(time.Now().UnixMicro())
	key := mail.Key{1}
	for i, d := range []subscriptions.Decision{
		{Key: key, Device: "ann", Outcome: outcome.Accepted, At: at.Add(-time.Minute)}, // an earlier life of the enrolment
		{Key: key, Device: "ann", Outcome: outcome.Accepted, At: at},
		{Key: key, Device: "bob", Outcome: outcome.Accepted, At: at},
		{Key: key, Device: "ann", Outcome: outcome.NotSent, Reason: outcome.Known, At: at},
		{Key: mail.Key{2}, Device: "ann", Outcome: outcome.Refused, At: at},
	} {
		if i == 0 {
			d.Came = at.Add(-time.Hour).Truncate(time.Second)
		}
		h.add(d)
	}
	shown := at.Add(1234 * time.Millisecond)
	d, first, known := h.show(key, "ann", shown)
	if !known || !first || !d.Shown.Equal(shown) || !d.At.Equal(at) {
		t.Errorf("%+v, first %t, known %t", d, first, known)
	}
	if d, first, known := h.show(key, "ann", shown.Add(time.Second)); !known || first || !d.Shown.Equal(shown) {
		t.Errorf("a second receipt changed it: %+v, first %t, known %t", d, first, known)
	}
	for _, one := range []struct {
		key    mail.Key
		device string
	}{{mail.Key{2}, "ann"}, {mail.Key{3}, "ann"}, {key, "eve"}} {
		if d, _, known := h.show(one.key, one.device, shown); known {
			t.Errorf("%v of %s: there is no accepted alert, and %+v is shown", one.key, one.device, d)
		}
	}
	n := 0
	for _, d := range h.all() {
		if !d.Shown.IsZero() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d decisions are shown", n)
	}
}

func TestAnAlertThatThePhoneShowedAtTheSameMomentOrBeforeIsShown(t *testing.T) {
	at := time.UnixMicro(time.Now().UnixMicro())
	for after, want := range map[time.Duration]time.Duration{
		0: time.Millisecond, 900 * time.Microsecond: time.Millisecond, -2 * time.Second: -2 * time.Second, 23 * time.Hour: 23 * time.Hour,
		-90 * 24 * time.Hour: -(1 << 31) * time.Millisecond, 90 * 24 * time.Hour: (1<<31 - 1) * time.Millisecond, // further than a receipt is taken
	} {
		var h history
		h.add(subscriptions.Decision{Key: mail.Key{1}, Device: "ann", Outcome: outcome.Accepted, At: at})
		d, _, _ := h.show(mail.Key{1}, "ann", at.Add(after))
		if got := d.Shown.Sub(at); d.Shown.IsZero() || got != want {
			t.Errorf("%s after: %s", after, got)
		}
	}
}

func TestAReceiptIsFoundHoweverTheRingStands(t *testing.T) {
	var h history
	for i := range 3*maxDecisions/2 + 1 {
		h.add(subscriptions.Decision{Key: mail.Key{byte(i)}, Device: "ann", Outcome: outcome.Accepted, At: time.Now()})
	}
	for i := range 3*maxDecisions/2 + 1 {
		_, _, known := h.show(mail.Key{byte(i)}, "ann", time.Now())
		if want := i > maxDecisions/2; known != want {
			t.Errorf("decision %d: known %t", i, known)
		}
	}
}

func TestADecisionHasItsReceiptInNoMoreSpace(t *testing.T) {
	if size := unsafe.Sizeof(kept{}); size != 64 {
		t.Errorf("a kept decision has %d bytes", size)
	}
}
