package push

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

const wrongEnvironment = `{"reason":"BadCertificateEnvironment"}`

// APNs tells a certificate of the other environment so when the connection stands, before or after the first request.
func TestWhatAPNsSaysOfTheCredentialWhenItEndsAConnectionHoldsIt(t *testing.T) {
	for name, set := range map[string]func(*standIn){
		"at once": func(s *standIn) { s.farewell = wrongEnvironment },
		"when it is asked": func(s *standIn) {
			s.decide = func(arrived) act { return act{farewell: wrongEnvironment} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, nil, withCertificate(clientCertificate(t, 1, time.Now().AddDate(1, 0, 0))))
				b.apns.set(set)
				a := b.Push(t.Context(), alert(1, 1))
				if a.Result != subscriptions.NotBefore || a.Reason != outcome.Credentials || a.Unknown || !a.Next.IsZero() {
					t.Errorf("got %+v", a)
				}
				synctest.Wait()
				if b.Ready(topic, production) {
					t.Error("the topic is open")
				}
				f := b.Topics()[0].Fault
				if f == nil || f.Code != "BadCertificateEnvironment" || f.Scope != fault.Account || f.Remedy != fault.Fix || f.Peer != fault.APNs {
					t.Errorf("the topic stands as %+v", f)
				}
				told := b.logs.FilterMessage("nothing can be sent").All()
				if len(told) != 1 || told[0].ContextMap()["reason"] != "credentials" || told[0].ContextMap()["answer"] != "BadCertificateEnvironment" {
					t.Errorf("the log has %v", told)
				}
				if ended := b.logs.FilterMessage("connection to APNs ended").All(); len(ended) == 0 || ended[0].ContextMap()["reason"] != "BadCertificateEnvironment" {
					t.Errorf("the log has %v", ended)
				}
				began := time.Now()
				if err := b.Probe(t.Context(), topic, production); fault.Of(err).Code != "BadCertificateEnvironment" {
					t.Errorf("a probe says %v", err)
				}
				if _, err := b.Test(t.Context(), alert(1, 1)); fault.Of(err).Code != "BadCertificateEnvironment" {
					t.Errorf("a test says %v", err)
				}
				if took := time.Since(began); took > 2*askTimeout {
					t.Errorf("they took %v", took)
				}
				b.apns.set(func(s *standIn) { s.farewell, s.decide = "", func(arrived) act { return act{} } })
				<-time.After(3 * time.Minute) // past the next probe
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
					t.Errorf("once APNs accepts the certificate: %+v", a)
				}
			})
		})
	}
}

func TestWhatAPNsSaysOfItselfWhenItEndsAConnectionIsToldAndHoldsNothing(t *testing.T) {
	for said, want := range map[string]string{
		`{"reason":"Shutdown"}`:         "Shutdown",
		`{"reason":"Lunch on Friday?"}`: "other",
		`{"reason":7}`:                  "",
		`Lunch on Friday?`:              "",
	} {
		t.Run(said, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.number == 1 {
						return act{farewell: said}
					}
					return act{}
				})
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || a.Resent != 0 {
					t.Errorf("got %+v", a)
				}
				synctest.Wait()
				ended := b.logs.FilterMessage("connection to APNs ended").All()
				if len(ended) != 1 {
					t.Fatalf("the log has %v", ended)
				}
				if got, _ := ended[0].ContextMap()["reason"].(string); got != want {
					t.Errorf("the log has %q, want %q", got, want)
				}
				for _, e := range b.logs.All() {
					if strings.Contains(fmt.Sprint(e.Message, e.ContextMap()), "Lunch") {
						t.Errorf("the log has %v", e)
					}
				}
			})
		})
	}
}

// What was under way when APNs ended a connection that worked was cut off by a restart, and not by the network.
func TestATestThatAGoAwayCutsOffSaysWhatAPNsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.payload != testPayload {
				return act{}
			}
			return act{lastStream: a.stream, cut: true}
		})
		b.Push(t.Context(), alert(1, 1))
		if got := told(b.Test(t.Context(), trial(1))); got != "not_before unanswered: Shutdown" {
			t.Error(got)
		}
	})
}

// After a GOAWAY the answers to what is under way may take their time. Nobody else waits for them.
func TestWhatAGoAwayTurnsAwayGoesOutOnAnotherConnectionAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := uint32(0)
		b := overMemory(t, func(a arrived) act {
			switch a.token() {
			case tokenOf(1):
				slow = a.stream
				return act{delay: 3 * time.Second}
			case tokenOf(2):
				if a.connection == 1 {
					return act{lastStream: slow}
				}
			}
			return act{}
		})
		b.Push(t.Context(), alert(0, 0))
		<-time.After(redialSpacing)
		var all sync.WaitGroup
		all.Go(func() {
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || a.Resent != 0 {
				t.Errorf("what was under way: %+v", a)
			}
		})
		synctest.Wait()
		start := time.Now()
		if a := b.Push(t.Context(), alert(2, 2)); a.Result != subscriptions.Accepted || a.Resent != 0 || time.Since(start) > time.Second {
			t.Errorf("got %+v after %v", a, time.Since(start))
		}
		all.Wait()
	})
}

// An APNs that is shutting down is no firewall: the topic says what APNs said.
func TestAnAPNsThatSaysWhyItIsAwayIsNotCalledUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.apns.set(func(s *standIn) { s.farewell = `{"reason":"Shutdown"}` })
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != outcome.TopicAway {
			t.Errorf("got %+v", a)
		}
		if f := b.Topics()[0].Fault; f == nil || f.Code != "Shutdown" || f.Scope != fault.Server || f.Remedy != fault.Wait {
			t.Errorf("the topic stands as %+v", f)
		}
	})
}

// What has begun on a connection that APNs ends may have been accepted, whatever APNs says.
func TestAnAlertOnAConnectionThatIsEndedForItsCredentialMayHaveBeenAccepted(t *testing.T) {
	err := &goneAway{"BadCertificate", errors.New("cut")}
	r := response{reason: err.reason, err: err, written: true}
	if r.isUnanswered() || r.rule().reaction != hold || fault.Of(r.fault()).Code != "BadCertificate" {
		t.Errorf("%+v: %v", r, r.fault())
	}
	if got := fault.Of((&goneAway{reason: outcome.Other}).fault()); got.Code != "GOAWAY" || got.Scope != fault.Server {
		t.Errorf("%+v", got)
	}
}

// A server that shuts down in good order sends two: one that says why, and a last one that says which stream was the last.
func TestAGoAwayWithoutAReasonLeavesTheOneBefore(t *testing.T) {
	for _, last := range []string{"", "{}", `{"reason":""}`, `{"reason":7}`} {
		c := &connection{retired: make(chan struct{}), inFlight: 1}
		c.GoneAway([]byte(wrongEnvironment))
		c.GoneAway([]byte(last))
		if c.said() != "BadCertificateEnvironment" {
			t.Errorf("after %q: %q", last, c.said())
		}
	}
}

func FuzzWhatAPNsSaysWhenItEndsAConnection(f *testing.F) {
	f.Add([]byte(wrongEnvironment))
	f.Add([]byte(`{"reason":7}`))
	f.Add([]byte(`{"reason":"Shutdown","reason":"x"}`))
	f.Fuzz(func(t *testing.T, debug []byte) {
		c := &connection{retired: make(chan struct{}), inFlight: 1}
		c.GoneAway(debug)
		if said := c.said(); said != "" && said != outcome.Other && !said.Known() {
			t.Errorf("a peer said %q", said)
		}
	})
}
