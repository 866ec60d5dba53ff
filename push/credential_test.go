package push

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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
			n := alert(1, 1)
			b.Push(t.Context(), n)
			n.Phone.Environment = "sandbox"
			b.Push(t.Context(), n)
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
		b.Push(t.Context(), alert(1, 1))
		requests, _, _, _ := b.apns.seen()
		old := requests[0].header["authorization"]
		<-time.After(25 * time.Minute)
		b.apns.set(func(s *standIn) {
			s.decide = func(a arrived) act {
				if a.header["authorization"] == old {
					return refusing(403, "ExpiredProviderToken")
				}
				return act{}
			}
		})
		for _, a := range b.burst(t.Context(), 20) {
			if a.Result != subscriptions.Accepted || a.Resent != 0 {
				t.Errorf("got %+v", a)
			}
		}
		b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return refusing(403, "ExpiredProviderToken") } })
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != "credentials" {
			t.Errorf("a token that is refused when it is new: %+v", a)
		}
	})
}

// It is the connection that APNs does not take the token on, whoever sends.
func TestAConnectionOnWhichTheTokenIsRefusedIsUsedForNothingMore(t *testing.T) {
	for _, do := range []act{refusing(403, "ExpiredProviderToken"), refusing(403, "UnrelatedKeyIdInToken"), refusing(429, "TooManyProviderTokenUpdates")} {
		t.Run(do.body, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.connection == 1 {
						return do
					}
					return act{}
				})
				<-time.After(tokenFloor)
				var all sync.WaitGroup
				for i := range 3 {
					all.Go(func() {
						<-time.After(time.Duration(i) * 100 * time.Millisecond)
						if a := b.Push(t.Context(), alert(i, i)); a.Result != subscriptions.Accepted {
							t.Errorf("got %+v", a)
						}
					})
				}
				all.Wait()
				alerts, _, connections, _ := b.apns.seen()
				first := 0
				for _, a := range alerts {
					if a.connection == 1 {
						first++
					}
				}
				if first != 1 || connections != 2 {
					t.Errorf("%d alerts went out on the first of %d connections", first, connections)
				}
			})
		})
	}
}

func TestTokenFromTheFutureIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := newKey(Key{P8: p8(), ID: oldKey, Team: "FGHIJ67890"})
		if err != nil {
			t.Fatal(err)
		}
		old := c.bearer()
		c.token.IssuedAt += 24 * 60 * 60 // the clock was a day ahead when it was signed
		if c.bearer() != old {
			t.Error("renewed within twenty minutes")
		}
		<-time.After(tokenFloor)
		if c.bearer() == old {
			t.Error("not renewed")
		}
	})
}

// The clock by which twenty minutes are counted stands still while a virtual machine is suspended. For the rest of them APNs refused every alert
// as signed too long ago.
func TestTokenThatGrewOldWhileTheMachineWasSuspendedIsRenewed(t *testing.T) {
	c, err := newKey(Key{P8: p8(), ID: oldKey, Team: "FGHIJ67890"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.untilWall.String(), " m=") { // which times of a bubble have not
		t.Errorf("%s is compared by the clock that stands still", c.untilWall)
	}
	synctest.Test(t, func(t *testing.T) {
		for name, renew := range map[string]func(c *credential, sent string){
			"as an old one":     func(c *credential, _ string) { c.bearer() },
			"as one refused":    func(c *credential, sent string) { c.renew(sent) },
			"after a slow-down": func(c *credential, _ string) { c.bearer() },
		} {
			c, err := newKey(Key{P8: p8(), ID: oldKey, Team: "FGHIJ67890"})
			if err != nil {
				t.Fatal(err)
			}
			old := c.bearer()
			if name == "after a slow-down" {
				c.keep()
			}
			<-time.After(time.Minute)
			const suspended = 2 * time.Hour
			c.token.IssuedAt -= int64(suspended / time.Second)
			c.untilWall = c.untilWall.Add(-suspended)
			renew(c, old)
			if c.bearer() == old {
				t.Errorf("%s: not renewed", name)
			}
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
					return refusing(429, "TooManyProviderTokenUpdates")
				}
				return act{}
			}
		})
		b.Push(t.Context(), alert(1, 1))
		<-time.After(10 * time.Minute)
		b.Push(t.Context(), alert(1, 1))
		<-time.After(15 * time.Minute)
		b.Push(t.Context(), alert(1, 1))
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

// withCertificate has one in place of the key.
func withCertificate(c *tls.Certificate) func(*Options) {
	return func(o *Options) { o.Topics[0].Key, o.Topics[0].Certificate = Key{}, c }
}

func TestCertificateIsShownInsteadOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clientCertificate(t, 1, time.Now().AddDate(1, 0, 0))
		b := overMemory(t, nil, withCertificate(c))
		b.apns.tls.ClientAuth = tls.RequireAnyClientCert
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
			t.Fatalf("got %+v", a)
		}
		requests, _, _, _ := b.apns.seen()
		if _, signed := requests[0].header["authorization"]; signed {
			t.Error("there is an authorization header")
		}
		if requests[0].header["apns-topic"] != topic || !c.Leaf.Equal(requests[0].client) {
			t.Errorf("topic %q, certificate %v", requests[0].header["apns-topic"], requests[0].client)
		}
	})
}

func TestKeyShowsNoCertificateAndKeysAndCertificatesAreNotMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := clientCertificate(t, 1, time.Now().AddDate(1, 0, 0)), clientCertificate(t, 2, time.Now().AddDate(1, 0, 0))
		b := overMemory(t, nil, func(o *Options) {
			for name, c := range map[string]*tls.Certificate{"one": one, "one.more": one, "other": other} {
				more := o.Topics[0]
				more.Topic, more.Key, more.Certificate = name, Key{}, c
				o.Topics = append(o.Topics, more)
			}
		})
		b.apns.tls.ClientAuth = tls.RequestClientCert
		if len(b.gateways) != 3 {
			t.Errorf("%d gateways, want one for the key and one for each certificate", len(b.gateways))
		}
		for _, want := range []struct {
			topic       string
			certificate *tls.Certificate
		}{{topic, nil}, {"one", one}, {"one.more", one}, {"other", other}} {
			n := alert(1, 1)
			n.Phone.Topic = want.topic
			b.Push(t.Context(), n)
			requests, _, _, _ := b.apns.seen()
			got := requests[len(requests)-1]
			if (got.header["authorization"] == "") != (want.certificate != nil) || got.header["apns-topic"] != want.topic ||
				(got.client == nil) != (want.certificate == nil) || want.certificate != nil && !want.certificate.Leaf.Equal(got.client) {
				t.Errorf("%s came with %v and the certificate %v", want.topic, got.header, got.client)
			}
		}
		if _, _, connections, _ := b.apns.seen(); connections != 3 {
			t.Errorf("%d connections, want 3", connections)
		}
	})
}

func TestAnswersAboutACertificate(t *testing.T) {
	for reason, replaced := range map[string]bool{"BadCertificate": true, "BadCertificateEnvironment": true, "Forbidden": false,
		"MissingProviderToken": false, "ExpiredProviderToken": true} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return refusing(403, reason) }, withCertificate(clientCertificate(t, 1, time.Now().AddDate(1, 0, 0))))
				for range 2 {
					if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != "credentials" || !a.Next.IsZero() {
						t.Errorf("got %+v", a)
					}
				}
				if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
					t.Errorf("%d alerts went out", len(requests))
				}
				b.apns.set(func(s *standIn) { s.decide = refuseProbe })
				<-time.After(2 * time.Minute)
				if diff := cmp.Diff([]string{topic + " production"}, b.readied()); diff != "" {
					t.Error(diff)
				}
				if _, _, connections, _ := b.apns.seen(); (connections == 2) != replaced {
					t.Errorf("%d connections, replaced should be %t", connections, replaced)
				}
			})
		})
	}
}

// A certificate that has expired is found out where it is used: it may be our clock that is wrong.
func TestCertificateThatExpiredHoldsItsTopicAndNoOther(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, nil, withCertificate(clientCertificate(t, 1, time.Now().Add(time.Hour))), func(o *Options) {
					o.Topics = append(o.Topics, Topic{Topic: "other", Environment: production, URL: o.Topics[0].URL, Outbound: o.Topics[0].Outbound,
						Key: Key{P8: p8(), ID: "ABCDE12345", Team: "FGHIJ67890"}})
				})
				b.apns.tls.MaxVersion, b.apns.tls.ClientAuth = version, tls.RequestClientCert
				b.apns.tls.VerifyConnection = func(s tls.ConnectionState) error {
					if len(s.PeerCertificates) > 0 && s.PeerCertificates[0].NotAfter.Before(time.Now()) {
						return errors.New("expired")
					}
					return nil
				}
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
					t.Errorf("before: %+v", a)
				}
				<-time.After(2 * time.Hour)
				if a := b.Push(t.Context(), alert(1, 2)); a.Result != subscriptions.Accepted {
					t.Errorf("over the connection that stands: %+v", a)
				}
				b.apns.cutAll()
				synctest.Wait()
				for range 2 { // the second time at once
					if a := b.Push(t.Context(), alert(1, 3)); a.Result != subscriptions.NotBefore || a.Reason != "credentials" {
						t.Errorf("after: %+v", a)
					}
				}
				lines := b.logs.FilterMessage("nothing can be sent").All()
				if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()), "expired:2000-01-01") {
					t.Errorf("the log has %v", lines)
				}
				other := alert(2, 1)
				other.Phone.Topic = "other"
				if a := b.Push(t.Context(), other); a.Result != subscriptions.Accepted {
					t.Errorf("the other topic: %+v", a)
				}
			})
		})
	}
}

func TestCertificateThatTheHandshakeRefusesIsNamedInTheLog(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, nil, withCertificate(clientCertificate(t, 1, time.Now().AddDate(1, 0, 0))))
				b.apns.tls.MaxVersion, b.apns.tls.ClientAuth = version, tls.RequireAnyClientCert
				b.apns.tls.VerifyConnection = func(tls.ConnectionState) error { return errors.New("revoked") }
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" {
					t.Errorf("got %+v", a)
				}
				// With TLS 1.3 a request may be on its way when the alert comes, and break before that is read: not every connection tells.
				<-time.After(15 * time.Minute)
				var all strings.Builder
				for _, e := range b.logs.All() {
					fmt.Fprintln(&all, e.Message, e.ContextMap())
				}
				if !strings.Contains(all.String(), "tls: bad certificate") {
					t.Errorf("no word of the certificate in\n%s", all.String())
				}
			})
		})
	}
}

func TestNewNamesEveryTopicThatCannotWork(t *testing.T) {
	good := Topic{Topic: "com.contoso.good", Environment: "production", Key: Key{P8: p8(), ID: "ABCDE12345", Team: "FGHIJ67890"}}
	with := func(name string, change func(*Topic)) Topic {
		c := good
		c.Topic = name
		change(&c)
		return c
	}
	certificate := clientCertificate(t, 1, time.Now().AddDate(1, 0, 0))
	broken := strings.Replace(string(p8()), "M", "N", 1)
	_, err := New(Options{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Topics: []Topic{good, good,
		with("empty", func(c *Topic) { c.Key = Key{ID: "A", Team: "B"} }),
		with("broken", func(c *Topic) { c.Key = Key{P8: []byte(broken), ID: "C", Team: "D"} }),
		with("nameless", func(c *Topic) { c.Key.ID = "" }),
		with("othersKey", func(c *Topic) { c.Key.P8 = append([]byte("\n"), p8()...) }),
		with("plain", func(c *Topic) { c.URL = "http://apns.example" }),
		with("path", func(c *Topic) { c.URL = "https://apns.example/3/device" }),
		with("nowhere", func(c *Topic) { c.Environment = "staging" }),
		with("two credentials", func(c *Topic) { c.Certificate = certificate }),
		with("no credential", func(c *Topic) { c.Key = Key{} }),
		with("no leaf", func(c *Topic) { c.Key, c.Certificate = Key{}, &tls.Certificate{PrivateKey: certificate.PrivateKey} }),
		with("no private key", func(c *Topic) { c.Key, c.Certificate = Key{}, &tls.Certificate{Leaf: certificate.Leaf} }),
	}})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{`"com.contoso.good" (production): is there twice`, `"empty"`, `"broken"`, `"nameless"`, `"othersKey"`, `"plain"`, `"path"`, `"nowhere"`,
		`"two credentials" (production): has a key and a certificate`, `"no credential" (production): has neither a key nor a certificate`, `"no leaf"`, `"no private key"`} {
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
