package inbox

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// secret is that of an installation.
var secret = mail.Secret{1, 2, 3}

func TestAReceiptIsKeptWithTheNewestAcceptedAlertOfTheDevice(t *testing.T) {
	var h history
	at := time.UnixMilli(time.Now().UnixMilli())
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
		h.add(secret, d, phone{device: d.Device})
	}
	shown := at.Add(1234 * time.Millisecond)
	d, first, known := h.show(secret, key, "ann", shown)
	if !known || !first || !d.Shown.Equal(shown) || !d.At.Equal(at) {
		t.Errorf("%+v, first %t, known %t", d, first, known)
	}
	if d, first, known := h.show(secret, key, "ann", shown.Add(time.Second)); !known || first || !d.Shown.Equal(shown) {
		t.Errorf("a second receipt changed it: %+v, first %t, known %t", d, first, known)
	}
	for _, one := range []struct {
		key    mail.Key
		device string
	}{{mail.Key{2}, "ann"}, {mail.Key{3}, "ann"}, {key, "eve"}} {
		if d, _, known := h.show(secret, one.key, one.device, shown); known {
			t.Errorf("%v of %s: there is no accepted alert, and %+v is shown", one.key, one.device, d)
		}
	}
	n := 0
	for _, d := range h.all(secret) {
		if !d.Shown.IsZero() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d decisions are shown", n)
	}
}

func TestAnAlertThatThePhoneShowedAtTheSameMomentOrBeforeIsShown(t *testing.T) {
	at := time.UnixMilli(time.Now().UnixMilli())
	for _, after := range []time.Duration{0, time.Millisecond, -2 * time.Second, 23 * time.Hour, -90 * 24 * time.Hour} {
		var h history
		h.add(secret, subscriptions.Decision{Key: mail.Key{1}, Device: "ann", Outcome: outcome.Accepted, At: at}, phone{device: "ann"})
		_, first, _ := h.show(secret, mail.Key{1}, "ann", at.Add(after))
		_, again, _ := h.show(secret, mail.Key{1}, "ann", at.Add(time.Hour))
		if shown := h.all(secret)[0].Shown; !first || again || !shown.Equal(at.Add(after)) {
			t.Errorf("%s after: %s, first %t, then %t", after, shown.Sub(at), first, again)
		}
	}
}

func TestAReceiptIsFoundHoweverTheRingStands(t *testing.T) {
	var h history
	for i := range 3*maxDecisions/2 + 1 {
		h.add(secret, subscriptions.Decision{Key: mail.Key{byte(i)}, Device: "ann", Outcome: outcome.Accepted, At: time.Now()}, phone{device: "ann"})
	}
	for i := range 3*maxDecisions/2 + 1 {
		_, _, known := h.show(secret, mail.Key{byte(i)}, "ann", time.Now())
		if want := i > maxDecisions/2; known != want {
			t.Errorf("decision %d: known %t", i, known)
		}
	}
}

func TestTheHistoryTellsAgainWhatItWasTold(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	times := func() time.Time {
		return []time.Time{{}, time.Unix(0, 0), time.Unix(1_800_000_000+r.Int64N(1000), 0), time.Unix(-1<<33, 0), time.Unix(1<<34, 0)}[r.IntN(5)]
	}
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	for range 300 {
		var h history
		var told []subscriptions.Decision
		for range r.IntN(3 * maxDecisions) {
			to := phone{pick("ann", "bob", "eve", ""), pick("aa", "bb"), pick("app", "other")}
			d := subscriptions.Decision{Key: mail.Key{byte(r.Int()), 15: byte(r.Int())}, Device: to.device, Code: pick("", "ErrorX", strconv.Itoa(r.Int())),
				Outcome: outcome.Outcome(pick("accepted", "refused")), Reason: outcome.Reason(pick("", "late")), Status: r.IntN(600),
				Came: times(), At: times(), Correlation: subscriptions.Correlation(r.Uint32())}
			switch r.IntN(4) {
			case 0:
				d.PushID = mail.PushID{byte(r.Int()), 1} // as of a summary, or to another phone
			case 1, 2:
				d.PushID = secret.PushID(d.Key, to.token, to.topic)
			}
			if !d.At.IsZero() {
				d.At = d.At.Add(time.Duration(r.IntN(1000)) * time.Millisecond)
			}
			if at := times(); r.IntN(5) == 0 {
				d.Shown = at
			}
			h.add(secret, d, to)
			told = append(told, d)
		}
		told = told[max(0, len(told)-maxDecisions):]
		slices.Reverse(told)
		tells := h.all(secret)
		if !slices.EqualFunc(tells, told, func(a, b subscriptions.Decision) bool {
			same := a.Came.Equal(b.Came) && a.At.Equal(b.At) && a.Shown.Equal(b.Shown)
			a.Came, a.At, a.Shown = b.Came, b.At, b.Shown
			return same && a == b
		}) {
			t.Fatalf("told:\n%+v\ntells:\n%+v", told, tells)
		}
	}
}

func TestAHistoryTakesAKilobyteAndAHalf(t *testing.T) {
	var h history
	at := time.Now()
	for i := range 4 * maxDecisions {
		at = at.Add(time.Hour)
		key := mail.Key{byte(i), byte(i >> 8)}
		to := phone{[]string{"ann", "bob"}[i%2], "aa", "app"}
		h.add(secret, subscriptions.Decision{Key: key, Device: to.device, Outcome: outcome.Accepted, Status: 200, At: at, Came: at.Add(-3 * time.Second),
			PushID: secret.PushID(key, to.token, to.topic), Correlation: subscriptions.Correlation(at.Unix())}, to)
	}
	if size := cap(h.packed); size > 1536 || len(h.phones) != 2 || len(h.whys) != 1 {
		t.Errorf("%d bytes, %d phones, %d reasons", size, len(h.phones), len(h.whys))
	}
}

func TestAHistoryForgetsThePhonesAndReasonsThatItDoesNotName(t *testing.T) {
	var h history
	for i := range 10 * maxDecisions {
		name := strconv.Itoa(i)
		h.add(secret, subscriptions.Decision{Device: name, Code: name, At: time.Now(), Correlation: subscriptions.Correlation(i)}, phone{device: name})
		if len(h.phones) > mostPlaces || len(h.whys) > mostPlaces {
			t.Fatalf("after %d: %d phones, %d reasons", i, len(h.phones), len(h.whys))
		}
	}
	for i, d := range h.all(secret) {
		if want := strconv.Itoa(10*maxDecisions - 1 - i); d.Device != want || d.Code != want {
			t.Errorf("decision %d: %s, %s", i, d.Device, d.Code)
		}
	}
}

func TestTheAPNsIDOfADecisionStaysWhenThePhoneIsAnother(t *testing.T) {
	var h history
	key := mail.Key{1}
	was, is := phone{"ann", "aa", "app"}, phone{"ann", "bb", "app"}
	d := subscriptions.Decision{Key: key, Device: "ann", Outcome: outcome.Accepted, PushID: secret.PushID(key, was.token, was.topic), At: time.Now()}
	h.add(secret, d, was)
	h.add(secret, d, is) // its answer came after the enrolment had changed
	h.add(secret, subscriptions.Decision{Key: key, Device: "ann", PushID: secret.PushID(key, is.token, is.topic)}, is)
	all := h.all(secret)
	if all[2].PushID != d.PushID || all[1].PushID != d.PushID || all[0].PushID != secret.PushID(key, "bb", "app") {
		t.Errorf("%+v", all)
	}
}
