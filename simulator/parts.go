package simulator

// The methods of Server that act on the parts of a simulator.

import (
	"context"
	"maps"
	"time"

	"github.com/mailbell/mailbell/simulator/apns"
	"github.com/mailbell/mailbell/simulator/control"
	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/graph"
)

// Alert is a request to APNs that was accepted or refused.
type Alert = apns.Alert

// Fault says what a fault applies to, and how often.
type Fault = faults.Fault

// Redirect is an answer of Autodiscover that leads to another URL or address.
type Redirect = exchange.Redirect

// Domain is the mail domain of the mailboxes that Start makes up; by RoutingDomain Exchange Online is reached whatever the mail
// domain's DNS says.
const (
	Domain        = exchange.Domain
	RoutingDomain = exchange.RoutingDomain
)

// The hosts of Exchange. Without Options.Hybrid there is only OnPremises.
const (
	OnPremises = exchange.OnPremises
	Online     = exchange.Online
	Other      = exchange.Other
)

// Authentication methods of the Exchange on premises, for Options.Auth.
const (
	AuthBasic = exchange.AuthBasic
	AuthNTLM  = exchange.AuthNTLM
)

// Values of Options.Personality. Empty is Exchange Server SE.
const (
	Gromox       = exchange.Gromox
	Exchange2010 = exchange.Exchange2010
	Exchange2007 = exchange.Exchange2007
)

// Personalities lists the values of Options.Personality.
func Personalities() []string { return exchange.Personalities() }

// Mailboxes lists the primary addresses on all hosts, sorted.
func (s *Server) Mailboxes() []string { return s.org.Mailboxes() }

// Mailbox returns the host and the addresses of a mailbox. The error is exchange.ErrNoMailbox.
func (s *Server) Mailbox(address string) (exchange.Mailbox, error) { return s.org.Mailbox(address) }

// AddMailbox makes a mailbox, on premises. The error wraps exchange.ErrMailboxExists, or says that the address is invalid.
func (s *Server) AddMailbox(address string) error { return s.AddMailboxAt(address, OnPremises) }

// AddMailboxAt makes a mailbox on a host. The error wraps exchange.ErrNoHost or exchange.ErrMailboxExists, or says that
// the address is invalid. Its user has an account in Entra ID too, with Password.
func (s *Server) AddMailboxAt(address, host string) error {
	if err := s.org.AddMailbox(address, host); err != nil {
		return err
	}
	s.tenant.SetUser(entra.User{Address: address, Password: s.Password})
	return nil
}

// RemoveMailbox removes a mailbox with everything in it, its subscriptions, and the accounts of its user in Entra ID. The error is
// exchange.ErrNoMailbox.
func (s *Server) RemoveMailbox(address string) error {
	m, err := s.org.Mailbox(address)
	if err != nil {
		return err
	}
	if err := s.org.RemoveMailbox(address); err != nil {
		return err
	}
	for _, a := range append(m.Aliases, m.Address) {
		s.tenant.RemoveUser(a)
	}
	return nil
}

// AddAlias gives a mailbox a further address: for delivery, for Autodiscover, which answers with the primary one, and for
// impersonation by SmtpAddress, but not by PrimarySmtpAddress. The error is exchange.ErrNoMailbox, wraps
// exchange.ErrMailboxExists, or says that the alias is invalid.
func (s *Server) AddAlias(alias, address string) error { return s.org.AddAlias(alias, address) }

// Rename gives a mailbox another primary address; the one that it had stays as an alias. The error is exchange.ErrNoMailbox, wraps
// exchange.ErrMailboxExists, or says that the address is invalid.
func (s *Server) Rename(address, primary string) error {
	if err := s.org.Rename(address, primary); err != nil {
		return err
	}
	s.tenant.SetUser(entra.User{Address: primary, Password: s.Password})
	return nil
}

// SetPassword changes the password of a user name on every host, as an administrator of the directory does.
func (s *Server) SetPassword(password string) { s.org.SetPassword(password) }

// Move moves a mailbox to another host: its messages are there with the same received times and new item ids, new mail is delivered
// there, and its subscriptions end. The old host no longer knows the mailbox. A mailbox that is there already stays as it is. The error
// is exchange.ErrNoMailbox or wraps exchange.ErrNoHost.
func (s *Server) Move(address, host string) error { return s.org.Move(address, host) }

// MoveServer moves a mailbox to another mailbox server of its host, by the server's short or full name. Its subscriptions end, and its
// item ids stay. The error is exchange.ErrNoMailbox or wraps exchange.ErrNoServer.
func (s *Server) MoveServer(address, server string) error { return s.org.MoveServer(address, server) }

// Deliver puts a message (RFC 5322) into an Inbox with the given received time; the zero time is now. It keeps the message, which must
// not be changed afterwards. The error is exchange.ErrNoMailbox, or says that the message is too large.
func (s *Server) Deliver(to string, received time.Time, rfc5322 []byte) (itemID string, err error) {
	return s.org.Deliver(to, received, rfc5322)
}

// Delete removes an item for good. The error is exchange.ErrNoMailbox or exchange.ErrNoItem.
func (s *Server) Delete(to, itemID string) error {
	return s.org.Delete(to, itemID)
}

// MoveItem moves an item to the Archive folder (away), or back to the Inbox, and returns its new id.
func (s *Server) MoveItem(to, itemID string, away bool) (newID string, err error) {
	return s.org.MoveItem(to, itemID, away)
}

// MarkRead marks an item as read or unread.
func (s *Server) MarkRead(to, itemID string, read bool) error {
	return s.org.MarkRead(to, itemID, read)
}

// Unregister makes APNs answer 410 Unregistered for a device token, with this time; the zero time ends that.
func (s *Server) Unregister(token string, since time.Time) { s.pushes.Unregister(token, since) }

// SetRedirect makes Autodiscover on premises answer for an address with a redirect; the zero Redirect ends that. The address needs no
// mailbox here.
func (s *Server) SetRedirect(address string, to Redirect) { s.org.SetRedirect(address, to) }

// Subscriptions counts the subscriptions of a mailbox: all that are alive, and those that have an open stream.
func (s *Server) Subscriptions(address string) (alive, streamed int) {
	return s.org.Subscriptions(address)
}

// GraphSubscription is a subscription at Microsoft Graph.
type GraphSubscription = graph.Subscription

// GraphSubscriptions lists the subscriptions at Microsoft Graph, by their mailboxes.
func (s *Server) GraphSubscriptions() []GraphSubscription { return s.graph.Subscriptions() }

// Alerts returns the kept alerts with a number above after, refused ones too.
func (s *Server) Alerts(after int) []Alert { return s.pushes.Alerts(after) }

// WaitAlerts waits until there is an alert with a number above after, and returns all of them. The error is the context's.
func (s *Server) WaitAlerts(ctx context.Context, after int) ([]Alert, error) {
	return s.pushes.WaitAlerts(ctx, after)
}

// SetFault sets a fault instead of an earlier one of that name, or performs the act of one that happens at once. A mistake is a
// *faults.Error.
func (s *Server) SetFault(name string, f Fault) error {
	if err := s.faults.Set(name, f); err != nil {
		return err
	}
	s.logf("fault %s", name)
	return nil
}

// ClearFault ends a fault. It is no mistake if the fault is not set; an unknown name is a *faults.Error.
func (s *Server) ClearFault(name string) error { return s.faults.Clear(name) }

// Faults lists every fault, each with a sentence, and how it is set.
func (s *Server) Faults() []faults.Info { return s.faults.List() }

// Counts returns the counts of all hosts of Exchange and of Graph.
func (s *Server) Counts() control.Counts { return s.counts(s.org.Counts(), s.graph) }

// CountsAt returns the counts, but of the hosts of Exchange only of the one with that name; Graph goes with Online. The error wraps exchange.ErrNoHost.
func (s *Server) CountsAt(host string) (control.Counts, error) {
	c, err := s.org.CountsAt(host)
	if err != nil {
		return control.Counts{}, err
	}
	if host != Online {
		return s.counts(c, nil), nil
	}
	return s.counts(c, s.graph), nil
}

// counts puts the counts together; cloud may be nil.
func (s *Server) counts(mail exchange.Counts, graph *graph.Server) control.Counts {
	tokens, pushes := s.tenant.Count(), s.pushes.Counts()
	cloud := graph.Counts()
	maps.Copy(mail.Requests, cloud.Requests)
	return control.Counts{
		GraphSubscriptions: cloud.Subscriptions, GraphNotifications: cloud.Notifications, GraphThrottled: cloud.Throttled,
		Requests: mail.Requests, Unauthorized: mail.Unauthorized + cloud.Unauthorized, OpenStreams: mail.OpenStreams, Subscriptions: mail.Subscriptions,
		Tokens: tokens.Issued, TokensRefused: tokens.Refused,
		APNsOpen: pushes.Open, APNsEver: pushes.Ever, RefusedStreams: pushes.RefusedStreams, Accepted: pushes.Accepted, Refused: pushes.Refused,
	}
}
