package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// mailbox answers "why did this phone not ring?".
type mailbox struct {
	Address       string     `json:"address"`
	State         string     `json:"state"`
	Reason        string     `json:"reason,omitempty"`
	NextTry       time.Time  `json:"next_try,omitzero"`
	Account       string     `json:"account,omitempty"`
	Location      *location  `json:"location,omitempty"`
	Subscribed    time.Time  `json:"subscribed,omitzero"`
	LastHeartbeat time.Time  `json:"last_heartbeat,omitzero"`
	LastHint      time.Time  `json:"last_hint,omitzero"`
	LastListing   time.Time  `json:"last_listing,omitzero"`
	LastMessage   time.Time  `json:"last_message,omitzero"`
	LastAlert     *decision  `json:"last_alert,omitempty"`
	Devices       []string   `json:"devices"`
	Decisions     []decision `json:"decisions"`
}

type location struct {
	Exchange string    `json:"exchange"`
	URL      string    `json:"url"`
	Group    string    `json:"group,omitempty"`
	Primary  string    `json:"primary,omitempty"`
	Server   string    `json:"server"`
	How      string    `json:"how,omitempty"`
	Found    time.Time `json:"found,omitzero"`
}

type decision struct {
	Message  string    `json:"message"`
	Device   string    `json:"device,omitempty"`
	Outcome  string    `json:"outcome"`
	Reason   string    `json:"reason,omitempty"`
	Received time.Time `json:"received,omitzero"`
	Decided  time.Time `json:"decided,omitzero"`
	APNsID   string    `json:"apns_id,omitempty"`
	Status   int       `json:"apns_status,omitempty"`
}

func (a *API) mailbox(r *http.Request, _ caller) (answer, error) {
	address, err := mail.ParseAddress(r.PathValue("address"))
	if err != nil {
		return answer{}, errNoMailbox
	}
	h, devices, ok := a.Mailboxes.Mailbox(address)
	if !ok {
		return answer{}, errNoMailbox
	}
	m := mailbox{
		Address: address, State: string(h.State), Reason: h.Reason, NextTry: h.Next.UTC(), Account: h.Account,
		Subscribed: h.Subscribed.UTC(), LastHeartbeat: h.LastHeartbeat.UTC(), LastHint: h.LastHint.UTC(),
		LastListing: h.LastListing.UTC(), LastMessage: h.LastMessage.UTC(),
		Devices: make([]string, len(devices)), Decisions: make([]decision, len(h.Decisions)),
	}
	if h.Location != (mail.Location{}) {
		m.Location = &location{Exchange: h.Location.Entry, URL: h.Location.URL, Group: h.Location.Group, Primary: h.Location.Primary,
			Server: cmp.Or(h.Location.Server, "unknown"), How: h.Location.How, Found: h.Location.Found.UTC()}
	}
	for i, d := range devices {
		m.Devices[i] = d.ID
	}
	slices.Sort(m.Devices)
	for i, d := range h.Decisions {
		m.Decisions[i] = decision{
			Message: d.Key.String(), Device: d.Device, Outcome: d.Outcome, Reason: d.Reason,
			Received: d.Came.UTC(), Decided: d.At.UTC(), APNsID: d.PushID, Status: d.Status,
		}
		if m.LastAlert == nil && d.Status != 0 {
			m.LastAlert = &m.Decisions[i]
		}
	}
	return answer{http.StatusOK, m}, nil
}

// mailboxPage is a page of the mailboxes.
type mailboxPage struct {
	Mailboxes []mailboxLine `json:"mailboxes"`
	Next      string        `json:"next,omitempty"` // the after of the next page
}

type mailboxLine struct {
	Address string    `json:"address"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	NextTry time.Time `json:"next_try,omitzero"`
	Account string    `json:"account,omitempty"`
	Devices int       `json:"devices"`
}

// states are those that a list of mailboxes can be asked for.
var states = []subscriptions.State{
	subscriptions.Resolving, subscriptions.Listening, subscriptions.Polling,
	subscriptions.WaitingForCapacity, subscriptions.OutOfScope, subscriptions.Failing,
}

// renamedStates are those that had another name before the first release.
var renamedStates = map[string]subscriptions.State{
	"heard": subscriptions.Listening, "polled": subscriptions.Polling, "parked": subscriptions.Failing,
}

func (a *API) mailboxes(r *http.Request, _ caller) (answer, error) {
	q, err := readQuery(r, "state", "after", "limit")
	if err != nil {
		return answer{}, err
	}
	var errs []fieldError
	state := subscriptions.State(q.Get("state"))
	if state != "" && !slices.Contains(states, state) {
		detail := "want resolving, listening, polling, waiting_for_capacity, out_of_scope or failing"
		if now := renamedStates[q.Get("state")]; now != "" {
			detail += fmt.Sprintf("; did you mean %s?", now)
		}
		errs = append(errs, fieldError{"state", codeInvalid, detail})
	}
	limit, err := readLimit(q)
	if err != nil {
		errs = append(errs, fieldError{"limit", codeInvalid, err.Error()})
	}
	if len(errs) > 0 {
		return answer{}, invalid(errs...)
	}
	list, next := a.Mailboxes.List(state, q.Get("after"), limit)
	page := mailboxPage{Mailboxes: make([]mailboxLine, len(list)), Next: next}
	for i, l := range list {
		page.Mailboxes[i] = mailboxLine{Address: l.Address, State: string(l.State), Reason: l.Reason, NextTry: l.Next.UTC(), Account: l.Account, Devices: l.Devices}
	}
	return answer{http.StatusOK, page}, nil
}

// status is the service at a glance.
type status struct {
	Version     string                      `json:"version"`
	Started     time.Time                   `json:"started"`
	Uptime      int64                       `json:"uptime_seconds"`
	Ready       bool                        `json:"ready"`
	Reason      string                      `json:"reason,omitempty"`
	Mailboxes   map[subscriptions.State]int `json:"mailboxes"`
	Accounts    []account                   `json:"accounts"`
	Credentials []credential                `json:"credentials"`
	StateStore  stateStore                  `json:"state_store"`
}

// account is a listener account and its load.
type account struct {
	Exchange  string    `json:"exchange"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`
	Mailboxes int       `json:"mailboxes"`
	Capacity  int       `json:"capacity"`
	Streams   int       `json:"streams"`
	Reason    string    `json:"reason,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"`
}

// credential is what expires.
type credential struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
}

type stateStore struct {
	Reachable bool   `json:"reachable"`
	Error     string `json:"error,omitempty"`
}

// pingTimeout bounds the question to the state store: an answer that takes longer is as good as none.
const pingTimeout = 2 * time.Second

func (a *API) status(r *http.Request, _ caller) (answer, error) {
	if _, err := readQuery(r); err != nil {
		return answer{}, err
	}
	s := status{
		Version: a.Version, Started: a.started.UTC(), Uptime: int64(time.Since(a.started).Seconds()),
		Ready: true, Mailboxes: map[subscriptions.State]int{}, StateStore: stateStore{Reachable: true},
	}
	c := a.Status()
	s.Accounts, s.Credentials = make([]account, len(c.Accounts)), make([]credential, len(c.Credentials))
	for i, a := range c.Accounts {
		s.Accounts[i] = account{a.Exchange, a.Name, a.Kind, a.Mailboxes, a.Capacity, a.Streams, a.Reason, a.Next.UTC()}
	}
	for i, e := range c.Credentials {
		s.Credentials[i] = credential{e.Kind, e.Name, e.At.UTC()}
	}
	counts := a.Mailboxes.Count()
	for _, state := range states {
		s.Mailboxes[state] = counts[state]
	}
	if err := a.Ready(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	if err := a.Ping(ctx); err != nil {
		s.StateStore = stateStore{Error: err.Error()}
	}
	return answer{http.StatusOK, s}, nil
}
