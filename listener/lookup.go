package listener

// Where a mailbox lives. Several exchange entries may cover one mail domain, and a mailbox may move between them.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// locationAge is how long a location that was found is taken as true without a reason to doubt it.
const locationAge = 24 * time.Hour

// The codes of what can be wrong with a location.
const (
	codeNotCovered = "not_covered"     // by any exchange entry
	codeNoCapacity = "no_capacity"     // at the accounts of its entry
	codeLow        = "capacity_low"    // there is room, and little
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

// search is the search for the location of one mailbox.
type search struct {
	covering  []*entry      // what covers it
	entries   []*entry      // what is asked of these, in their order: all, or the one that it is pinned to
	addresses []string      // that its devices were enrolled with
	known     mail.Location // where it was found last; zero: it is to be found anew
	told      string        // the primary address that an entry has told last; empty: none has
	toldBy    string        // that entry
	account   string        // the listener account that it had
	listenBy  string        // how it is to be listened to; empty: as its entry is configured
	newcomer  bool          // it was never found
	unsure    bool          // it may not live there any more
	waited    bool          // it was not found last for an outage
	anyway    bool          // a person asks: an account that is blocked is asked all the same
}

// answered is what a search, or one entry, says of a mailbox.
type answered struct {
	entry      *entry // that has it
	at         mail.Location
	err        *fault.Error // nil: it was found
	other      string       // the primary address that was told and does not count; empty: none
	outOfScope bool         // it is on a server whose mailboxes the entry is not to listen to
}

// searchNew returns the search for a mailbox that the book does not know, at all entries that cover it or the one that it is pinned to.
func (l *Listener) searchNew(address, exchange string) search {
	covering := l.covering(address)
	return search{covering: covering, entries: pin(covering, exchange), addresses: []string{address}, newcomer: true}
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
	s := search{covering: l.covering(enrolled...), addresses: []string{r.Addresses[0]}, known: r.Location(), account: r.Account, listenBy: r.ListenBy,
		newcomer: r.Location().URL == ""}
	s.entries = pin(s.covering, pinned)
	s.told, s.toldBy = r.Location().Primary, r.Location().Entry
	for _, a := range enrolled {
		if !slices.Contains(s.addresses, a) {
			s.addresses = append(s.addresses, a)
		}
	}
	return s
}

// of returns the addresses that an entry is asked for: those that devices were enrolled with, and the one that the entry itself has told.
// What one entry tells is nothing that another is asked for: it could be anybody's there.
func (s *search) of(e *entry) []string {
	if e.Name != s.toldBy || !e.covers(s.told) || slices.Contains(s.addresses, s.told) {
		return s.addresses
	}
	return append(slices.Clone(s.addresses), s.told)
}

// counts reports whether the primary address of a location is one that its entry may tell: that of one of its own mail domains, or one
// that a device was enrolled with.
func (s *search) counts(e *entry, primary string) bool {
	return e.covers(primary) || slices.Contains(s.addresses, primary)
}

// asks says whether a mailbox has to be asked for: elsewhere the configuration alone says where it lives.
func (s *search) asks() bool {
	return len(s.covering) > 1 || slices.ContainsFunc(s.entries, func(e *entry) bool {
		return e.URL == "" || s.by(e) == mail.Graph || len(e.MailboxServers) > 0 || len(s.of(e)) > 1
	})
}

// lastEntry is the entry where the mailbox was found last, where nothing was said against that; nil: there is none.
func (s *search) lastEntry() *entry {
	for _, e := range s.entries {
		if e.Name != s.known.Entry || s.known.Found.IsZero() || s.known.ReadBy() != s.by(e) {
			continue
		}
		if (s.known.Source == mail.Graph || e.URL == "" || e.URL == s.known.URL) && e.serves(s.known.Server) && s.counts(e, s.known.Primary) {
			return e
		}
	}
	return nil
}

// by is by what the mailbox is to be read at an entry. One that is new goes where all others of the entry have gone.
func (s *search) by(e *entry) mail.Source {
	if s.newcomer && s.listenBy == "" && e.allByGraph() {
		return mail.Graph
	}
	return e.source(s.listenBy)
}

// settled returns the answer where nobody has to be asked for it: the configuration or the record has it, or nobody covers it.
func (s *search) settled() (answered, bool) {
	if len(s.entries) == 0 {
		return answered{err: &fault.Error{Op: "location", Code: codeNotCovered, Scope: fault.Mailbox, Remedy: fault.Fix,
			Text: "no exchange entry of the configuration covers this address"}}, true
	}
	if e := s.entries[0]; !s.asks() {
		return answered{entry: e, at: mail.Location{Entry: e.Name, URL: e.URL, Primary: s.addresses[0], How: "ews_url"}}, true
	}
	if last := s.lastEntry(); last != nil && s.fresh() && !s.unsure {
		return answered{entry: last, at: s.known}, true
	}
	return answered{}, false
}

// fresh reports whether the mailbox was found not long ago. A time in the future was written by a clock that was ahead, and does not count.
func (s *search) fresh() bool {
	age := time.Since(s.known.Found)
	return 0 <= age && age < locationAge
}

// run returns the first entry that has the mailbox, and its location there. "Not here" (fault.Error.Elsewhere) has the next one asked; any
// other error does not: while an entry cannot say, no other may take what is perhaps its own. A mailbox that has only not been looked up
// for long stays meanwhile where it was.
func (s *search) run(ctx context.Context) answered {
	if a, ok := s.settled(); ok {
		return a
	}
	var said []answered // of each entry: why it has not got it
	for _, e := range s.entries {
		if len(e.accounts) == 0 { // another instance has them
			return answered{entry: e, at: mail.Location{Entry: e.Name}}
		}
		a := s.ask(ctx, e)
		if ctx.Err() == nil {
			e.lookedUp(a.err, s.waited)
		}
		if a.err == nil {
			return a
		}
		a.entry = e
		if last := s.lastEntry(); !a.err.Elsewhere && last != nil { // nobody can say better
			return answered{entry: last, at: s.known}
		}
		if len(s.entries) > 1 {
			told := *a.err
			told.Text = "exchange " + e.Name + ": " + told.Text
			a.err = &told
		}
		if !a.err.Elsewhere {
			return a
		}
		said = append(said, a)
	}
	return nowhere(said)
}

// nowhere is the answer about a mailbox that no entry has, with what each has said.
func nowhere(said []answered) answered {
	if len(said) == 1 {
		return said[0]
	}
	n := answered{err: &fault.Error{Op: "location", Code: codeUnknown, Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true}}
	words := make([]string, len(said))
	for i, a := range said {
		if a.outOfScope {
			n.err.Code, n.outOfScope = codeOutOfScope, true
		}
		words[i] = a.err.Code + ": " + a.err.Text
	}
	n.err.Text = strings.Join(words, "; ")
	return n
}

// ask asks an entry whether it has the mailbox, under one address after the other.
func (s *search) ask(ctx context.Context, e *entry) answered {
	by := s.by(e)
	asker := e.asker(s.account, by)
	first := answered{err: &fault.Error{Op: "location", Code: codeNotCovered, Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true,
		Text: "the mailbox is known under addresses of other domains only"}}
	asked := false
	for _, address := range s.of(e) {
		if e.URL == "" && by == mail.EWS && !e.covers(address) { // Autodiscover would carry the credentials to a domain that is not the entry's
			continue
		}
		var a answered
		if by == mail.Graph {
			a = asker.locateByGraph(ctx, address, s.anyway)
		} else {
			a = asker.locate(ctx, address, s.anyway)
		}
		if a.err == nil || !a.err.Elsewhere || a.outOfScope {
			return a
		}
		if !asked {
			first, asked = a, true
		}
	}
	return first
}

// locate asks one entry for one address: by Autodiscover, or where its URL is configured by looking at the Inbox. Where mailbox_servers
// are configured, the mailbox's own answer names its server; that of an Exchange 2010 does not, and Autodiscover has.
// anyway: also where the account is blocked.
func (a *account) locate(ctx context.Context, address string, anyway bool) answered {
	e := a.entry
	at := mail.Location{URL: e.URL, Primary: address, How: "ews_url", Found: time.Now()}
	if e.URL == "" {
		call, err := a.finding.begin(address)
		if err != nil && !anyway {
			return answered{err: fault.Of(err)}
		}
		at, err = a.Finder.Find(ctx, address)
		if err = call.note(err); err != nil {
			return answered{err: fault.Of(err)}
		}
	}
	at.Entry = e.Name
	other := ""
	if at.Primary != address && !e.covers(at.Primary) {
		other = at.Primary
		at.Primary, at.How = address, at.How+", which calls it "+other+": no address of this entry's domains, so that it does not count"
	}
	if e.URL == "" && len(e.MailboxServers) == 0 {
		return answered{entry: e, at: at, other: other}
	}
	call, err := a.byEWS.calls.begin(address)
	if err != nil && !anyway {
		return answered{err: fault.Of(err)}
	}
	server, err := a.Source.Look(ctx, at)
	if err = call.note(err); err != nil {
		return answered{err: fault.Of(err)}
	}
	at.Server = cmp.Or(server, at.Server)
	if !e.serves(at.Server) {
		return answered{outOfScope: true, err: &fault.Error{Op: "location", Code: codeOutOfScope, Scope: fault.Mailbox, Remedy: fault.Fix,
			Text:      fmt.Sprintf("the mailbox is on the server %s, which is not among the mailbox_servers of %s", at.Server, e.Name),
			Elsewhere: true}}
	}
	return answered{entry: e, at: at, other: other}
}

// locateByGraph asks Graph for one address, by looking at the Inbox. anyway: also where the account is blocked.
func (a *account) locateByGraph(ctx context.Context, address string, anyway bool) answered {
	call, err := a.byGraph.calls.begin(address)
	if err != nil && !anyway {
		return answered{err: fault.Of(err)}
	}
	at, err := a.GraphFinder.Find(ctx, address)
	if err = call.note(err); err != nil {
		return answered{err: fault.Of(err)}
	}
	at.Entry = a.entry.Name
	return answered{entry: a.entry, at: at}
}

// Route is where a mailbox would be listened to.
type Route struct {
	Entry    string // the exchange entry
	Account  string // the listener account: the mailbox's own, else the one that it would be given
	Location mail.Location
}

// Locate says what a look-up of a mailbox would say now. It asks anew and changes nothing. exchange pins the entry; empty: as the devices
// of the mailbox are enrolled, or none. Its error is a *fault.Error; with the code no_capacity the Route says where there is no room.
func (l *Listener) Locate(ctx context.Context, address, exchange string) (Route, error) {
	s := l.searchNew(address, exchange)
	var own *link
	if box := l.o.Book.Mailbox(address); box != nil {
		s = l.search(box)
		s.known = mail.Location{}
		if exchange != "" {
			s.entries = pin(s.covering, exchange)
		}
		if m := l.mailbox(box); m != nil {
			own = m.linked()
		}
	}
	s.anyway = true
	found := s.run(ctx)
	if found.err != nil {
		return Route{}, found.err
	}
	route := Route{Entry: found.entry.Name, Location: found.at}
	if own != nil && own.way.account.entry == found.entry {
		route.Account = own.way.account.Name
		return route, nil
	}
	a := found.entry.seats.free(s.account, groupingOf(found.at))
	if a == nil {
		return route, found.entry.full()
	}
	route.Account = a.Name
	return route, nil
}
