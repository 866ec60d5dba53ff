package receipts

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/simulator/phonekey"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// phoneKey is the key of a phone.
type phoneKey struct{ *phonekey.Key }

func newPhoneKey(t testing.TB) phoneKey {
	t.Helper()
	k, err := phonekey.New()
	if err != nil {
		t.Fatal(err)
	}
	return phoneKey{k}
}

// sign signs a text, as the header has it and as Signed takes it.
func (k phoneKey) sign(t testing.TB, text string) []byte {
	t.Helper()
	header, err := k.Sign([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := ParseSignature(header)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// desk is what takes receipts, with the devices and decisions that it asks about.
type desk struct {
	*Receipts
	registry  *prometheus.Registry
	devices   map[string]subscriptions.Device
	decisions map[mail.Key]subscriptions.Decision
	away      error // the state
}

func newDesk() *desk {
	d := &desk{registry: prometheus.NewRegistry(), devices: map[string]subscriptions.Device{}, decisions: map[mail.Key]subscriptions.Decision{}}
	d.Receipts = New(Options{
		Metrics: d.registry,
		Device: func(id string) (subscriptions.Device, bool) {
			one, ok := d.devices[id]
			return one, ok
		},
		Note: func(_ context.Context, _ subscriptions.Device, s Shown) (was subscriptions.Decision, first, known bool, err error) {
			if d.away != nil {
				return was, false, false, d.away
			}
			was, known = d.decisions[s.Key]
			first = was.Shown.IsZero()
			if known && first {
				was.Shown = s.At
				d.decisions[s.Key] = was
			}
			return was, first, known, nil
		},
	})
	return d
}

// take takes receipts, which it can.
func (d *desk) take(t testing.TB, of subscriptions.Device, list []Shown) {
	t.Helper()
	if err := d.Take(t.Context(), of, list); err != nil {
		t.Error(err)
	}
}

// counts are the receipts by result, and how many are in the histogram.
func (d *desk) counts(t testing.TB) string {
	t.Helper()
	var list []string
	for _, result := range []string{resultShown, resultRepeated, resultTest, resultEarly, resultUnknown, resultTooOld, resultFuture} {
		if n := testutil.ToFloat64(d.results.WithLabelValues(result)); n > 0 {
			list = append(list, fmt.Sprint(result, " ", n))
		}
	}
	return strings.Join(list, ", ")
}

func TestOnlyTheKeyOfAnEnrolmentSignsForItsDevice(t *testing.T) {
	d := newDesk()
	ann, bob := newPhoneKey(t), newPhoneKey(t)
	d.devices["ann"] = subscriptions.Device{ID: "ann", ReceiptKey: ann.Public()}
	d.devices["bob"] = subscriptions.Device{ID: "bob", ReceiptKey: bob.Public()}
	d.devices["old"] = subscriptions.Device{ID: "old"}
	right := ann.sign(t, "text")
	if got, ok := d.Signed("ann", []byte("text"), right); !ok || got.ID != "ann" {
		t.Errorf("the right signature is refused: %+v", got)
	}
	for name, c := range map[string]struct {
		device, text string
		signature    []byte
	}{
		"another text":       {"ann", "text ", right},
		"another device":     {"bob", "text", right},
		"an unknown device":  {"eve", "text", right},
		"a device without":   {"old", "text", right},
		"none":               {"ann", "text", nil},
		"too short":          {"ann", "text", right[:63]},
		"zeroes":             {"ann", "text", make([]byte, signatureSize)},
		"zeroes, of nobody":  {"eve", "text", make([]byte, signatureSize)},
		"a byte too much":    {"ann", "text", append(right[:64:64], 0)},
		"the halves swapped": {"ann", "text", append(right[32:64:64], right[:32]...)},
	} {
		if got, ok := d.Signed(c.device, []byte(c.text), c.signature); ok || got != (subscriptions.Device{}) {
			t.Errorf("%s: taken, %+v", name, got)
		}
	}
}

func TestAnUnknownDeviceCostsAsMuchAsAWrongSignature(t *testing.T) {
	d := newDesk()
	d.devices["ann"] = subscriptions.Device{ID: "ann", ReceiptKey: newPhoneKey(t).Public()}
	d.devices["old"] = subscriptions.Device{ID: "old"}
	wrong := newPhoneKey(t).sign(t, "text")
	work := func(device string) float64 {
		return testing.AllocsPerRun(50, func() { d.Signed(device, []byte("text"), wrong) })
	}
	known := work("ann")
	for _, device := range []string{"eve", "old"} {
		// A check of a signature allocates a dozen times; the runtime may allocate once beside it.
		if n := work(device); math.Abs(n-known) > 2 || n < 5 {
			t.Errorf("%s: %v allocations, and %v for a wrong signature", device, n, known)
		}
	}
}

func TestAnEnrolmentWithAnotherPhoneHasNoReceiptOfTheOneBefore(t *testing.T) {
	d := newDesk()
	ann := subscriptions.Device{ID: "phone", ReceiptKey: newPhoneKey(t).Public()}
	bob := subscriptions.Device{ID: "phone", ReceiptKey: newPhoneKey(t).Public()}
	d.devices["phone"] = ann
	now := time.Now()
	d.take(t, ann, []Shown{{At: now}})
	if last := d.Last("phone"); !last.Equal(now) {
		t.Errorf("%s", last)
	}
	d.devices["phone"] = bob
	if last := d.Last("phone"); !last.IsZero() {
		t.Errorf("the phone of before showed an alert at %s", last)
	}
	d.take(t, bob, []Shown{{At: now.Add(-time.Minute)}})
	if last := d.Last("phone"); !last.Equal(now.Add(-time.Minute)) {
		t.Errorf("%s", last)
	}
	delete(d.devices, "phone")
	if last := d.Last("phone"); !last.IsZero() {
		t.Errorf("a device that is not enrolled showed an alert at %s", last)
	}
}

func TestAReceiptCountsOnceAndMeasuresTheWayToTheScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		ann := subscriptions.Device{ID: "ann"}
		now := time.Now()
		d.decisions[mail.Key{1}] = subscriptions.Decision{Came: now.Add(-4 * time.Second), At: now.Add(-3 * time.Second)}
		d.take(t, ann, []Shown{{mail.Key{1}, now.Add(-time.Second)}})
		d.take(t, ann, []Shown{{mail.Key{1}, now}, {mail.Key{2}, now}, {mail.Key{2}, now.Add(-mail.Tolerance - time.Second)}, {mail.Key{}, now.Add(2 * time.Minute)}})
		d.take(t, ann, []Shown{{mail.Key{1}, now.Add(-maxAge - time.Second)}, {mail.Key{1}, now.Add(mail.Tolerance + time.Second)}})
		if got, want := d.counts(t), "shown 1, repeated 1, test 1, early 1, unknown 1, too_old 1, future 1"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if at := d.decisions[mail.Key{1}].Shown; !at.Equal(now.Add(-time.Second)) {
			t.Errorf("shown at %s", at)
		}
		if last := d.Last("ann"); !last.Equal(now) {
			t.Errorf("the last receipt is of %s: a phone whose clock is fast has shown it by now", last)
		}
		if err := testutil.CollectAndCompare(d.screen, strings.NewReader(`
# HELP mailbell_screen_seconds From when Exchange received a message, in whole seconds of its clock, to when a phone showed the alert, on the phone's clock.
# TYPE mailbell_screen_seconds histogram
mailbell_screen_seconds_bucket{le="0.5"} 0
mailbell_screen_seconds_bucket{le="1"} 0
mailbell_screen_seconds_bucket{le="2"} 0
mailbell_screen_seconds_bucket{le="3"} 1
mailbell_screen_seconds_bucket{le="5"} 1
mailbell_screen_seconds_bucket{le="10"} 1
mailbell_screen_seconds_bucket{le="30"} 1
mailbell_screen_seconds_bucket{le="60"} 1
mailbell_screen_seconds_bucket{le="300"} 1
mailbell_screen_seconds_bucket{le="1800"} 1
mailbell_screen_seconds_bucket{le="3600"} 1
mailbell_screen_seconds_bucket{le="+Inf"} 1
mailbell_screen_seconds_sum 3
mailbell_screen_seconds_count 1
`)); err != nil {
			t.Error(err)
		}
	})
}

func TestAPhoneSendsNoMoreThanItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		for i := range burst {
			if wait := d.Allow("ann"); wait != 0 {
				t.Fatalf("request %d waits %s", i, wait)
			}
		}
		if wait := d.Allow("ann"); wait <= 0 || wait > time.Second {
			t.Errorf("the next one waits %s", wait)
		}
		if wait := d.Allow("bob"); wait != 0 {
			t.Errorf("another phone waits %s", wait)
		}
		<-time.After(time.Second)
		if wait := d.Allow("ann"); wait != 0 {
			t.Errorf("a second later it waits %s", wait)
		}
	})
}

func TestAReceiptThatCannotBeKeptIsNotCounted(t *testing.T) {
	d := newDesk()
	d.devices["ann"] = subscriptions.Device{ID: "ann"}
	d.decisions[mail.Key{1}] = subscriptions.Decision{Came: time.Now()}
	d.away = errors.New("connection refused")
	receipt := []Shown{{Key: mail.Key{1}, At: time.Now()}}
	if err := d.Take(t.Context(), d.devices["ann"], receipt); !errors.Is(err, d.away) || d.counts(t) != "" || !d.Last("ann").IsZero() {
		t.Errorf("%v, and %q", err, d.counts(t))
	}
	d.away = nil
	if err := d.Take(t.Context(), d.devices["ann"], receipt); err != nil || d.counts(t) != "shown 1" {
		t.Errorf("%v, and %q", err, d.counts(t))
	}
}

func TestPhonesThatAreGoneAreForgotten(t *testing.T) {
	d := newDesk()
	d.devices["ann"] = subscriptions.Device{ID: "ann"}
	d.take(t, d.devices["ann"], []Shown{{At: time.Now()}})
	for i := range 10 * sweepAt { // each enrolled, heard once, and removed
		d.Allow(fmt.Sprint("device-", i))
	}
	if n := len(d.phones); n > sweepAt {
		t.Errorf("%d phones are remembered, and one is enrolled", n)
	}
	if d.Last("ann").IsZero() {
		t.Error("one that is enrolled was forgotten")
	}
}

func TestAKeyHasOneForm(t *testing.T) {
	key := newPhoneKey(t).Public()
	if got, err := CheckKey(key); err != nil || got != key {
		t.Errorf("a good key is refused: %v", err)
	}
	point, _ := base64.StdEncoding.DecodeString(key)
	off := append([]byte{}, point...)
	off[64] ^= 1
	for name, s := range map[string]string{
		"empty": "", "base64url": strings.NewReplacer("+", "-", "/", "_").Replace("++//" + key[4:]), "without padding": key[:87], "with an end of line": key + "\n",
		"an end of line within": key[:40] + "\n" + key[40:], "compressed": base64.StdEncoding.EncodeToString(append([]byte{2}, point[1:33]...)),
		"off the curve": base64.StdEncoding.EncodeToString(off), "the point at infinity": base64.StdEncoding.EncodeToString(make([]byte, keySize)),
		"another lead": base64.StdEncoding.EncodeToString(append([]byte{6}, point[1:]...)), "bits behind the end": key[:86] + string(rune(key[86]+1)) + "=",
	} {
		if got, err := CheckKey(s); err == nil {
			t.Errorf("%s: taken as %q", name, got)
		}
	}
}

func FuzzKeyAndSignature(f *testing.F) {
	k := newPhoneKey(f)
	key := k.Public()
	f.Add(key, base64.StdEncoding.EncodeToString(k.sign(f, "text")))
	f.Add("BA==", "AA==")
	f.Add(strings.Repeat("A", 87)+"=", strings.Repeat("/", 86)+"==")
	f.Fuzz(func(t *testing.T, key, signature string) {
		if parsed, err := parseKey(key); err == nil {
			if point, err := parsed.Bytes(); err != nil || base64.StdEncoding.EncodeToString(point) != key {
				t.Errorf("the key %q has another form", key)
			}
			if sig, err := ParseSignature(signature); err == nil {
				if base64.StdEncoding.EncodeToString(sig) != signature {
					t.Errorf("the signature %q has another form", signature)
				}
				verify(parsed, []byte("text"), sig)
			}
		}
	})
}
