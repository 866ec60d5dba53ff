package push

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

const oldKey, newKeyID = "ABCDE12345", "NEWKEY6789"

// keyOf is the id of the key that signed a request's token.
func keyOf(t testing.TB, a arrived) string {
	t.Helper()
	first, _, _ := strings.Cut(strings.TrimPrefix(a.header["authorization"], "bearer "), ".")
	var h struct{ Kid string }
	data, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil || json.Unmarshal(data, &h) != nil {
		t.Fatalf("not a token: %q", a.header["authorization"])
	}
	return h.Kid
}

// keys counts requests by the key that signed them.
func keys(t testing.TB, list []arrived) map[string]int {
	n := map[string]int{}
	for _, a := range list {
		n[keyOf(t, a)]++
	}
	return n
}

// renewed is the topic of a bench with another key.
func renewed(b *bench, change func(*Topic)) []Topic {
	t := Topic{Topic: topic, Environment: production, Key: Key{P8: p8(), ID: newKeyID, Team: "FGHIJ67890"}}
	if change != nil {
		change(&t)
	}
	return []Topic{t}
}

func TestANewKeyTakesOverWhenItHasWorkedAndNothingIsLostMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, slowly(100*time.Millisecond, refuseProbe))
		var sending sync.WaitGroup
		var mu sync.Mutex
		var answers []subscriptions.Answer
		for i := range 200 {
			sending.Go(func() {
				<-time.After(time.Duration(i) * 10 * time.Millisecond)
				a := b.Push(t.Context(), alert(i, i))
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, a)
			})
		}
		<-time.After(time.Second)
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		sending.Wait()
		if diff := cmp.Diff(map[string]int{"accepted": 200}, count(answers)); diff != "" {
			t.Error(diff)
		}
		for _, a := range answers {
			if a.Resent != 0 {
				t.Errorf("sent again: %+v", a)
			}
		}
		alerts, probes, connections, _ := b.apns.seen()
		by := keys(t, alerts)
		if by[oldKey] < 90 || by[newKeyID] < 80 || len(alerts) != 200 || len(probes) != 1 || connections != 2 {
			t.Errorf("alerts by key: %v; %d probes, %d connections", by, len(probes), connections)
		}
		on := map[int]string{}
		for _, a := range alerts {
			if was := on[a.connection]; was != "" && was != keyOf(t, a) {
				t.Fatal("two keys on one connection")
			}
			on[a.connection] = keyOf(t, a)
		}
		if got := b.metric(t, "mailbell_apns_connections", ""); got != 1 {
			t.Errorf("%v connections are open, want that of the new key alone", got)
		}
	})
}

func TestAKeyThatIsRefusedLeavesTheOldOneAtWorkAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if keyOf(t, a) == newKeyID {
				return refusing(403, "InvalidProviderToken")
			}
			return refuseProbe(a)
		})
		b.Push(t.Context(), alert(1, 1))
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			<-time.After(5 * time.Minute)
			if a := b.Push(t.Context(), alert(1, 2+i)); a.Result != subscriptions.Accepted {
				t.Fatalf("while the new key is refused: %+v", a)
			}
		}
		if f := b.Topics()[0].NotTakenUp; f == nil || f.Code != "InvalidProviderToken" {
			t.Errorf("the topic says of the new key: %v", f)
		}
		alerts, probes, _, _ := b.apns.seen()
		if diff := cmp.Diff(map[string]int{oldKey: 11}, keys(t, alerts)); diff != "" {
			t.Error(diff)
		}
		if n := len(probes); n < 3 || n > 8 {
			t.Errorf("the new key was tried %d times in 50 minutes, want a few, less and less often", n)
		}
		lines := b.logs.FilterMessage("a new credential does not work; the one before serves on").All()
		if len(lines) != len(probes) || lines[0].ContextMap()["key_id"] != newKeyID {
			t.Errorf("the log has %d lines for %d tries", len(lines), len(probes))
		}
		b.apns.set(func(s *standIn) { s.decide = refuseProbe })
		<-time.After(time.Hour)
		b.Push(t.Context(), alert(1, 100))
		if alerts, _, _, _ = b.apns.seen(); keyOf(t, alerts[len(alerts)-1]) != newKeyID {
			t.Error("APNs takes the new key now, and it is not used")
		}
		if f := b.Topics()[0].NotTakenUp; f != nil {
			t.Errorf("it is used, and the topic says %v", f)
		}
	})
}

func TestANewKeyOpensATopicWhoseOldOneIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if keyOf(t, a) == oldKey {
				return refusing(403, "InvalidProviderToken")
			}
			return refuseProbe(a)
		})
		if a := b.Push(t.Context(), alert(1, 1)); a.Reason != outcome.Credentials {
			t.Fatalf("got %+v", a)
		}
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Second)
		if diff := cmp.Diff([]string{topic + " production"}, b.readied()); diff != "" {
			t.Errorf("who waits is told once (-want +got):\n%s", diff)
		}
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
			t.Errorf("got %+v", a)
		}
	})
}

func TestARefusalOfTheOldKeySaysNothingAgainstTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if keyOf(t, a) == oldKey {
				do := refusing(403, "InvalidProviderToken")
				do.delay = 3 * time.Second
				return do
			}
			return refuseProbe(a)
		})
		var all sync.WaitGroup
		all.Go(func() {
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
				t.Errorf("what went out with the old key: %+v", a)
			}
		})
		synctest.Wait()
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		if !b.Ready(topic, production) || b.logs.FilterMessage("nothing can be sent").Len() != 0 {
			t.Error("the topic is held")
		}
	})
}

func TestWhatWaitsForTheOldKeyGoesOutWithTheNewOneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if keyOf(t, a) == oldKey {
				return act{silent: true}
			}
			return refuseProbe(a)
		})
		var all sync.WaitGroup
		all.Go(func() { b.Push(t.Context(), alert(1, 1)) })
		synctest.Wait() // the connection takes no other until that is answered
		all.Go(func() {
			start := time.Now()
			if a := b.Push(t.Context(), alert(2, 2)); a.Result != subscriptions.Accepted || time.Since(start) != 0 {
				t.Errorf("got %+v after %v", a, time.Since(start))
			}
		})
		synctest.Wait()
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		all.Wait()
	})
}

// during is told that a topic is ready, and does something meanwhile.
type during func()

func (d during) TopicReady(string, string) { d() }

func TestAKeyThatIsReplacedAsSoonAsItHasWorkedIsLeftOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		replace := sync.OnceFunc(func() {
			if err := b.Update(renewed(b, func(c *Topic) { c.Key.ID = "THIRDKEY90" })); err != nil {
				t.Error(err)
			}
			<-time.After(10 * time.Second)
		})
		b = overMemory(t, func(a arrived) act {
			if keyOf(t, a) == oldKey {
				return refusing(403, "InvalidProviderToken")
			}
			return refuseProbe(a)
		}, func(o *Options) { o.Ready = during(replace) })
		b.Push(t.Context(), alert(1, 1)) // shuts the topic, so that its return is told
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Second)
		b.Push(t.Context(), alert(1, 2))
		alerts, _, _, _ := b.apns.seen()
		if by := keyOf(t, alerts[len(alerts)-1]); by != "THIRDKEY90" {
			t.Errorf("the alert was signed with %s", by)
		}
	})
}

func TestANewCertificateTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := clientCertificate(t, 1, time.Now().AddDate(0, 1, 0)), clientCertificate(t, 2, time.Now().AddDate(1, 0, 0))
		b := overMemory(t, refuseProbe, withCertificate(old))
		b.apns.tls.ClientAuth = tls.RequireAnyClientCert
		b.Push(t.Context(), alert(1, 1))
		if err := b.Update(renewed(b, func(c *Topic) { c.Key, c.Certificate = Key{}, fresh })); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Second)
		b.Push(t.Context(), alert(1, 2))
		alerts, _, _, _ := b.apns.seen()
		if !alerts[0].client.Equal(old.Leaf) || !alerts[1].client.Equal(fresh.Leaf) {
			t.Error("the certificates did not come one after the other")
		}
	})
}

func TestWhatIsOfferedLastCountsAndTheSameIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if keyOf(t, a) == newKeyID {
				return refusing(403, "InvalidProviderToken")
			}
			return refuseProbe(a)
		})
		same := func(c *Topic) { c.Key.ID = oldKey }
		update := func(change func(*Topic)) {
			t.Helper()
			if err := b.Update(renewed(b, change)); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * time.Second)
		}
		update(same)
		if _, probes, connections, _ := b.apns.seen(); len(probes) != 0 || connections != 0 {
			t.Errorf("no change: %d probes, %d connections", len(probes), connections)
		}
		update(nil)
		update(same) // the mistake is taken back
		_, before, _, _ := b.apns.seen()
		<-time.After(3 * time.Hour)
		if _, after, _, _ := b.apns.seen(); len(after) != len(before) {
			t.Errorf("what was taken back was tried %d times more", len(after)-len(before))
		}
		update(nil)
		update(func(c *Topic) { c.Key.ID = "THIRDKEY90" })
		b.Push(t.Context(), alert(1, 1))
		if alerts, _, _, _ := b.apns.seen(); keyOf(t, alerts[0]) != "THIRDKEY90" {
			t.Errorf("the alert was signed with %s", keyOf(t, alerts[0]))
		}
	})
}

func TestEnvironmentsThatShareANewKeyShareItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, refuseProbe, both)
		topics := append(renewed(b, nil), renewed(b, func(c *Topic) { c.Environment = sandbox })...)
		if err := b.Update(topics); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Second)
		n := alert(1, 1)
		b.Push(t.Context(), n)
		n.Phone.Environment = sandbox
		b.Push(t.Context(), n)
		alerts, _, _, _ := b.apns.seen()
		if one, other := alerts[0].header["authorization"], alerts[1].header["authorization"]; one != other || keyOf(t, alerts[0]) != newKeyID {
			t.Error("two tokens for one key, or of the old one")
		}
	})
}

func TestAnUpdateThatCannotBeDoneIsRefusedAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, refuseProbe, func(o *Options) {
			more := o.Topics[0]
			more.Topic = "com.contoso.second"
			o.Topics = append(o.Topics, more)
		})
		unknown := renewed(b, func(c *Topic) { c.Topic = "com.contoso.other" })
		broken := renewed(b, func(c *Topic) { c.Key.P8 = []byte("no key") })
		split := append(renewed(b, nil), renewed(b, func(c *Topic) { c.Topic, c.Key.ID = "com.contoso.second", "THIRDKEY90" })...)
		for want, topics := range map[string][]Topic{
			`"com.contoso.other" (production): is new`:       append(renewed(b, nil), unknown...),
			`(production): the APNs key is not a .p8`:        broken,
			`"com.contoso.second" (production): has another`: split,
			`has neither a key nor a certificate`:            renewed(b, func(c *Topic) { c.Key = Key{} }),
		} {
			if err := b.Update(topics); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		<-time.After(time.Minute)
		if _, probes, connections, _ := b.apns.seen(); len(probes) != 0 || connections != 0 {
			t.Errorf("%d probes, %d connections", len(probes), connections)
		}
		b.Close(t.Context())
		if err := b.Update(renewed(b, nil)); err == nil {
			t.Error("a sender that is closed takes a new key")
		}
	})
}

func TestASenderThatClosesForgetsWhatIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{silent: true} })
		if err := b.Update(renewed(b, nil)); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		b.Close(t.Context()) // goleak, and the bubble, see to it that nothing is left
	})
}
