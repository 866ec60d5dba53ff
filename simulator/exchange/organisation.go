package exchange

// A hybrid organisation: an Exchange on premises, one in the cloud (Exchange Online) and one of another provider (as Amazon
// WorkMail) that share a mail domain. A mailbox is on exactly one of these hosts, and can be moved while mail arrives.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
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

// ErrNoMailbox is returned for an address that has no mailbox here.
var ErrNoMailbox = errors.New("no such mailbox")

// ErrMailboxExists is wrapped by the error for an address that is taken.
var ErrMailboxExists = errors.New("has a mailbox already")

// ErrNoItem is returned for an item id that its mailbox does not have.
var ErrNoItem = errors.New("no such item")

// ErrNoHost is returned for a host that this simulator does not have.
var ErrNoHost = errors.New("no such host of Exchange")

// Organisation is the hosts that share the mail domain, the one on premises first. mu is held for writing while a mailbox or
// one of its addresses comes, goes or moves, and for reading while something is found: mail that arrives during a move is
// delivered before it, or after it to the new host. Locks are taken in the order Organisation.mu, Host.mu of one host.
type Organisation struct {
	mu      sync.RWMutex
	hosts   []*Host
	objects map[string]string // primary addresses by the object ids of their users
}

// Hosts lists the hosts, the one on premises first.
func (o *Organisation) Hosts() []*Host { return o.hosts }

// host returns the host of that name; nil if there is none.
func (o *Organisation) host(name string) *Host {
	i := slices.IndexFunc(o.hosts, func(x *Host) bool { return x.name == name })
	if i < 0 {
		return nil
	}
	return o.hosts[i]
}

// hybrid reports whether there are several hosts.
func (o *Organisation) hybrid() bool { return len(o.hosts) > 1 }

// hostOf returns the host that has a mailbox, and its primary address; nil if no mailbox has the address. o.mu is held.
func (o *Organisation) hostOf(address string) (x *Host, primary string) {
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

// lookUp is hostOf for callers that do not hold o.mu.
func (o *Organisation) lookUp(address string) (x *Host, primary string) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.hostOf(address)
}

// at calls f with the host of a mailbox. The mailbox cannot move meanwhile.
func (o *Organisation) at(address string, f func(*Host) error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	x := o.hosts[0]
	if o.hybrid() {
		if x, _ = o.hostOf(address); x == nil {
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

// AddMailbox makes a mailbox on a host. The error wraps ErrNoHost or ErrMailboxExists, or says that the address is invalid.
func (o *Organisation) AddMailbox(address, host string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.host(host)
	if x == nil {
		return fmt.Errorf("%q: %w", host, ErrNoHost)
	}
	if taken, _ := o.hostOf(address); taken != nil {
		return fmt.Errorf("%s %w", normal(address), ErrMailboxExists)
	}
	if err := x.addMailbox(address); err != nil {
		return err
	}
	o.noteObject(x, normal(address))
	o.giveRouting(x, normal(address))
	return nil
}

// giveRouting gives a mailbox its address in RoutingDomain, unless another has it; o.mu is held.
func (o *Organisation) giveRouting(x *Host, primary string) {
	if !o.hybrid() {
		return
	}
	alias := routing(primary)
	if taken, _ := o.hostOf(alias); taken != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.aliases[alias] = primary
}

// RemoveMailbox removes a mailbox with everything in it and its subscriptions. The error is ErrNoMailbox.
func (o *Organisation) RemoveMailbox(address string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.hosts {
		if err := x.removeMailbox(address); !errors.Is(err, ErrNoMailbox) {
			maps.DeleteFunc(o.objects, func(_, primary string) bool { return primary == normal(address) })
			return err
		}
	}
	return ErrNoMailbox
}

// AddAlias gives a mailbox a further address: for delivery, for Autodiscover, which answers with the primary one, and for
// impersonation by SmtpAddress, but not by PrimarySmtpAddress. The error is ErrNoMailbox, wraps ErrMailboxExists, or says that
// the alias is invalid.
func (o *Organisation) AddAlias(alias, address string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	x, primary := o.hostOf(address)
	if x == nil {
		return ErrNoMailbox
	}
	if err := checkAddress(normal(alias)); err != nil {
		return err
	}
	if taken, _ := o.hostOf(alias); taken != nil {
		return fmt.Errorf("%s %w", normal(alias), ErrMailboxExists)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.aliases[normal(alias)] = primary
	return nil
}

// Rename gives a mailbox another primary address; the one that it had stays an alias. Everything else about it stays as it is.
// The error is ErrNoMailbox, wraps ErrMailboxExists, or says that the address is invalid.
func (o *Organisation) Rename(address, primary string) error {
	primary = normal(primary)
	if err := checkAddress(primary); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	x, old := o.hostOf(address)
	if x == nil {
		return ErrNoMailbox
	}
	if old == primary {
		return nil
	}
	if taken, of := o.hostOf(primary); taken != nil && of != old {
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
	o.noteObject(x, primary)
	o.giveRouting(x, primary)
	return nil
}

// Move moves a mailbox to another host: its messages are there with the same received times and new item ids, new mail is delivered
// there, and its subscriptions end. The old host no longer knows the mailbox. A mailbox that is there already stays as it is. The error
// is ErrNoMailbox or wraps ErrNoHost.
func (o *Organisation) Move(address, host string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	to := o.host(host)
	if to == nil {
		return fmt.Errorf("%q: %w", host, ErrNoHost)
	}
	from, primary := o.hostOf(address)
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

// giveAway removes a mailbox and its aliases from a host. Its subscriptions end with the text of a move, or silently.
func (x *Host) giveAway(primary string) (*mailbox, []string) {
	_, silent := x.faults.Hit(moveSilent, primary, "")
	why := streamError{code: "ErrorInvalidSubscription", text: x.moveText()}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.boxes[primary]
	x.endSubscriptions(b, why, silent)
	x.tellLeft(b, silent)
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

// receive adds a mailbox from another host: the same messages with the same received times, and other ids.
func (x *Host) receive(old *mailbox, aliases []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := &mailbox{address: old.address, guid: guid.New(), object: old.object, server: x.nextServer(), items: map[uint64]*item{}}
	for _, number := range slices.Sorted(maps.Keys(old.items)) {
		it := *old.items[number]
		b.changes++
		it.number, it.origin, it.change = b.changes, b.changes, b.changes
		b.insert(&it, old.folders[it.folder].changed)
	}
	x.boxes[b.address] = b
	for _, alias := range aliases {
		x.aliases[alias] = b.address
	}
}

// Deliver puts a message (RFC 5322) into an Inbox with the given received time; the zero time is now. It keeps the message, which must
// not be changed afterwards. The error is ErrNoMailbox, or says that the message is too large.
func (o *Organisation) Deliver(to string, received time.Time, raw []byte) (id string, err error) {
	err = o.at(to, func(x *Host) error {
		id, err = x.deliver(to, received, raw)
		return err
	})
	return id, err
}

// Delete removes an item for good. The error is ErrNoMailbox or ErrNoItem.
func (o *Organisation) Delete(to, itemID string) error {
	return o.at(to, func(x *Host) error { return x.deleteItem(to, itemID) })
}

// MoveItem moves an item to the Archive folder (away), or back to the Inbox, and returns its new id.
func (o *Organisation) MoveItem(to, itemID string, away bool) (newID string, err error) {
	folder := inbox
	if away {
		folder = archive
	}
	err = o.at(to, func(x *Host) error {
		newID, err = x.moveItem(to, itemID, folder)
		return err
	})
	return newID, err
}

// MarkRead marks an item as read or unread.
func (o *Organisation) MarkRead(to, itemID string, read bool) error {
	return o.at(to, func(x *Host) error { return x.markRead(to, itemID, read) })
}

// SetPassword changes the password of a user name on every host, as an administrator of the directory does.
func (o *Organisation) SetPassword(password string) {
	for _, x := range o.hosts {
		x.password.Store(password)
	}
}

// Mailboxes lists the primary addresses on all hosts, sorted.
func (o *Organisation) Mailboxes() []string {
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

// Mailbox is where a mailbox is, and its addresses.
type Mailbox struct {
	Address string   `json:"address"` // the primary one
	Aliases []string `json:"aliases"`
	Host    string   `json:"host"`             // OnPremises, Online or Other
	Server  string   `json:"server,omitempty"` // the mailbox server, where the host has such
}

// Mailbox returns the host and the addresses of a mailbox. The error is ErrNoMailbox.
func (o *Organisation) Mailbox(address string) (Mailbox, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	x, primary := o.hostOf(address)
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
