package exchange

// Subscriptions: Subscribe, Unsubscribe, and the events that wait for a stream, or to be posted.

import (
	"fmt"
	"slices"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// Limits of every release.
const (
	maxIDs     = 200 // of a GetStreamingEvents request
	maxEvents  = 50  // of an answer
	maxQueue   = 10_000
	idleExpiry = 30 * time.Minute // without a stream; how long real servers wait is not documented
	maxHeld    = 1 << 20          // bytes that a silenced stream keeps, as a socket's buffer would
)

type eventKind uint8

const (
	copiedEvent eventKind = iota
	createdEvent
	deletedEvent
	modifiedEvent
	movedEvent
	newMailEvent
	freeBusyEvent
)

var eventNames = [...]string{"CopiedEvent", "CreatedEvent", "DeletedEvent", "ModifiedEvent", "MovedEvent", "NewMailEvent", "FreeBusyChangedEvent"}

type event struct {
	kind      eventKind
	ofFolder  bool // of the folder itself, not of an item in it
	folder    folderKind
	oldFolder folderKind
	at        time.Time
	item      uint64
	oldItem   uint64
	change    uint64
	unread    int
}

type subscription struct {
	id      string
	owner   string // the account that made it
	box     *mailbox
	server  string // the mailbox server that has it
	folders uint16 // a bit for each folderKind
	kinds   uint8  // a bit for each eventKind
	queue   []event
	later   []event // held back, to come behind the next
	missed  bool    // the queue was full
	stream  *stream // that it is open on
	push    *push   // nil: it is not a push subscription
	used    time.Time
}

// publish queues events for the subscriptions of a mailbox; x.mu is held.
func (x *Host) publish(b *mailbox, events ...event) {
	for _, s := range b.subs {
		for _, e := range events {
			if s.wants(e) {
				s.enqueue(e)
			}
		}
		s.release()
		s.tell()
	}
}

func (s *subscription) enqueue(e event) {
	if len(s.queue) >= maxQueue {
		s.queue, s.missed = nil, true
	}
	s.queue = append(s.queue, e)
}

// release queues what was held back.
func (s *subscription) release() {
	for _, e := range s.later {
		s.enqueue(e)
	}
	s.later = nil
}

// holdBack keeps the events of one message until the next come; x.mu is held.
func (x *Host) holdBack(b *mailbox, events ...event) {
	for _, s := range b.subs {
		for _, e := range events {
			if s.wants(e) {
				s.later = append(s.later, e)
			}
		}
	}
}

// holds reports whether events are held back for a mailbox.
func (b *mailbox) holds() bool {
	return slices.ContainsFunc(b.subs, func(s *subscription) bool { return len(s.later) > 0 })
}

// releaseEvents queues what is held back where that is no longer asked for.
func (x *Host) releaseEvents() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		if _, on := x.faults.On(eventsReordered, s.box.address, ""); !on {
			s.release()
			s.tell()
		}
	}
}

func (s *subscription) wants(e event) bool {
	seen := s.folders & (1 << e.folder)
	if e.kind == movedEvent || e.kind == copiedEvent {
		seen |= s.folders & (1 << e.oldFolder)
	}
	return s.kinds&(1<<e.kind) != 0 && seen != 0
}

// tell wakes the stream that has the subscription, or who posts for it.
func (s *subscription) tell() {
	if s.push != nil && len(s.queue) > 0 {
		select {
		case s.push.wake <- struct{}{}:
		default:
		}
		return
	}
	if s.stream == nil || len(s.queue) == 0 && !s.missed {
		return
	}
	if !slices.Contains(s.stream.dirty, s) {
		s.stream.dirty = append(s.stream.dirty, s)
	}
	s.stream.poke()
}

// forget drops a subscription; x.mu is held.
func (x *Host) forget(s *subscription) { x.drop(s, x.unknown(s.id)) }

// drop drops a subscription and sends its stream the reason; x.mu is held.
func (x *Host) drop(s *subscription, why streamError) {
	delete(x.subs, s.id)
	s.end()
	s.box.subs = slices.DeleteFunc(s.box.subs, func(o *subscription) bool { return o == s })
	if st := s.stream; st != nil {
		s.stream = nil
		st.subs = slices.DeleteFunc(st.subs, func(o *subscription) bool { return o == s })
		st.dirty = slices.DeleteFunc(st.dirty, func(o *subscription) bool { return o == s })
		st.errors = append(st.errors, why)
		st.poke()
	}
}

// end ends the posts of a push subscription.
func (s *subscription) end() {
	if s.push != nil && !s.ended() {
		close(s.push.gone)
	}
}

// moveText is the text of the error on a stream when a mailbox begins to move, as Microsoft's support recorded it.
func (x *Host) moveText() string {
	return "Subscription is invalid., This message indicates no more events will occur for this EventSink. Event = Event. TimeStamp = " +
		x.clock.Now().Format("1/2/2006 3:04:05 PM") + ". Event type = MailboxMoveStarted, Object Type = None, .ObjectId = "
}

// endMoved ends the subscriptions of mailboxes that begin to move.
func (x *Host) endMoved(f faults.Fault) {
	text := x.moveText()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		if f.Concerns(x.name, s.box.address, "") {
			x.drop(s, streamError{"ErrorInvalidSubscription", text, []string{s.id}})
		}
	}
}

// endSubscriptions ends the subscriptions of a mailbox. Their streams get an error, or nothing more of the mailbox. x.mu is held.
func (x *Host) endSubscriptions(b *mailbox, why streamError, silent bool) {
	for _, s := range slices.Clone(b.subs) {
		if silent {
			delete(x.subs, s.id)
			s.end()
			continue
		}
		why.ids = []string{s.id}
		x.drop(s, why)
	}
	b.subs = nil
}

const notFoundText = "The specified subscription was not found."

// expire drops the subscriptions of a mailbox that had no stream for long; x.mu is held.
func (x *Host) expire(b *mailbox) {
	for _, s := range slices.Clone(b.subs) {
		if s.push == nil && s.stream == nil && time.Since(s.used) > idleExpiry {
			x.forget(s)
		}
	}
}

func (x *Host) loseSubscriptions(f *faults.Cases) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		if f.Concerns(x.name, s.box.address, "") && f.Met() {
			x.forget(s)
		}
	}
}

const exceededText = "You have exceeded the available subscriptions for your account. Remove unnecessary subscriptions and try your request again."

// subscribe makes a subscription. Pull is not served.
func (c *call) subscribe(b *markup) *soapFault {
	const message = "SubscribeResponseMessage"
	s := &subscription{owner: c.account, box: c.box, server: c.server}
	req := c.body.kid(nsMessages, "StreamingSubscriptionRequest")
	if req != nil {
		if _, refused := c.x.faults.Hit(streamingRefused, c.address(), ""); refused {
			return badRequest("The element 'Subscribe' has invalid child element 'StreamingSubscriptionRequest'.")
		}
	} else if req = c.body.kid(nsMessages, "PushSubscriptionRequest"); req != nil && !c.x.gromox {
		var code, text string
		var fault *soapFault
		s.push, code, text, fault = pushRequest(req)
		if fault != nil {
			return fault
		}
		if code != "" {
			b.responseError(message, code, text)
			return nil
		}
	} else {
		b.responseError(message, "ErrorInvalidSubscriptionRequest", "Such subscriptions are not served here.")
		return nil
	}
	for _, t := range req.at("EventTypes").children() {
		i := slices.Index(eventNames[:], t.value())
		if i < 0 {
			return badRequest(fmt.Sprintf("The 'EventType' element is invalid: the value '%s' is not in the enumeration.", t.value()))
		}
		s.kinds |= 1 << i
	}
	if s.kinds == 0 {
		return badRequest("The element 'EventTypes' has incomplete content.")
	}
	if c.box == nil {
		b.responseError(message, "ErrorMissingEmailAddress", "When making a request as an account that does not have a mailbox, you must specify the mailbox primary SMTP address for any distinguished folder Ids.")
		return nil
	}
	folders := req.at("FolderIds").children()
	switch all := req.attr("SubscribeToAllFolders"); {
	case (all == "true" || all == "1") && len(folders) == 0:
		s.folders = 1<<folderKinds - 1
	case len(folders) == 0 || all == "true" || all == "1":
		b.responseError(message, "ErrorInvalidSubscriptionRequest", "The subscription request is invalid: it names either folders or all folders.")
		return nil
	}
	for _, f := range folders {
		kind, code, text := c.folder(f)
		if code != "" {
			b.responseError(message, code, text)
			return nil
		}
		s.folders |= 1 << kind
	}
	x := c.x
	if _, none := x.faults.Hit(subscriptionsNone, c.address(), ""); none {
		b.responseError(message, "ErrorExceededSubscriptionCount", exceededText)
		return nil
	}
	s.id = subscriptionID(c.server, x.clock.Now())
	s.used = time.Now()
	x.mu.Lock()
	if x.gromox {
		x.lastSub++
		s.id = gromoxID(x.lastSub)
	}
	x.expire(c.box)
	full, removed := len(c.box.subs) >= x.release.perBox, c.box.removed
	if !full && !removed {
		c.box.subs = append(c.box.subs, s)
		x.subs[s.id] = s
	}
	x.mu.Unlock()
	switch {
	case removed:
		return x.unknownUser()
	case full:
		b.responseError(message, "ErrorExceededSubscriptionCount", exceededText)
		return nil
	}
	c.bind()
	b.success(message)
	b.element("m:SubscriptionId", s.id)
	if s.push != nil {
		b.element("m:Watermark", s.push.mark(s.box.guid))
		x.pusher.posts.Go(func() { x.runPush(s) })
	}
	b.raw(`</m:`, message, `>`)
	return nil
}

func (c *call) unsubscribe(b *markup) *soapFault {
	const message = "UnsubscribeResponseMessage"
	id := c.body.kid(nsMessages, "SubscriptionId").value()
	if id == "" {
		return badRequest("The element 'Unsubscribe' has incomplete content.")
	}
	c.x.mu.Lock()
	s := c.x.subs[id]
	if s != nil && c.x.affine() && s.server != c.server {
		s = nil // another server has it
	}
	mine := s != nil && c.owns(s)
	if s != nil && s.push != nil { // a subscription of this kind ends by the answer to a post
		c.x.mu.Unlock()
		b.responseError(message, "ErrorInvalidPullSubscriptionId", "The subscription is not a pull or streaming subscription.")
		return nil
	}
	if mine {
		c.x.forget(s)
	}
	c.x.mu.Unlock()
	switch {
	case s == nil:
		b.responseError(message, "ErrorSubscriptionNotFound", notFoundText)
	case !mine:
		b.responseError(message, "ErrorSubscriptionAccessDenied", accessDeniedText)
	default:
		b.success(message)
		b.raw(`</m:`, message, `>`)
	}
	return nil
}

// owns reports whether the caller may use a subscription: the account that made it, or on a server that is not Microsoft's, any that
// acts on its mailbox.
func (c *call) owns(s *subscription) bool {
	return s.owner == c.account && (!c.x.gromox || s.box == c.box)
}

const accessDeniedText = "Access is denied. Only the owner of the subscription may use it."
