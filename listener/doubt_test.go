package listener

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// Where a server was switched off for another one, only Autodiscover knows. Its mailboxes are looked up again, however they are listened to.
func TestAMailboxWhoseServerIsGoneIsLookedUpAgain(t *testing.T) {
	for _, listenBy := range []string{"streaming", ByPush} {
		t.Run(listenBy, func(t *testing.T) {
			inScene(t, func(s *scene) {
				var p *posting
				if listenBy == ByPush {
					p = s.byPush(listenBy)
				}
				known, by := &finder{url: hqURL}, s.entry
				s.entry = func(e *Entry) {
					if by != nil {
						by(e)
					}
					e.URL, e.Accounts[0].Finder = "", known
				}
				s.start()
				s.enrol("phone", alice)
				s.pass(2 * time.Hour)
				s.wantState(subscriptions.Listening, alice)
				asked := known.asked
				gone := row("connect", "")
				s.hq.set(func() { s.hq.fails = gone })
				s.hq.end(errReset)
				if p != nil {
					p.mu.Lock()
					p.refuse = gone
					p.mu.Unlock()
				}
				s.pass(3 * time.Hour)
				if s.wantState(subscriptions.Failing, alice); known.asked == asked {
					t.Error("nobody has asked Autodiscover for it")
				}
			})
		})
	}
}
