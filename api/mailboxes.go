package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func (a *API) mailbox(r *http.Request, _ caller) (answer, error) {
	address, err := mail.ParseAddress(r.PathValue("address"))
	if err != nil {
		return answer{}, errNoMailbox
	}
	m, ok := a.about(r.Context(), address)
	if !ok {
		return answer{}, errNoMailbox
	}
	return answer{status: http.StatusOK, body: m}, nil
}

// about tells about the mailbox of a parsed address. false: no device is enrolled for it.
func (a *API) about(ctx context.Context, address string) (Mailbox, bool) {
	s, devices, ok := a.Mailboxes.Mailbox(ctx, address)
	if !ok {
		return Mailbox{}, false
	}
	m := Mailbox{
		Address: address, State: s.State, Since: s.Since.UTC(), Reason: s.Reason, Advice: a.Advise(s.Standing).Do, NextTry: s.Next.UTC(), Account: s.Account,
		Subscribed: s.Subscribed.UTC(), LastHeartbeat: s.LastHeartbeat.UTC(), LastHint: s.LastHint.UTC(),
		LastListing: s.LastListing.UTC(), LastMessage: s.LastMessage.UTC(),
		Devices: make([]string, len(devices)), DeviceStates: make([]DeviceState, len(devices)), Decisions: make([]Decision, len(s.Decisions)),
	}
	if s.Location != (mail.Location{}) {
		m.Location = &Location{Exchange: s.Location.Entry, Source: string(s.Location.ReadBy()), URL: s.Location.URL, Group: s.Location.Group, Primary: s.Location.Primary,
			Server: cmp.Or(s.Location.Server, "unknown"), How: s.Location.How, Found: s.Location.Found.UTC()}
	}
	slices.SortFunc(devices, func(x, y subscriptions.Device) int { return cmp.Compare(x.ID, y.ID) })
	decisions, now := s.Decisions, time.Now()
	for i, d := range devices {
		s := a.standing(d.ID)
		m.Devices[i] = d.ID
		m.DeviceStates[i] = DeviceState{ID: d.ID, Label: d.Label, State: s.State, Reason: s.Reason, Advice: a.Advise(s).Do, NextTry: s.Next.UTC(),
			Receipts: a.receiptsOf(d, decisions, now)}
	}
	if s.Unread != nil {
		m.Unread = s.Unread.Error()
	}
	for i, d := range s.Decisions {
		m.Decisions[i] = decision(d)
		if m.LastAlert == nil && d.Status != 0 {
			m.LastAlert = &m.Decisions[i]
		}
	}
	return m, true
}

func decision(d subscriptions.Decision) Decision {
	return Decision{
		Message: d.Key.String(), Device: d.Device, Outcome: d.Outcome, Reason: d.Reason, Code: d.Code, Explanation: d.Reason.Sentence(), Advice: check.Explain(d.Reason),
		Received: d.Came.UTC(), Decided: d.At.UTC(), APNsID: d.PushID.String(), Status: d.Status, Shown: d.Shown.UTC(), Correlation: d.Correlation.String(),
	}
}

// renamedStates are the former names of states, from before the first release.
var renamedStates = map[string]subscriptions.State{
	"heard": subscriptions.Listening, "polled": subscriptions.Polling, "parked": subscriptions.Failing,
}

func (a *API) mailboxes(r *http.Request, _ caller) (answer, error) {
	q := r.URL.Query()
	var errs []FieldError
	state := subscriptions.State(q.Get("state"))
	if state != "" && !slices.Contains(subscriptions.States(), state) {
		detail := "want resolving, listening, polling, waiting_for_capacity, out_of_scope or failing"
		if now := renamedStates[q.Get("state")]; now != "" {
			detail += fmt.Sprintf("; did you mean %s?", now)
		}
		errs = append(errs, FieldError{"state", codeInvalid, detail})
	}
	limit, err := readLimit(q)
	if err != nil {
		errs = append(errs, FieldError{"limit", codeInvalid, err.Error()})
	}
	if len(errs) > 0 {
		return answer{}, invalid(errs...)
	}
	return answer{status: http.StatusOK, body: a.page(state, q.Get("after"), limit)}, nil
}

// page is a page of the mailboxes in a state; empty: in all.
func (a *API) page(state subscriptions.State, after string, limit int) MailboxPage {
	list, next := a.Mailboxes.List(state, after, limit)
	page := MailboxPage{Mailboxes: make([]MailboxLine, len(list)), Next: next}
	for i, l := range list {
		l.NextTry = l.NextTry.UTC()
		page.Mailboxes[i] = l
	}
	return page
}

// pingTimeout bounds the check of the state store: a later answer is as good as none.
const pingTimeout = 2 * time.Second

func (a *API) status(r *http.Request, _ caller) (answer, error) {
	return answer{status: http.StatusOK, body: a.StatusNow(r.Context())}, nil
}

// StatusNow answers as GET /v1/status.
func (a *API) StatusNow(ctx context.Context) Status {
	s := Status{
		Version: a.Version, Started: a.started.UTC(), Uptime: int64(time.Since(a.started).Seconds()),
		Ready: true, Mailboxes: map[subscriptions.State]int{}, StateStore: StateStore{Reachable: true}, Clients: a.signIns(),
	}
	c := a.Overview()
	s.Exchange, s.Topics = append([]ExchangeEntry{}, c.Exchange...), append([]Topic{}, c.Topics...)
	for i := range s.Topics {
		s.Topics[i].Since = s.Topics[i].Since.UTC()
	}
	s.Accounts, s.Credentials = make([]Account, len(c.Accounts)), make([]Credential, len(c.Credentials))
	for i, a := range c.Accounts {
		a.NextTry = a.NextTry.UTC()
		s.Accounts[i] = a
	}
	for i, e := range c.Credentials {
		s.Credentials[i] = Credential{e.Kind, e.Name, e.At.UTC()}
	}
	s.Webhooks = make([]Webhook, len(c.Webhooks))
	for i, h := range c.Webhooks {
		h.LastSuccess, h.LastFailure, h.NextTry = h.LastSuccess.UTC(), h.LastFailure.UTC(), h.NextTry.UTC()
		s.Webhooks[i] = h
	}
	s.Canaries = make([]Canary, len(c.Canaries))
	for i, k := range c.Canaries {
		k.Began, k.LastSuccess, k.Next = k.Began.UTC(), k.LastSuccess.UTC(), k.Next.UTC()
		s.Canaries[i] = k
	}
	s.Conditions = make([]check.Condition, len(c.Conditions))
	for i, wrong := range c.Conditions {
		wrong.Since, wrong.NextTry = wrong.Since.UTC(), wrong.NextTry.UTC()
		s.Conditions[i] = wrong
	}
	counts := a.Mailboxes.Count()
	for _, state := range subscriptions.States() {
		s.Mailboxes[state] = counts[state]
	}
	if err := a.Ready(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := a.Ping(ctx); err != nil {
		s.StateStore = StateStore{Error: err.Error(), Advice: check.Advise(err, check.Circumstances{Step: check.StepState}).Do}
	}
	return s
}
