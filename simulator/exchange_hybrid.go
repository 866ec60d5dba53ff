package simulator

// A hybrid organisation: an Exchange on premises, one in the cloud (Exchange Online) and one of another provider (as Amazon
// WorkMail) that share a mail domain. A mailbox lives on exactly one of these hosts, and can be moved while mail arrives.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// The hosts of Exchange. Without Options.Hybrid there is only OnPremises.
const (
	OnPremises = "onpremises" // Autodiscover and EWS; Basic or NTLM
	Online     = "online"     // Exchange Online: Autodiscover and EWS with bearer tokens of Entra ID
	Other      = "other"      // EWS with Basic, no Autodiscover; the user name is the primary address
)

// RoutingDomain is the domain by which Exchange Online is reached whatever the mail domain's DNS says: every mailbox of a
// hybrid organisation has an address there, and Exchange on premises redirects to it what lives in the cloud.
const RoutingDomain = "contoso.mail.onmicrosoft.example"

// ErrNoHost is returned for a host that this simulator does not have.
var ErrNoHost = errors.New("no such host of Exchange")

// organisation is the hosts that share the mail domain, the one on premises first. mu is held for writing while a mailbox or
// one of its addresses comes, goes or moves, and for reading while something is found: mail that arrives during a move is
// delivered before it, or after it to the new host. Locks are taken in the order organisation.mu, exchange.mu of one host.
type organisation struct {
	mu    sync.RWMutex
	hosts []*exchange
}

// host returns the host of that name; nil if there is none.
func (o *organisation) host(name string) *exchange {
	i := slices.IndexFunc(o.hosts, func(x *exchange) bool { return x.name == name })
	if i < 0 {
		return nil
	}
	return o.hosts[i]
}

// hybrid reports whether there are several hosts.
func (o *organisation) hybrid() bool { return len(o.hosts) > 1 }

// home returns where a mailbox lives, and its primary address; nil for an address that has none. o.mu is held.
func (o *organisation) home(address string) (x *exchange, primary string) {
	address = normal(address)
	for _, x := range o.hosts {
		x.mu.Lock()
		if b := x.find(address); b != nil {
			primary = b.address
		}
		x.mu.Unlock()
		if primary != "" {
			return x, primary
		}
	}
	return nil, ""
}

// lookUp is home for those who do not hold o.mu.
func (o *organisation) lookUp(address string) (x *exchange, primary string) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.home(address)
}

// at runs f on the host of a mailbox, which keeps it there meanwhile.
func (o *organisation) at(address string, f func(*exchange) error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	x := o.hosts[0]
	if o.hybrid() {
		if x, _ = o.home(address); x == nil {
			return ErrNoMailbox
		}
	}
	return f(x)
}

// routing is the address of a mailbox in RoutingDomain.
func routing(address string) string {
	local, domain, _ := strings.Cut(address, "@")
	if domain != Domain {
		local += "." + domain
	}
	return local + "@" + RoutingDomain
}

// addMailbox makes a mailbox on a host.
func (o *organisation) addMailbox(address, host string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.host(host)
	if x == nil {
		return fmt.Errorf("%q: %w", host, ErrNoHost)
	}
	if taken, _ := o.home(address); taken != nil {
		return fmt.Errorf("%s %w", normal(address), ErrMailboxExists)
	}
	if err := x.addMailbox(address); err != nil {
		return err
	}
	o.giveRouting(x, normal(address))
	return nil
}

// giveRouting gives a mailbox its address in RoutingDomain, unless another has it; o.mu is held.
func (o *organisation) giveRouting(x *exchange, primary string) {
	if !o.hybrid() {
		return
	}
	alias := routing(primary)
	if taken, _ := o.home(alias); taken != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.aliases[alias] = primary
}

func (o *organisation) removeMailbox(address string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.hosts {
		if err := x.removeMailbox(address); !errors.Is(err, ErrNoMailbox) {
			return err
		}
	}
	return ErrNoMailbox
}

func (o *organisation) addAlias(alias, address string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	x, primary := o.home(address)
	if x == nil {
		return ErrNoMailbox
	}
	if err := checkAddress(normal(alias)); err != nil {
		return err
	}
	if taken, _ := o.home(alias); taken != nil {
		return fmt.Errorf("%s %w", normal(alias), ErrMailboxExists)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.aliases[normal(alias)] = primary
	return nil
}

// rename gives a mailbox another primary address; the one that it had stays an alias. Everything else about it stays as it is.
func (o *organisation) rename(address, primary string) error {
	primary = normal(primary)
	if err := checkAddress(primary); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	x, old := o.home(address)
	if x == nil {
		return ErrNoMailbox
	}
	if old == primary {
		return nil
	}
	if taken, of := o.home(primary); taken != nil && of != old {
		return fmt.Errorf("%s %w", primary, ErrMailboxExists)
	}
	x.mu.Lock()
	b := x.boxes[old]
	delete(x.boxes, old)
	delete(x.aliases, primary)
	b.address = primary
	x.boxes[primary] = b
	for alias, of := range x.aliases {
		if of == old {
			x.aliases[alias] = primary
		}
	}
	x.aliases[old] = primary
	x.mu.Unlock()
	o.giveRouting(x, primary)
	return nil
}

// move brings a mailbox to another host.
func (o *organisation) move(address, host string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	to := o.host(host)
	if to == nil {
		return fmt.Errorf("%q: %w", host, ErrNoHost)
	}
	from, primary := o.home(address)
	switch {
	case from == nil:
		return ErrNoMailbox
	case from == to:
		return nil
	}
	b, aliases := from.giveAway(primary)
	to.receive(b, aliases)
	return nil
}

// giveAway takes a mailbox and its aliases out of a host. Its subscriptions end with the text of a move, or without a word.
func (x *exchange) giveAway(primary string) (*mailbox, []string) {
	_, silent := x.faults.hit(moveSilent, primary, "")
	why := streamError{code: "ErrorInvalidSubscription", text: x.moveText()}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.boxes[primary]
	x.endSubscriptions(b, why, silent)
	b.removed = true
	delete(x.boxes, primary)
	var aliases []string
	for _, alias := range slices.Sorted(maps.Keys(x.aliases)) {
		if x.aliases[alias] == primary {
			aliases = append(aliases, alias)
			delete(x.aliases, alias)
		}
	}
	return b, aliases
}

// receive takes in a mailbox that lived elsewhere: the same messages, received at the same times, under other ids.
func (x *exchange) receive(old *mailbox, aliases []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := &mailbox{address: old.address, guid: newGUID(), server: x.nextServer(), items: map[uint64]*item{}}
	for _, number := range slices.Sorted(maps.Keys(old.items)) {
		it := *old.items[number]
		b.changes++
		it.number, it.change = b.changes, b.changes
		b.insert(&it, old.folders[it.folder].changed)
	}
	x.boxes[b.address] = b
	for _, alias := range aliases {
		x.aliases[alias] = b.address
	}
}

// deliver puts a message into the Inbox wherever it is.
func (o *organisation) deliver(to string, received time.Time, raw []byte) (id string, err error) {
	err = o.at(to, func(x *exchange) error {
		id, err = x.deliver(to, received, raw)
		return err
	})
	return id, err
}

// list returns the primary addresses on all hosts, sorted.
func (o *organisation) list() []string {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var all []string
	for _, x := range o.hosts {
		x.mu.Lock()
		all = slices.AppendSeq(all, maps.Keys(x.boxes))
		x.mu.Unlock()
	}
	slices.Sort(all)
	return all
}

// Mailbox says where a mailbox lives.
type Mailbox struct {
	Address string   `json:"address"` // the primary one
	Aliases []string `json:"aliases"`
	Host    string   `json:"host"`             // OnPremises, Online or Other
	Server  string   `json:"server,omitempty"` // the mailbox server, where the host has such
}

func (o *organisation) mailbox(address string) (Mailbox, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	x, primary := o.home(address)
	if x == nil {
		return Mailbox{}, ErrNoMailbox
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	m := Mailbox{Address: primary, Aliases: []string{}, Host: x.name, Server: x.boxes[primary].server}
	for _, alias := range slices.Sorted(maps.Keys(x.aliases)) {
		if x.aliases[alias] == primary {
			m.Aliases = append(m.Aliases, alias)
		}
	}
	return m, nil
}
