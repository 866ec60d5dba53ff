package graph

// Notifications: what causes them, and how they look.

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
)

// Lifecycle events.
const (
	reauthorizationRequired = "reauthorizationRequired"
	subscriptionRemoved     = "subscriptionRemoved"
	missed                  = "missed"
)

// maxHeld bounds what a subscription holds while its token has run out, and what is held back to come in another order.
const maxHeld = 10_000

// notification is one that has to be posted: of a message, or of the life of its subscription.
type notification struct {
	sub       *subscription
	lifecycle string // the event; empty: a message
	message   exchange.Message
	at        time.Time // it came up
	expires   time.Time // the subscription, as the notification says it
	attempts  int       // so far
}

// Arrived implements exchange.Watcher.
func (s *Server) Arrived(b exchange.Box, m exchange.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for _, sub := range s.boxes[b.GUID] {
		if sub.inbox && !m.InInbox() || !sub.wantsCreated() {
			continue
		}
		s.arrived(sub, b.Address, notification{sub: sub, message: m, at: now})
	}
}

// arrived queues the notification of a message, as the faults have it. s.mu is held.
func (s *Server) arrived(sub *subscription, address string, n notification) {
	if _, ok := s.faults.Hit(dropped, address, ""); ok {
		return
	}
	if _, ok := s.faults.Hit(missedFault, address, ""); ok {
		s.tell(sub, missed)
		return
	}
	if _, ok := s.faults.On(reordered, address, ""); ok && len(sub.later) == 0 {
		sub.later = append(sub.later, n)
		return
	}
	times := 1
	if _, ok := s.faults.Hit(doubled, address, ""); ok {
		times = 2
	}
	for range times {
		if f, ok := s.faults.Hit(late, address, ""); ok {
			s.after(f.Duration(), func() { s.enqueue(sub.url, n) })
			continue
		}
		s.enqueue(sub.url, n)
	}
	if len(sub.later) > 0 {
		s.after(behind, func() { s.releaseLater(sub) })
	}
}

// behind is how long what was held back comes after what it was held back for, as posts run at a time.
const behind = 100 * time.Millisecond

// releaseLater queues what was held back. s.mu is held.
func (s *Server) releaseLater(sub *subscription) {
	list := sub.later
	sub.later = nil
	for _, n := range list {
		s.enqueue(sub.url, n)
	}
}

func (s *subscription) wantsCreated() bool { return strings.Contains(s.changes, "created") }

// Left implements exchange.Watcher: the subscriptions of a mailbox that is gone end.
func (s *Server) Left(b exchange.Box, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range slices.Clone(s.boxes[b.GUID]) {
		s.remove(sub, silent)
	}
	delete(s.limits.mailboxes, b.Object)
}

// remove ends a subscription, and tells it unless silent. s.mu is held.
func (s *Server) remove(sub *subscription, silent bool) {
	s.drop(sub)
	if !silent {
		s.tell(sub, subscriptionRemoved)
	}
}

// tell queues a lifecycle notification. s.mu is held.
func (s *Server) tell(sub *subscription, event string) {
	if sub.lifecycle == "" {
		return
	}
	if _, ok := s.faults.Hit(lifecycleDropped, sub.box.Address, ""); ok {
		return
	}
	s.enqueue(sub.lifecycle, notification{sub: sub, lifecycle: event, at: s.clock.Now()})
}

// stateTime is the form of a time of a notification.
const stateTime = "2006-01-02T15:04:05.999+00:00"

// change is a change notification on the wire.
type change struct {
	SubscriptionID string            `json:"subscriptionId"`
	Expires        string            `json:"subscriptionExpirationDateTime"`
	ChangeType     string            `json:"changeType,omitempty"`
	Resource       string            `json:"resource,omitempty"`
	ResourceData   *resourceData     `json:"resourceData,omitempty"`
	Encrypted      *encryptedContent `json:"encryptedContent,omitempty"`
	LifecycleEvent string            `json:"lifecycleEvent,omitempty"`
	ClientState    string            `json:"clientState,omitempty"`
	TenantID       string            `json:"tenantId"`
}

type resourceData struct {
	Type string `json:"@odata.type"`
	URI  string `json:"@odata.id"`
	ETag string `json:"@odata.etag,omitempty"`
	ID   string `json:"id"`
}

// write is a notification on the wire.
func (s *Server) write(n notification) change {
	sub := n.sub
	c := change{
		SubscriptionID: sub.id, Expires: n.expires.Format(stateTime), ClientState: sub.state, TenantID: s.tokens.ID(), LifecycleEvent: n.lifecycle,
	}
	if n.lifecycle != "" {
		c.Resource = sub.resource
		return c
	}
	id := urlSafe(n.message.ID())
	if sub.immutable {
		id = urlSafe(n.message.ImmutableID())
	}
	name := "Users/" + sub.box.Object + "/Messages/" + id
	c.ChangeType, c.Resource = "created", name
	c.ResourceData = &resourceData{"#Microsoft.Graph.Message", name, etag(n.message.Properties().ChangeKey), id}
	if sub.rich != nil {
		view := viewOf(n.message, sub.rich.wanted, sub.immutable, false)
		view["@odata.context"] = s.base() + version + "/$metadata#users('" + sub.box.Object + "')/messages/$entity"
		if encrypted, err := sub.rich.encrypt(view); err == nil {
			c.Encrypted = encrypted
			s.spoil(encrypted, sub.box.Address)
		}
	}
	return c
}

// bodyOf is the body of a post.
func (s *Server) bodyOf(list []notification) ([]byte, error) {
	var body struct {
		Value  []change `json:"value"`
		Tokens []string `json:"validationTokens,omitempty"`
	}
	rich := map[string]bool{} // apps
	for _, n := range list {
		c := s.write(n)
		body.Value = append(body.Value, c)
		if c.Encrypted != nil && !rich[n.sub.app] {
			rich[n.sub.app] = true
			if token := s.validation(n.sub); token != "" {
				body.Tokens = append(body.Tokens, token)
			}
		}
	}
	return json.Marshal(body)
}
