package streaming

// Which server a group is led to: by a cookie, or by the name of its anchor.

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// gateway is what Exchange answers where it cannot pass a call on to the server that affinity leads to.
func gateway() *fault.Error {
	return &fault.Error{Op: "test", Code: "HTTP 503", Scope: fault.Server, Remedy: fault.Wait, After: 5 * time.Second, Moved: true, Misled: true}
}

func wantListened(t *testing.T, list ...*mailbox) {
	t.Helper()
	for _, m := range list {
		if !m.listens() {
			f, next := m.Failing()
			t.Errorf("%s is not listened to: %v, next try in %v", m.address, f, time.Until(next))
		}
	}
}

// A mailbox server that dies takes the subscriptions of its groups along. Their cookies still lead to it.
func TestACookieThatLeadsToADeadServerIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		lost bool
		says *fault.Error
	}{
		"within a stream":                  {false, gateway()},
		"when all subscriptions are lost":  {true, gateway()},
		"where it hangs when all are lost": {true, denied(fault.Mailbox, fault.Wait, 5*time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				list := newAccount(t, s, 200).join(alice, bob, carol)
				pass(time.Minute)
				s.set(func() {
					clear(s.queues)
					var left atomic.Bool
					s.refuse = func(made call) error {
						if made.mailbox == alice && made.a.Cookie == "" { // she is led to a server that lives, whose cookie has the same name
							left.Store(true)
						}
						if !left.Load() && made.a.Cookie == "cookie-of-"+alice {
							return c.says
						}
						return nil
					}
				})
				if c.lost {
					s.say(said{err: lostSubscription(s.streams[0].ids...)})
				} else {
					s.cut(errReset)
				}
				pass(2 * time.Minute)
				wantListened(t, list...)
			})
		})
	}
}

// Where there is no cookie, as after a restart, the anchor's name leads: one that leads nowhere must not silence the others.
func TestAnAnchorThatLeadsNowhereIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice, bob, carol)
		pass(time.Minute)
		a.Close()
		s.set(func() {
			s.refuse = func(c call) error {
				if c.a.Anchor == alice && c.a.Cookie == "" {
					return gateway()
				}
				return nil
			}
		})
		a.start(s, 200)
		list := a.join(alice, bob, carol)
		pass(2 * time.Minute)
		wantListened(t, list...)
	})
}

// A server that fails for seconds keeps its groups: another would not know their subscriptions.
func TestAServerThatFailsForAMomentKeepsItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.affine = true
		a := newAccount(t, s, 200)
		list := a.join(bob, carol)
		pass(time.Minute)
		list = append(list, a.join(alice)...)
		pass(time.Minute)
		s.set(func() { s.refuse = func(call) error { return gateway() } })
		s.cut(errReset)
		pass(10 * time.Second)
		s.set(func() { s.refuse = nil })
		pass(time.Minute)
		wantListened(t, list...)
		if n := len(s.made("Subscribe")); n != 3 {
			t.Errorf("%d Subscribes", n)
		}
	})
}

// "If the anchor mailbox moves to a different server, the cookie still routes the request to the right one" (How to: Maintain affinity).
func TestAGroupWhoseAnchorLeavesStaysOnItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.affine = true
		list := newAccount(t, s, 200).join(alice, bob, carol)
		pass(time.Minute)
		list[0].Leave()
		pass(time.Minute)
		s.cut(io.EOF)
		pass(time.Minute)
		wantListened(t, list[1:]...)
		if n := len(s.made("Subscribe")); n != 3 {
			t.Errorf("%d Subscribes", n)
		}
	})
}

// After a restart the anchor leads again that led before: the others were subscribed on its server.
func TestAfterARestartTheAnchorIsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.affine = true
		a := newAccount(t, s, 200)
		a.join(bob, carol)
		pass(time.Minute)
		a.join(alice)
		pass(time.Minute)
		a.Close()
		a.start(s, 200)
		list := a.join(alice)
		synctest.Wait() // she alone is there
		list = append(list, a.join(bob, carol)...)
		pass(time.Minute)
		wantListened(t, list...)
		if n := len(s.made("Subscribe")); n != 3 {
			t.Errorf("%d Subscribes", n)
		}
	})
}

// Who moved to another site was led there by the group in vain. The others are where they belong.
func TestOneThatIsMisledLeavesTheCookieToTheOthers(t *testing.T) {
	for name, alone := range map[string]bool{"of a stream of all": false, "of a stream of its own": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				a := newAccount(t, s, 200)
				a.join(alice, bob)
				pass(time.Minute)
				if !alone {
					s.cut(io.EOF)
				}
				a.join(carol)
				pass(time.Minute)
				ids := s.made("Stream")
				moved := *lostSubscription("sub-3")
				moved.Misled = true
				s.say(said{err: &moved})
				pass(time.Minute)
				for _, c := range s.made("Stream")[len(ids):] {
					if c.a.Cookie != "cookie-of-"+alice {
						t.Errorf("%+v", c)
					}
				}
			})
		})
	}
}

// "Subscriptions and related requests" are routed to the server that has the subscription by its affinity only (How to: Maintain affinity).
func TestASubscriptionIsGivenBackToTheServerThatHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.affine = true
		a := newAccount(t, s, 200)
		list := a.join(alice, bob, carol)
		pass(time.Minute)
		list[0].Leave()
		list[1].Leave()
		pass(time.Minute)
		s.cut(io.EOF)
		pass(time.Minute)
		if n := len(s.queues); n != 1 {
			t.Errorf("%d subscriptions are left for one mailbox", n)
		}
	})
}
