package admin

// The end of EWS in Exchange Online: who is still listened to by it there, and going over to Microsoft Graph and back.

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/mail"
)

const endOfEWSPath = root + "end-of-ews"

// endOfEWS is when Microsoft ends EWS in Exchange Online.
var endOfEWS = time.Date(2027, 4, 1, 0, 0, 0, 0, time.UTC)

// maxGoing bounds the mailboxes of an exchange entry that the page names on each side: any other can be typed in.
const maxGoing = 50

// endBody is what the page shows.
type endBody struct {
	End     time.Time
	Left    int // days; 0: it is over
	Entries []onlineEntry
	Done    string // what was just done
	Wrong   string // why it was not
	Typed   string // the address that was typed in then, and of which exchange entry it was
	Of      string
}

// onlineEntry is an exchange entry in Exchange Online.
type onlineEntry struct {
	api.ExchangeEntry
	Accounts []api.Account // those that EWS does not let in, as in a tenant that has switched it off
	ByEWS    side
	ByGraph  side
	Unknown  int // mailboxes that are not found yet
}

// side is the mailboxes that are read one way.
type side struct {
	Count int
	First []api.MailboxLine
}

func (s *side) add(l api.MailboxLine) {
	s.Count++
	if len(s.First) < maxGoing {
		s.First = append(s.First, l)
	}
}

// Rest is how many are not named.
func (s side) Rest() int { return s.Count - len(s.First) }

// daysLeft until EWS ends, the last of them begun; 0: it has ended.
func daysLeft(now time.Time) int {
	return max(0, int(math.Ceil(endOfEWS.Sub(now).Hours()/24)))
}

// endOfEWS makes the page.
func (p *Pages) endOfEWS(r *http.Request, _ visitor) (view, bool) {
	return view{"end-of-ews", page{Title: "End of EWS", Body: p.whoIsLeft(r)}}, true
}

// whoIsLeft looks at every mailbox in Exchange Online.
func (p *Pages) whoIsLeft(r *http.Request) endBody {
	b := endBody{End: endOfEWS, Left: daysLeft(time.Now())}
	status := p.status.now(r.Context(), p.api)
	at := map[string]int{}
	for _, e := range status.Exchange {
		if !e.Online {
			continue
		}
		at[e.Name] = len(b.Entries)
		one := onlineEntry{ExchangeEntry: e}
		for _, a := range status.Accounts {
			if a.Exchange == e.Name && a.EWSOff {
				one.Accounts = append(one.Accounts, a)
			}
		}
		b.Entries = append(b.Entries, one)
	}
	if len(b.Entries) == 0 {
		return b
	}
	for l := range p.api.Lines() {
		i, online := at[l.Exchange]
		switch {
		case !online:
		case l.Source == string(mail.Graph):
			b.Entries[i].ByGraph.add(l)
		case l.Source == string(mail.EWS):
			b.Entries[i].ByEWS.add(l)
		default:
			b.Entries[i].Unknown++
		}
	}
	return b
}

// goOver has mailboxes go over to Microsoft Graph, or back, for a visitor who may. Where they are there already it does nothing, so a page that
// is loaded again does no harm.
func (p *Pages) goOver(w http.ResponseWriter, r *http.Request, v visitor) {
	m := api.Move{Exchange: r.PostForm.Get("exchange"), ListenBy: r.PostForm.Get("listen_by")}
	typed := strings.TrimSpace(r.PostForm.Get("mailbox"))
	if !v.Moves() {
		p.api.Record(r, audit.Event{Action: audit.ListenByChanged, Client: v.Name, Outcome: audit.Refused, Code: roleNotAllowed}, nil)
		p.fail(w, http.StatusForbidden, "The role "+string(v.Role)+" does not allow it. It needs admin.")
		return
	}
	answer := func(status int, done, wrong string) {
		b := p.whoIsLeft(r)
		b.Done, b.Wrong = done, wrong
		if wrong != "" {
			b.Typed, b.Of = typed, m.Exchange
		}
		p.render(w, status, "end-of-ews", page{Title: "End of EWS", Visitor: v, Body: b})
	}
	if _, all := r.PostForm["all"]; !all {
		address, err := mail.ParseAddress(typed)
		if err != nil {
			answer(http.StatusUnprocessableEntity, "", "This is not a mail address: want one as in ann@contoso.com.")
			return
		}
		m.Mailbox = address
	}
	moved, err := p.api.ListenBy(r, v.Name, m)
	if err != nil {
		pr := api.AsProblem(err)
		answer(pr.Status, "", said(pr))
		return
	}
	to := "EWS"
	if m.ListenBy == "graph" {
		to = "Microsoft Graph"
	}
	switch {
	case m.Mailbox != "" && moved.Mailboxes == 1:
		answer(http.StatusOK, m.Mailbox+" goes over to "+to+".", "")
	case m.Mailbox != "":
		answer(http.StatusOK, m.Mailbox+" is listened to by "+to+" already, or will be as soon as it is found.", "")
	default:
		answer(http.StatusOK, fmt.Sprintf("Of %s, %s over to %s. The others were there already, or will be as soon as they are found.", m.Exchange, quantity.Of(moved.Mailboxes, "mailbox goes", "mailboxes go"), to), "")
	}
}

// said is a problem in words.
func said(p *api.Problem) string {
	words := p.Detail
	for _, f := range p.Errors {
		words = f.Detail
	}
	return strings.ToUpper(words[:min(1, len(words))]) + words[min(1, len(words)):] + "."
}

// goingTable is the mailboxes of one side, and where a button takes them.
type goingTable struct {
	side
	ID       string // of its heading
	Exchange string
	CSRF     string
	Moves    bool // the visitor may
	ListenBy string
	Label    string
}

func going(s side, i int, name string, e onlineEntry, csrf string, moves bool, listenBy, label string) goingTable {
	return goingTable{side: s, ID: fmt.Sprintf("%s-%d", name, i), Exchange: e.Name, CSRF: csrf, Moves: moves && e.Graph, ListenBy: listenBy, Label: label}
}
