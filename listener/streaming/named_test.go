package streaming

// Errors about single subscriptions.

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// about is an error that names subscriptions and does not say that they are lost.
func about(f fault.Error, ids ...string) *fault.Error {
	f.Op, f.Remedy, f.After, f.Subscriptions = "test", fault.Wait, 10*time.Minute, ids
	return &f
}

// What Microsoft's own client does: whatever an error names is taken off the stream. It was left on it, which was opened again every five
// seconds, for all.
func TestASubscriptionThatIsNamedAgainAndAgainHarmsOnlyItself(t *testing.T) {
	for name, f := range map[string]fault.Error{
		"busy":            {Code: "ErrorServerBusy", Scope: fault.Mailbox},
		"in another site": {Code: "ErrorCrossSiteRequest", Scope: fault.Mailbox, Moved: true, Misled: true, Missed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				a := newAccount(t, s, 200)
				list := a.join(alice, bob)
				pass(time.Minute)
				list = append(list, a.join(carol)...)
				pass(time.Minute)
				s.cut(io.EOF) // one stream for all
				pass(time.Minute)
				s.set(func() {
					s.refuse = on("Subscribe", about(f), carol)
					s.says = func(ids []string) error {
						for _, id := range ids {
							if s.queues[id].mailbox == carol {
								return about(f, id)
							}
						}
						return nil
					}
				})
				opened := len(s.made("Stream"))
				s.say(said{err: about(f, "sub-3")})
				pass(9 * time.Minute)
				wantListened(t, list[:2]...)
				if n := len(s.made("Stream")) - opened; n != 1 {
					t.Errorf("%d streams", n)
				}
				if f, _ := list[2].Failing(); f == nil || list[2].listings() < 2 {
					t.Errorf("it fails of %v, and was listed %d times", f, list[2].listings())
				}
				s.set(func() { s.refuse, s.says = nil, nil })
				pass(10 * time.Minute)
				wantListened(t, list...)
				if n := len(s.made("Unsubscribe")); n != 1 {
					t.Errorf("%d of one subscription are given back", n)
				}
			})
		})
	}
}

// A stream of one names the one whatever it says.
func TestAStreamOfOneKeepsTheBackOffThatItsServerAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		s.set(func() { s.calls = nil })
		s.say(said{err: about(fault.Error{Code: "ErrorServerBusy", Scope: fault.Group}, "sub-1")})
		s.cut(io.EOF)
		pass(9 * time.Minute)
		if n := len(s.made("Stream")) + len(s.made("Subscribe")); n != 0 {
			t.Errorf("%d calls within the back-off", n)
		}
		pass(5 * time.Minute)
		wantListened(t, m)
	})
}
