package listener

// Where a mailbox lives, and which account and group hear it. Several exchange entries may cover one mail domain, and a mailbox may
// move between them.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// placeAge is how long a place that was found is taken as true without a reason to doubt it.
	placeAge = 24 * time.Hour
	// confirmed is how long after it was found a place is not doubted: where two servers contradict each other, each look-up would
	// have the next one made at once.
	confirmed = 30 * time.Second
	// doubtful is how long a place is taken as true however its server fails, and so often has it to have failed in a row, which takes
	// ten minutes or more: a server that restarts must not have every mailbox looked up.
	doubtful  = time.Hour
	manyFails = 20
	// moving is how long a mailbox that had a place and is nowhere is looked for every few minutes: it is on its way. Then it takes a person.
	moving = time.Hour
)

// The codes of what can be wrong with a place.
const (
	codeNotCovered = "not_covered"     // by any exchange entry
	codeNoCapacity = "no_capacity"     // at the accounts of its entry
	codeOutOfScope = "out_of_scope"    // on a server that is not among mailbox_servers
	codeUnknown    = "mailbox_unknown" // at all entries that cover it
)

// covering returns the entries that cover one of some mail addresses, in the order of the configuration: those that have its domain.
func (l *Listener) covering(addresses ...string) (list []*entry) {
	for _, e := range l.entries {
		if slices.ContainsFunc(addresses, e.covers) {
			list = append(list, e)
		}
	}
	return list
}

// pin leaves the entry of that name; empty: all.
func pin(entries []*entry, name string) []*entry {
	if name == "" {
		return entries
	}
	return slices.DeleteFunc(slices.Clone(entries), func(e *entry) bool { return e.Name != name })
}

func (e *entry) covers(address string) bool {
	return slices.ContainsFunc(e.Domains, func(d string) bool { return strings.EqualFold(d, mail.Domain(address)) })
}

// serves says whether an entry is to hear the mailboxes of a server. One that is not known is heard.
func (e *entry) serves(server string) bool {
	return len(e.MailboxServers) == 0 || server == "" ||
		slices.ContainsFunc(e.MailboxServers, func(s string) bool { return sameServer(s, server) })
}

// sameServer compares names of servers, without case: by their first label where one of them has no more.
func sameServer(a, b string) bool {
	a, b = strings.TrimSuffix(a, "."), strings.TrimSuffix(b, ".")
	shortA, _, longA := strings.Cut(a, ".")
	shortB, _, longB := strings.Cut(b, ".")
	if longA && longB {
		return strings.EqualFold(a, b)
	}
	return strings.EqualFold(shortA, shortB)
}

// search is the search for the place of one mailbox.
type search struct {
	covering  []*entry      // what covers it
	entries   []*entry      // what is asked of these, in their order: all, or the one that it is pinned to
	addresses []string      // that it is known under, the primary one first
	known     mail.Location // where it was found last; zero: it is to be found anew
	account   string        // the listener account that it had
}

// search returns the search for a mailbox of the book. It is covered by the entries of all the addresses that its devices were enrolled
// with; the first device that is pinned pins it.
func (l *Listener) search(box *subscriptions.Mailbox) search {
	r := box.Record()
	var enrolled []string
	pinned := ""
	for _, d := range box.Devices() {
		enrolled, pinned = append(enrolled, d.Mailbox), cmp.Or(pinned, d.Exchange)
	}
	s := search{covering: l.covering(enrolled...), known: r.Location, account: r.Account}
	s.entries = pin(s.covering, pinned)
	if r.Location.Primary != "" {
		s.addresses = append(s.addresses, r.Location.Primary)
	}
	for _, a := range r.Addresses {
		if !slices.Contains(s.addresses, a) {
			s.addresses = append(s.addresses, a)
		}
	}
	return s
}

// asks says whether a mailbox has to be asked for: elsewhere the configuration alone says where it lives.
func (s *search) asks() bool {
	return len(s.covering) > 1 || len(s.addresses) > 1 || slices.ContainsFunc(s.entries, func(e *entry) bool {
		return e.URL == "" || len(e.MailboxServers) > 0
	})
}

// run returns the first entry that has the mailbox, and its place there. "Not here" (fault.Error.Elsewhere) has the next one asked; any
// other error does not: while an entry cannot say, no other may take what is perhaps its own. A mailbox that has only not been looked up
// for long stays meanwhile where it was.
func (s *search) run(ctx context.Context) (*entry, mail.Location, error) {
	if len(s.entries) == 0 {
		return nil, mail.Location{}, &fault.Error{Op: "location", Code: codeNotCovered, Text: "no exchange entry of the configuration covers this address",
			Scope: fault.Mailbox, Remedy: fault.Fix}
	}
	if e := s.entries[0]; !s.asks() {
		return e, mail.Location{Entry: e.Name, URL: e.URL, Primary: s.addresses[0], How: "ews_url"}, nil
	}
	var home *entry // where it was found last, and nothing was said against it
	for _, e := range s.entries {
		if e.Name == s.known.Entry && (e.URL == "" || e.URL == s.known.URL) && e.serves(s.known.Server) && !s.known.Found.IsZero() {
			home = e
		}
	}
	if home != nil && time.Since(s.known.Found) < placeAge {
		return home, s.known, nil
	}
	var said []*fault.Error // of each entry: why it has not got it
	for _, e := range s.entries {
		if len(e.accounts) == 0 { // another instance has them
			return e, mail.Location{Entry: e.Name}, nil
		}
		p, err := s.ask(ctx, e)
		if err == nil {
			return e, p, nil
		}
		f := fault.Of(err)
		if len(s.entries) > 1 {
			told := *f
			told.Text = "exchange " + e.Name + ": " + f.Text
			f = &told
		}
		if !f.Elsewhere && home != nil { // nobody can say better
			return home, s.known, nil
		}
		if !f.Elsewhere {
			return nil, mail.Location{}, f
		}
		said = append(said, f)
	}
	return nil, mail.Location{}, nowhere(said)
}

// nowhere is the error of a mailbox that no entry has, with what each has said.
func nowhere(said []*fault.Error) *fault.Error {
	if len(said) == 1 {
		return said[0]
	}
	e := &fault.Error{Op: "location", Code: codeUnknown, Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true}
	words := make([]string, len(said))
	for i, f := range said {
		if f.Code == codeOutOfScope {
			e.Code = codeOutOfScope
		}
		words[i] = f.Code + ": " + f.Text
	}
	e.Text = strings.Join(words, "; ")
	return e
}

// ask asks an entry whether it has the mailbox, under one address after the other.
func (s *search) ask(ctx context.Context, e *entry) (p mail.Location, err error) {
	a := e.asker(s.account)
	var first error
	for _, address := range s.addresses {
		if e.URL == "" && !e.covers(address) { // Autodiscover would carry the credentials to a domain that is not the entry's
			continue
		}
		p, err = a.locate(ctx, address)
		if f := fault.Of(err); err == nil || !f.Elsewhere || f.Code == codeOutOfScope {
			return p, err
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		return p, &fault.Error{Op: "location", Code: codeNotCovered, Text: "the mailbox is known under addresses of other domains only",
			Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true}
	}
	return p, first
}

// locate asks one entry for one address: by Autodiscover, or where its URL is configured by looking at the Inbox. Where mailbox_servers
// are configured, the mailbox's own answer names its server; that of an Exchange 2010 does not, and Autodiscover has.
func (a *account) locate(ctx context.Context, address string) (mail.Location, error) {
	if err := a.allowed(); err != nil {
		return mail.Location{}, err
	}
	p := mail.Location{URL: a.e.URL, Primary: address, How: "ews_url", Found: time.Now()}
	if a.e.URL == "" {
		var err error
		p, err = a.Finder.Find(ctx, address)
		if a.note(err) != nil {
			return mail.Location{}, err
		}
	}
	p.Entry = a.e.Name
	if a.e.URL == "" && len(a.e.MailboxServers) == 0 {
		return p, nil
	}
	server, err := a.Source.Look(ctx, p)
	if a.note(err) != nil {
		return mail.Location{}, err
	}
	p.Server = cmp.Or(server, p.Server)
	if !a.e.serves(p.Server) {
		return mail.Location{}, &fault.Error{Op: "location", Code: codeOutOfScope, Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true,
			Text: fmt.Sprintf("the mailbox is on the server %s, which is not among the mailbox_servers of %s", p.Server, a.e.Name)}
	}
	return p, nil
}

// Route is where a mailbox would be heard.
type Route struct {
	Entry    string // the exchange entry
	Account  string // the listener account: the mailbox's own, else the one that it would be given
	Location mail.Location
}

// Locate says what placing a mailbox would say now. It asks anew and changes nothing. exchange pins the entry; empty: as the devices of
// the mailbox are enrolled, or none. Its error is a *fault.Error; with the code no_capacity the Route says where there is no room.
func (l *Listener) Locate(ctx context.Context, address, exchange string) (Route, error) {
	s := search{covering: l.covering(address), addresses: []string{address}}
	s.entries = s.covering
	var own *account
	if box := l.o.Book.Mailbox(address); box != nil {
		s = l.search(box)
		s.known = mail.Location{}
		if m := l.mailbox(box); m != nil {
			own, _ = m.where()
		}
	}
	if exchange != "" {
		s.entries = pin(s.covering, exchange)
	}
	e, p, err := s.run(ctx)
	if err != nil {
		return Route{}, fault.Of(err)
	}
	loc := Route{Entry: e.Name, Location: p}
	if own != nil && own.e == e {
		loc.Account = own.Name
		return loc, nil
	}
	e.mu.Lock()
	a := e.room(s.account)
	e.mu.Unlock()
	if a == nil {
		return loc, e.full()
	}
	loc.Account = a.Name
	return loc, nil
}

// find gives a mailbox its entry, its account, its place and its group.
func (m *mailbox) find(ctx context.Context) error {
	s := m.l.search(m.box)
	m.mu.Lock()
	if m.asked = s.entries; !m.lost.IsZero() {
		s.known = mail.Location{}
	}
	m.mu.Unlock()
	e, p, err := s.run(ctx)
	if err != nil {
		return m.unplaced(err)
	}
	a, err := m.board(e, s.account)
	if err != nil {
		return err
	}
	if p.Primary != m.address() {
		same, joined, err := m.l.o.Book.Name(ctx, m.box, p.Primary)
		if err != nil {
			return err
		}
		if joined { // another address of a mailbox that is heard already: its devices have gone over
			m.l.unwatch(m.box)
			m.l.watch(same)
			return nil
		}
	}
	return m.settleAt(ctx, a, p)
}

// unplaced takes in that a mailbox could not be placed. One that no entry has gives its room back; one that was heard until now is on its
// way, and looked for again soon.
func (m *mailbox) unplaced(err error) error {
	f := fault.Of(err)
	if !f.Elsewhere {
		return err
	}
	m.leave()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.box.Record().Location.URL == "" || f.Code == codeOutOfScope {
		if m.fails == 0 && len(m.asked) > 1 { // it may have moved from one to the other between the questions
			again := *f
			again.Remedy, again.After = fault.Wait, confirmed
			return &again
		}
		return f
	}
	if m.lost.IsZero() {
		m.lost = time.Now()
	}
	if time.Since(m.lost) > moving {
		return f
	}
	soon := *f
	soon.Remedy, soon.After = fault.Wait, 0
	return &soon
}

// board gives a mailbox room at an account of an entry, or a place in the queue for it. What it had at another entry goes back.
func (m *mailbox) board(e *entry, had string) (*account, error) {
	m.mu.Lock()
	a, stands := m.account, m.waits && m.e == e
	m.mu.Unlock()
	switch {
	case a != nil && a.e == e:
		return a, nil
	case stands:
		return nil, e.full()
	}
	m.leave()
	m.mu.Lock()
	m.e, m.waits = e, true // before it is in the queue: room may be offered at once
	m.mu.Unlock()
	a = e.take(m, had)
	m.mu.Lock()
	closed := m.closed
	if a != nil && !closed {
		m.account, m.waits = a, false
	}
	offered := m.account
	m.mu.Unlock()
	switch {
	case closed:
		m.leave()
		e.quit(m) // that may have been done before it was in the queue
		if a != nil {
			e.release(a)
		}
		return nil, subscriptions.ErrNoMailbox
	case offered == nil:
		return nil, e.full()
	}
	return offered, nil
}

// leave gives back the mailbox's room at an account, or its place in the queue for some.
func (m *mailbox) leave() {
	m.mu.Lock()
	e, a, waits := m.e, m.account, m.waits
	m.account, m.waits, m.place = nil, false, mail.Location{}
	m.mu.Unlock()
	switch {
	case a != nil:
		a.e.release(a)
	case waits:
		e.quit(m)
	}
}

// offer gives a mailbox that waits for room at an entry a place that has become free; false: it does not wait any more.
func (m *mailbox) offer(a *account) bool {
	m.mu.Lock()
	taken := m.waits && m.e == a.e && m.account == nil && !m.closed
	if taken {
		m.account, m.waits = a, false
	}
	m.mu.Unlock()
	if taken {
		m.retryNow()
	}
	return taken
}

// settleAt writes down where a mailbox lives, and has it join a group there.
func (m *mailbox) settleAt(ctx context.Context, a *account, p mail.Location) error {
	r := m.box.Record()
	moved := r.Account != a.Name || r.Location.Entry != p.Entry || r.Location.URL != p.URL
	if moved || p != r.Location {
		err := m.box.Update(ctx, func(d *subscriptions.Draft) {
			if moved { // an id belongs to the account and the place that made it
				d.Subscription = ""
			}
			d.Location, d.Account = p, a.Name
		})
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.place, m.lost = p, time.Time{}
	if moved || p.Primary != r.Location.Primary { // what was wrong before was wrong elsewhere
		m.subFault, m.subFails, m.subNext = nil, 0, time.Time{}
	}
	m.mu.Unlock()
	g := a.join(m, p)
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.group = g
	}
	m.mu.Unlock()
	if closed && g != nil { // the last device went meanwhile
		g.remove(m, m.box.Record())
	}
	return nil
}

func (m *mailbox) address() string { return m.box.Record().Addresses[0] }

// doubts says whether an error is a reason to look the mailbox up again; fails is how often in a row its server has failed.
func (m *mailbox) doubts(r ews.Row, fails int) bool {
	if !r.Relocate || !m.confirmedBefore(confirmed) {
		return false
	}
	if s := m.l.search(m.box); !s.asks() {
		return false
	}
	return r.Scope < fault.Server || fails > manyFails && m.confirmedBefore(doubtful)
}

// doubtsLater says whether an error would be a reason to look the mailbox up again, had it not been found just now.
func (m *mailbox) doubtsLater(r ews.Row) bool {
	if !r.Relocate || r.Scope >= fault.Server || m.confirmedBefore(confirmed) {
		return false
	}
	s := m.l.search(m.box)
	return s.asks()
}

// doubted has the mailbox looked up again where the error of a read is a reason to. Then that is tried again at once, or once the place
// may be doubted, and not when the error says.
func (m *mailbox) doubted(ctx context.Context, err error) error {
	e, ok := errors.AsType[*ews.Error](err)
	if !ok {
		return err
	}
	switch {
	case m.doubts(e.Row, 0):
		m.relocate(ctx)
		return soon(err)
	case m.doubtsLater(e.Row):
		f := *fault.Of(err)
		m.mu.Lock()
		f.Remedy, f.After = fault.Wait, max(confirmed-time.Since(m.place.Found), firstWait)
		m.mu.Unlock()
		return &f
	}
	return err
}

// soon is an error of a place that is not the mailbox's any more.
func soon(err error) error {
	f := *fault.Of(err)
	f.Remedy, f.After = fault.Retry, 0
	return &f
}

// strayed says whether the mailbox's own answers name a server whose mailboxes its entry is not to hear.
func (m *mailbox) strayed() bool {
	m.mu.Lock()
	stray := m.group != nil && !m.e.serves(m.place.Server)
	m.mu.Unlock()
	return stray && m.confirmedBefore(confirmed)
}

func (m *mailbox) confirmedBefore(age time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.place.Found) > age
}

// relocate takes the mailbox out of its group, for it may live elsewhere now: it is found again. Its old subscription is given back where
// it was made.
func (m *mailbox) relocate(ctx context.Context) {
	m.mu.Lock()
	g := m.group
	m.mu.Unlock()
	if g == nil {
		return
	}
	here := func() bool { // else another has been quicker, and it may be at its new place already
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.group == g
	}
	r := m.box.Record()
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		if here() {
			r = d.Clone()
			d.Location.Found, d.Subscription = time.Time{}, ""
		}
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) { // the next start will look where it was
		m.l.log.Warn("a doubtful place could not be recorded", zap.String("mailbox", m.address()), zap.Error(err))
	}
	m.mu.Lock()
	mine := m.group == g
	if mine {
		m.group, m.open, m.notBefore = nil, false, time.Time{}
		if m.lost.IsZero() {
			m.lost = time.Now()
		}
	}
	m.mu.Unlock()
	if mine {
		g.remove(m, r)
		m.markListing()
	}
}

// cover sees to it that the mailbox is looked for, and heard, at the entries that cover it as its devices are enrolled now: one may have
// been pinned.
func (m *mailbox) cover(ctx context.Context) {
	s := m.l.search(m.box)
	m.mu.Lock()
	e := m.e
	if e == nil && len(s.entries) > 0 {
		m.e = s.entries[0]
	}
	placed := m.group != nil
	others := m.asked != nil && !slices.Equal(m.asked, s.entries)
	m.mu.Unlock()
	switch {
	case placed && !slices.Contains(s.entries, e):
		m.relocate(ctx)
	case !placed && others: // what it waits for was said by those
		m.retryNow()
	}
}
