package admin

// The overview: what is wrong now, and how much there is of everything.

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/subscriptions"
)

// statusAge is how old the status on a page may be. It looks at every mailbox, so it is made once a second at most, however many pages are
// open.
const statusAge = time.Second

// latest is the newest status.
type latest struct {
	mu     sync.Mutex
	made   time.Time
	status api.Status
}

// now returns the status of now, or of a moment ago.
func (l *latest) now(ctx context.Context, from *api.API) api.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.made.IsZero() || now.Sub(l.made) >= statusAge {
		l.status = from.StatusNow(context.WithoutCancel(ctx)) // it is for others too
		l.made = now
	}
	return l.status
}

// overviewBody is what the overview shows.
type overviewBody struct {
	Status     api.Status
	Conditions []condition
	States     []stateCount
	Pictures   []picture
	EWSEnds    string // how long that is; empty: nothing is in Exchange Online
}

// condition is what is wrong, and what time it is.
type condition struct {
	check.Condition
	Now time.Time
}

type stateCount struct {
	Name  subscriptions.State
	Count int
}

// overview makes the overview.
func (p *Pages) overview(r *http.Request, _ visitor) (view, bool) {
	now := time.Now()
	b := overviewBody{Status: p.status.now(r.Context(), p.api)}
	if slices.ContainsFunc(b.Status.Exchange, func(e api.ExchangeEntry) bool { return e.Online }) {
		b.EWSEnds = "it is over."
		if left := daysLeft(now); left > 0 {
			b.EWSEnds = quantity.Of(left, "day", "days") + " left."
		}
	}
	samples := p.ring.samples()
	b.Pictures = []picture{alertsPicture(samples), secondsPicture(samples), screenPicture(samples)}
	for _, c := range b.Status.Conditions {
		b.Conditions = append(b.Conditions, condition{c, now})
	}
	for _, s := range subscriptions.States() {
		b.States = append(b.States, stateCount{s, b.Status.Mailboxes[s]})
	}
	return view{"overview", page{Title: "Overview", Live: true, Now: now, Summary: summary(b.Status), Body: b}}, true
}

// summary says in a sentence how bad it is.
func summary(s api.Status) string {
	worse := 0
	for _, c := range s.Conditions {
		if c.Level != check.LevelInfo {
			worse++
		}
	}
	all := 0
	for _, n := range s.Mailboxes {
		all += n
	}
	listening := fmt.Sprintf("%d of %s listened to.", s.Mailboxes[subscriptions.Listening], quantity.Of(all, "mailbox is", "mailboxes are"))
	switch {
	case worse == 1:
		return "One thing needs attention. " + listening
	case worse > 1:
		return fmt.Sprintf("%d things need attention. ", worse) + listening
	case !s.Ready:
		return "The service is not ready. " + listening
	}
	return "Nothing needs attention. " + listening
}

// soon says whether something expires within the time in which the log warns of it.
func soon(now, t time.Time) bool { return t.Sub(now) < expiry.Soon }
