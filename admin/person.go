package admin

// The pages about people: the lists of mailboxes, the search, and the one page that answers why a phone did not ring.

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// maxFound bounds what a search shows: who has to read more types more.
	maxFound = 50
	// maxPart bounds what is searched for: longer than any address.
	maxPart = 320
)

// mailboxesBody is what the list of mailboxes shows.
type mailboxesBody struct {
	api.MailboxPage
	State  subscriptions.State // that all of them have; empty: any
	States []subscriptions.State
	More   string // the address of the next page; empty: this is the last one
}

// mailboxes makes a page of the list of mailboxes.
func (p *Pages) mailboxes(r *http.Request, _ visitor) (view, bool) {
	q := r.URL.Query()
	b := mailboxesBody{State: subscriptions.State(q.Get("state")), States: subscriptions.States()}
	if b.State != "" && !slices.Contains(b.States, b.State) {
		return p.nothing(r, visitor{})
	}
	b.MailboxPage = p.api.Page(b.State, q.Get("after"))
	if b.Next != "" {
		b.More = root + "mailboxes?" + url.Values{"state": {string(b.State)}, "after": {b.Next}}.Encode()
	}
	return view{"mailboxes", page{Title: "Mailboxes", Live: true, Body: b}}, true
}

// searchBody is what a search shows.
type searchBody struct {
	Part    string
	Devices []api.Device
	More    bool // than these
}

// search answers a search, and leads to the page of the person if there is only one.
func (p *Pages) search(w http.ResponseWriter, r *http.Request) {
	v, ok := p.visitor(r, true)
	if !ok {
		p.goSignIn(w, r)
		return
	}
	b := searchBody{Part: strings.TrimSpace(r.URL.Query().Get("q"))}
	if b.Part != "" && len(b.Part) <= maxPart {
		b.Devices, b.More = p.api.Search(b.Part, maxFound)
		if to := only(b.Devices, b.Part); to != "" && !b.More {
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		}
		if m, ok := p.api.About(r.Context(), b.Part); ok && len(b.Devices) == 0 { // another address of the mailbox than the one that was enrolled
			http.Redirect(w, r, link(m.Address), http.StatusSeeOther)
			return
		}
	}
	p.render(w, http.StatusOK, "search", page{Title: "Search", Visitor: v, Body: b})
}

// only is the page of the one person that was found, with the device if that was searched for; empty: there are several, or none.
func only(found []api.Device, part string) string {
	if len(found) == 0 {
		return ""
	}
	for _, d := range found {
		if d.Mailbox != found[0].Mailbox {
			return ""
		}
	}
	if len(found) == 1 && !strings.Contains(found[0].Mailbox, strings.ToLower(part)) {
		return linkDevice(found[0].Mailbox, found[0].ID)
	}
	return link(found[0].Mailbox)
}

// link is the page of a mailbox.
func link(address string) string { return root + "mailboxes/" + url.PathEscape(address) }

// linkDevice is the page of a mailbox that shows one of its devices.
func linkDevice(address, device string) string {
	return link(address) + "?" + url.Values{"device": {device}}.Encode()
}

// device leads from the id of a device to the page of its person.
func (p *Pages) device(w http.ResponseWriter, r *http.Request) {
	if _, ok := p.visitor(r, true); !ok {
		p.goSignIn(w, r)
		return
	}
	d, ok := p.api.Enrolment(r.PathValue("id"))
	if !ok {
		p.fail(w, http.StatusNotFound, check.ErrNotEnrolled.Text+". "+check.Advise(check.ErrNotEnrolled, check.Circumstances{}).Do)
		return
	}
	http.Redirect(w, r, linkDevice(d.Mailbox, d.ID), http.StatusSeeOther)
}

// mailboxBody is what the page of one person shows.
type mailboxBody struct {
	api.Mailbox
	Only    string // the device that is asked about; empty: all
	Devices []personDevice
	Newest  []api.Decision // for that device, or for all
	Reasons []reason       // what the reasons of them mean
	Tests   bool           // the visitor may send a test notification
}

// personDevice is a device with what APNs answered last.
type personDevice struct {
	api.Device
	Answer   *api.Decision       // nil: none of the last outcomes has an answer of APNs
	Receipts *api.DeviceReceipts // nil: it has no key to sign any
}

// reason is what a reason means.
type reason struct {
	Name         outcome.Reason
	Means, Doing string
}

// mailbox makes the page of one person.
func (p *Pages) mailbox(r *http.Request, v visitor) (view, bool) {
	address := r.PathValue("address")
	m, ok := p.api.About(r.Context(), address)
	if !ok {
		text := "No device is enrolled for this address, so no alert can be sent. " + check.Advise(check.ErrNotEnrolled, check.Circumstances{}).Do
		return view{"error", page{Title: "Not enrolled", Body: text}}, false
	}
	b := mailboxBody{Mailbox: m, Only: r.URL.Query().Get("device"), Tests: v.Tests()}
	if !slices.Contains(m.Devices, b.Only) {
		b.Only = ""
	}
	for i, id := range m.Devices {
		d, ok := p.api.Enrolment(id)
		if !ok { // removed meanwhile
			continue
		}
		one := personDevice{Device: d, Receipts: m.DeviceStates[i].Receipts}
		if i := slices.IndexFunc(m.Decisions, func(d api.Decision) bool { return d.Device == id && d.Status != 0 }); i >= 0 {
			one.Answer = &m.Decisions[i]
		}
		b.Devices = append(b.Devices, one)
	}
	for _, d := range m.Decisions {
		if b.Only != "" && d.Device != "" && d.Device != b.Only {
			continue
		}
		b.Newest = append(b.Newest, d)
		if d.Explanation != "" && !slices.ContainsFunc(b.Reasons, func(r reason) bool { return r.Name == d.Reason }) {
			b.Reasons = append(b.Reasons, reason{d.Reason, d.Explanation, d.Advice})
		}
	}
	slices.SortFunc(b.Reasons, func(a, b reason) int { return cmp.Compare(a.Name, b.Name) })
	return view{"mailbox", page{Title: m.Address, Live: true, Now: time.Now(), Summary: b.verdict(), Body: b}}, true
}

// verdict says in a sentence whether the phone would ring.
func (b mailboxBody) verdict() string {
	for _, d := range b.Devices {
		if d.ID == b.Only && d.State != b.State {
			return "The device " + d.ID + " is " + words(d.State) + "."
		}
	}
	switch b.State {
	case subscriptions.Listening:
		behind := 0
		for _, d := range b.Devices {
			if d.State != subscriptions.Listening {
				behind++
			}
		}
		if behind > 0 {
			return "The mailbox is listened to, and a device of it is not sent to: see below."
		}
		return "The mailbox is listened to, and nothing is known against its devices."
	case subscriptions.Polling:
		return "No notifications of this mailbox reach mailbell. It looks now and then, so alerts come late."
	case subscriptions.Resolving:
		return "mailbell is beginning to listen to this mailbox."
	case subscriptions.WaitingForCapacity:
		return "No listener account has room for this mailbox, so no alert is sent."
	case subscriptions.OutOfScope:
		return "The mailbox is on a server that the configuration excludes, so no alert is sent."
	}
	return "mailbell cannot read this mailbox, so no alert is sent."
}
