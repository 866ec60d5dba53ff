package push

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func TestTokenIsRenewedAfterFiftyMinutesAndSharedByAllThatUseItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil, func(o *Options) {
			second := o.Topics[0]
			second.Environment, second.URL = "sandbox", "https://127.0.0.1:2197"
			o.Topics = append(o.Topics, second)
		})
		if len(b.gateways) != 2 {
			t.Fatalf("%d gateways, want one for each URL", len(b.gateways))
		}
		tokens := func() string {
			d := device(1)
			b.Ring(t.Context(), d, bell(1))
			d.Environment = "sandbox"
			b.Ring(t.Context(), d, bell(1))
			requests, _, _, _ := b.apns.seen()
			one, other := requests[len(requests)-2].header["authorization"], requests[len(requests)-1].header["authorization"]
			if one != other {
				t.Error("two tokens for one key")
			}
			return one
		}
		first := tokens()
		<-time.After(49 * time.Minute)
		if tokens() != first {
			t.Error("renewed before its time")
		}
		<-time.After(2 * time.Minute)
		second := tokens()
		if second == first {
			t.Error("not renewed")
		}
		<-time.After(49 * time.Minute)
		if tokens() != second {
			t.Error("renewed too soon the second time")
		}
	})
}

func TestTokenThatAPNsCallsExpiredIsRenewedOnceInTwentyMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.Ring(t.Context(), device(1), bell(1))
		requests, _, _, _ := b.apns.seen()
		old := requests[0].header["authorization"]
		<-time.After(25 * time.Minute)
		b.apns.set(func(s *standIn) {
			s.decide = func(a arrived) act {
				if a.header["authorization"] == old {
					return refuse(403, "ExpiredProviderToken")
				}
				return act{}
			}
		})
		for _, a := range b.burst(t.Context(), 20) {
			if a.Result != subscriptions.Accepted || a.Resent != 0 {
				t.Errorf("got %+v", a)
			}
		}
		b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return refuse(403, "ExpiredProviderToken") } })
		if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.NotBefore || a.Reason != "credentials" {
			t.Errorf("a token that is refused when it is new: %+v", a)
		}
	})
}

func TestTooManyTokensKeepsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		<-time.After(45 * time.Minute)
		b.apns.set(func(s *standIn) {
			s.decide = func(a arrived) act {
				if a.number == 1 {
					return refuse(429, "TooManyProviderTokenUpdates")
				}
				return act{}
			}
		})
		b.Ring(t.Context(), device(1), bell(1))
		<-time.After(10 * time.Minute)
		b.Ring(t.Context(), device(1), bell(1))
		<-time.After(15 * time.Minute)
		b.Ring(t.Context(), device(1), bell(1))
		requests, _, _, _ := b.apns.seen()
		if len(requests) != 4 {
			t.Fatalf("%d requests", len(requests))
		}
		old := requests[0].header["authorization"]
		if requests[1].header["authorization"] != old || requests[2].header["authorization"] != old {
			t.Error("signed again within twenty minutes")
		}
		if requests[3].header["authorization"] == old {
			t.Error("never signed again")
		}
	})
}

func TestNewNamesEveryTopicThatCannotWork(t *testing.T) {
	good := Topic{Topic: "com.contoso.good", Environment: "production", Key: Key{P8: p8(), ID: "ABCDE12345", Team: "FGHIJ67890"}}
	with := func(name string, change func(*Topic)) Topic {
		c := good
		c.Topic = name
		change(&c)
		return c
	}
	broken := strings.Replace(string(p8()), "M", "N", 1)
	_, err := New(Options{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Topics: []Topic{good, good,
		with("empty", func(c *Topic) { c.Key = Key{ID: "A", Team: "B"} }),
		with("broken", func(c *Topic) { c.Key = Key{P8: []byte(broken), ID: "C", Team: "D"} }),
		with("nameless", func(c *Topic) { c.Key.ID = "" }),
		with("othersKey", func(c *Topic) { c.Key.P8 = append([]byte("\n"), p8()...) }),
		with("plain", func(c *Topic) { c.URL = "http://apns.example" }),
		with("path", func(c *Topic) { c.URL = "https://apns.example/3/device" }),
		with("nowhere", func(c *Topic) { c.Environment = "staging" }),
		with("greedy", func(c *Topic) { c.Connections = 5 }),
	}})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{`"com.contoso.good" (production): is there twice`, `"empty"`, `"broken"`, `"nameless"`, `"othersKey"`, `"plain"`, `"path"`, `"nowhere"`, `"greedy"`} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Errorf("line %d of %q does not name %s", i, lines, want)
		}
	}
	for line := range strings.SplitSeq(string(p8()), "\n") {
		if len(line) > 10 && strings.Contains(err.Error(), line) {
			t.Error("the key is in the error")
		}
	}
}
