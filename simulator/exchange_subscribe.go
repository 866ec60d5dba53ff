package simulator

// Streaming subscriptions: Subscribe, Unsubscribe, GetStreamingEvents, and the events themselves. At most once, as
// Exchange: an event leaves its queue when it is written into an envelope, whatever becomes of that.

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
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
	server  string // the mailbox server that it lives on
	folders uint16 // a bit for each folderKind
	kinds   uint8  // a bit for each eventKind
	queue   []event
	later   []event // held back, to come behind the next
	missed  bool    // the queue was full
	stream  *stream // that it is open on
	used    time.Time
}

// stream is an open GetStreamingEvents. Its fields are under exchange.mu, but for those that only its own handler uses.
type stream struct {
	conn    net.Conn
	budget  string // whose HangingConnectionLimit it counts against
	subs    []*subscription
	dirty   []*subscription // those with something to tell
	errors  []streamError
	refused []streamError // of ids in its request, where it goes on with the others
	replace bool          // another connection took its subscriptions
	cut     bool          // by a fault: it ends without a word
	wake    chan struct{}

	held []byte // written while silenced
}

type streamError struct {
	code, text string
	ids        []string
}

func (s *stream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// publish queues events for the subscriptions of a mailbox; x.mu is held.
func (x *exchange) publish(b *mailbox, events ...event) {
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
func (x *exchange) holdBack(b *mailbox, events ...event) {
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
func (x *exchange) releaseEvents() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		if _, on := x.faults.on(eventsReordered, s.box.address, ""); !on {
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

// tell wakes the stream that the subscription is open on.
func (s *subscription) tell() {
	if s.stream == nil || len(s.queue) == 0 && !s.missed {
		return
	}
	if !slices.Contains(s.stream.dirty, s) {
		s.stream.dirty = append(s.stream.dirty, s)
	}
	s.stream.poke()
}

// forget drops a subscription; x.mu is held.
func (x *exchange) forget(s *subscription) { x.drop(s, x.unknown(s.id)) }

// drop drops a subscription and tells its stream why; x.mu is held.
func (x *exchange) drop(s *subscription, why streamError) {
	delete(x.subs, s.id)
	s.box.subs = slices.DeleteFunc(s.box.subs, func(o *subscription) bool { return o == s })
	if st := s.stream; st != nil {
		s.stream = nil
		st.subs = slices.DeleteFunc(st.subs, func(o *subscription) bool { return o == s })
		st.dirty = slices.DeleteFunc(st.dirty, func(o *subscription) bool { return o == s })
		st.errors = append(st.errors, why)
		st.poke()
	}
}

// moveText is what a stream is told when a mailbox begins to move, as Microsoft's support recorded it.
func (x *exchange) moveText() string {
	return "Subscription is invalid., This message indicates no more events will occur for this EventSink. Event = Event. TimeStamp = " +
		x.clock.now().Format("1/2/2006 3:04:05 PM") + ". Event type = MailboxMoveStarted, Object Type = None, .ObjectId = "
}

// endMoved ends the subscriptions of mailboxes that begin to move.
func (x *exchange) endMoved(f *activeFault) {
	text := x.moveText()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		if f.concerns(x.name, s.box.address, "") {
			x.drop(s, streamError{"ErrorInvalidSubscription", text, []string{s.id}})
		}
	}
}

// endSubscriptions ends those of a mailbox. A stream is told why; or it is not, and never hears of the mailbox again. x.mu is held.
func (x *exchange) endSubscriptions(b *mailbox, why streamError, silent bool) {
	for _, s := range slices.Clone(b.subs) {
		if silent {
			delete(x.subs, s.id)
			continue
		}
		why.ids = []string{s.id}
		x.drop(s, why)
	}
	b.subs = nil
}

const notFoundText = "The specified subscription was not found."

// expire drops the subscriptions of a mailbox that nobody has read for long; x.mu is held.
func (x *exchange) expire(b *mailbox) {
	for _, s := range slices.Clone(b.subs) {
		if s.stream == nil && time.Since(s.used) > idleExpiry {
			x.forget(s)
		}
	}
}

func (x *exchange) loseSubscriptions(f *activeFault) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		if f.concerns(x.name, s.box.address, "") && f.met() {
			x.forget(s)
		}
	}
}

func (x *exchange) cutStreams(f *activeFault, reset bool) {
	x.mu.Lock()
	var conns []net.Conn
	for st := range x.streams {
		if !st.cut && !st.replace && st.carries(f.Mailbox) && f.met() {
			conns = append(conns, st.conn)
			st.cut = true
			x.detach(st) // what comes from here on waits for the next stream
		}
	}
	x.mu.Unlock()
	for _, c := range conns {
		cut(c, reset)
	}
}

// carries reports whether a mailbox, or any, is heard on the stream.
func (s *stream) carries(mailbox string) bool {
	return mailbox == "" || slices.ContainsFunc(s.subs, func(o *subscription) bool { return o.box.address == mailbox })
}

// wakeStreams has every stream look at its faults again.
func (x *exchange) wakeStreams() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := range x.streams {
		s.poke()
	}
}

const exceededText = "You have exceeded the available subscriptions for your account. Remove unnecessary subscriptions and try your request again."

// subscribe makes a subscription. Pull and push are not served.
func (c *call) subscribe(b *markup) *soapFault {
	const message = "SubscribeResponseMessage"
	req := c.body.kid(nsMessages, "StreamingSubscriptionRequest")
	if req == nil {
		b.responseError(message, "ErrorInvalidSubscriptionRequest", "Only streaming subscriptions are served here.")
		return nil
	}
	s := &subscription{owner: c.account, box: c.box, server: c.server}
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
	if _, none := x.faults.hit(subscriptionsNone, c.address(), ""); none {
		b.responseError(message, "ErrorExceededSubscriptionCount", exceededText)
		return nil
	}
	s.id = subscriptionID(c.server, x.clock.now())
	s.used = time.Now()
	x.mu.Lock()
	if x.gromox {
		x.lastSub++
		s.id = strconv.Itoa(x.lastSub)
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
		return noMailbox()
	case full:
		b.responseError(message, "ErrorExceededSubscriptionCount", exceededText)
		return nil
	}
	c.bind()
	b.success(message)
	b.element(x.idElement("m:"), s.id)
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
	mine := s != nil && c.owns(s)
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

// owns reports whether the caller may use a subscription: whoever made it, or where the server is not Microsoft's, whoever
// acts on its mailbox.
func (c *call) owns(s *subscription) bool {
	return s.owner == c.account && (!c.x.gromox || s.box == c.box)
}

const accessDeniedText = "Access is denied. Only the owner of the subscription may use it."

// getStreamingEvents answers with one envelope after the other until the time of the request is over.
func (c *call) getStreamingEvents() {
	minutes, err := strconv.Atoi(c.body.kid(nsMessages, "ConnectionTimeout").value())
	if err != nil || minutes < 1 || minutes > 30 {
		c.fault(badRequest("The 'ConnectionTimeout' element is invalid: its value is not from 1 to 30."))
		return
	}
	ids := c.body.kid(nsMessages, "SubscriptionIds").children()
	if len(ids) == 0 || len(ids) > maxIDs {
		c.fault(badRequest(fmt.Sprintf("The element 'SubscriptionIds' holds %d ids; 1 to %d are allowed.", len(ids), maxIDs)))
		return
	}
	st, refusal := c.openStream(ids)
	h := c.w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("Cache-Control", "private")
	out := &streamWriter{c: c, st: st}
	if refusal != nil {
		out.send(c.x.streamEnvelope(nil, refusal, "Closed"))
		return
	}
	defer c.x.closeStream(st)
	out.run(time.Duration(minutes) * time.Minute)
}

// openStream attaches the subscriptions to a new stream, and takes them from older ones. It fails as a whole, and the answer
// names those that are wrong; a server that is not Microsoft's names them, and goes on with the others.
func (c *call) openStream(ids []*node) (*stream, *streamError) {
	x := c.x
	st := &stream{conn: connOf(c.r), wake: make(chan struct{}, 1), budget: c.account + " " + c.address()}
	x.mu.Lock()
	defer x.mu.Unlock()
	var unknown, foreign []string
	for _, n := range ids {
		s := x.subs[n.value()]
		switch {
		case s == nil, s.stream == nil && time.Since(s.used) > idleExpiry, x.affine() && s.server != c.server:
			unknown = append(unknown, n.value())
		case !c.owns(s):
			foreign = append(foreign, n.value())
		case !slices.Contains(st.subs, s):
			st.subs = append(st.subs, s)
		}
	}
	if len(foreign) > 0 {
		st.refused = append(st.refused, streamError{"ErrorSubscriptionAccessDenied", accessDeniedText, foreign})
	}
	if len(unknown) > 0 {
		st.refused = append(st.refused, x.unknown(unknown...))
	}
	if len(st.refused) > 0 && !x.gromox {
		return nil, &st.refused[0]
	}
	for _, s := range st.subs {
		if old := s.stream; old != nil && !old.replace {
			old.replace = true
			old.errors = append(old.errors, streamError{"ErrorNewEventStreamConnectionOpened", "A new event stream connection was opened for a subscription of this one.", []string{s.id}})
			x.detach(old)
			old.poke()
		}
	}
	open := 0
	for o := range x.streams {
		if o.budget == st.budget && !o.replace && !o.cut {
			open++
		}
	}
	if open >= x.release.streams {
		return nil, &streamError{"ErrorExceededConnectionCount", "You have exceeded the available concurrent connections for your account. Try again once your other requests have completed.", nil}
	}
	x.streams[st] = struct{}{}
	for _, s := range st.subs {
		s.stream = st
		s.tell()
	}
	return st, nil
}

// detach frees the subscriptions of a stream; x.mu is held.
func (x *exchange) detach(st *stream) {
	for _, s := range st.subs {
		if s.stream == st {
			s.stream = nil
			s.used = time.Now()
		}
	}
	st.dirty = nil
}

func (x *exchange) closeStream(st *stream) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.detach(st)
	delete(x.streams, st)
}

// streamWriter writes the envelopes of one stream, in the goroutine of its request.
type streamWriter struct {
	c     *call
	st    *stream
	begun bool
}

// run writes until the time is over, the client has gone, or nothing is left to hear.
func (o *streamWriter) run(limit time.Duration) {
	x := o.c.x
	over := time.NewTimer(limit)
	defer over.Stop()
	beat := time.NewTimer(x.heartbeat)
	defer beat.Stop()
	wake := o.st.wake
	if x.gromox { // everything waits for the next heartbeat
		wake = nil
	}
	for _, e := range o.st.refused {
		if !o.send(x.streamEnvelope(nil, &e, "OK")) {
			return
		}
	}
	if !o.send(x.streamEnvelope(nil, nil, "OK")) {
		return
	}
	for {
		select {
		case <-wake:
			more, ok := o.drain()
			if !ok {
				return
			}
			if more {
				o.st.poke()
			}
			beat.Reset(x.heartbeat)
		case <-beat.C:
			if x.gromox && !o.drainAll() || !o.send(x.streamEnvelope(nil, nil, "OK")) {
				return
			}
			beat.Reset(x.heartbeat)
		case <-over.C:
			o.send(x.streamEnvelope(nil, nil, "Closed"))
			return
		case <-o.c.r.Context().Done():
			return
		case <-x.closing:
			return
		}
	}
}

// drainAll writes all that is queued; false if the stream is over.
func (o *streamWriter) drainAll() bool {
	for {
		if more, ok := o.drain(); !ok || !more {
			return ok
		}
	}
}

// drain writes one envelope with what is queued; more says that there is still something, ok that the stream goes on.
func (o *streamWriter) drain() (more, ok bool) {
	x, st := o.c.x, o.st
	if len(st.held) > 0 && !o.silenced() && !o.write(nil) {
		return false, false
	}
	if len(st.held) > maxHeld {
		return false, true
	}
	x.mu.Lock()
	if st.cut {
		x.mu.Unlock()
		return false, false
	}
	var failure *streamError
	if len(st.errors) > 0 {
		failure = &st.errors[0]
		st.errors = st.errors[1:]
	}
	var batch []notification
	left := maxEvents
	for len(st.dirty) > 0 && left > 0 && failure == nil {
		s := st.dirty[0]
		if s.missed {
			s.missed = false
			failure = &streamError{"ErrorMissedNotificationEvents", "One or more events of the subscription were missed.", []string{s.id}}
			break
		}
		n := min(left, len(s.queue))
		batch = append(batch, notification{s.id, s.box.guid, slices.Clone(s.queue[:n])})
		left -= n
		if s.queue = s.queue[n:]; len(s.queue) == 0 {
			s.queue = nil
			st.dirty = st.dirty[1:]
		}
	}
	over := st.replace || len(st.subs) == 0 && len(st.errors) == 0 && !x.gromox
	more = len(st.dirty) > 0 || len(st.errors) > 0
	x.mu.Unlock()
	status := ""
	switch {
	case over:
		status = "Closed"
	case failure != nil:
		status = "OK"
	case len(batch) == 0:
		return more, true // woken for its faults
	}
	return more, o.send(x.streamEnvelope(batch, failure, status)) && !over
}

// faultMailbox names the mailbox by which a fault that is set concerns this stream.
func (o *streamWriter) faultOn(name string) (mailbox string, ok bool) {
	x := o.c.x
	if o.st == nil || x.faults.set.Load() == 0 {
		return "", false
	}
	f, ok := x.faults.snapshot()[name]
	if !ok {
		return "", false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return f.Mailbox, o.st.carries(f.Mailbox)
}

func (o *streamWriter) silenced() bool {
	_, ok := o.faultOn(streamSilent)
	return ok
}

// send writes one envelope; false if the stream is over with that.
func (o *streamWriter) send(envelope []byte) bool {
	x := o.c.x
	if !o.begun {
		o.begun = true
		envelope = append([]byte(xmlDeclaration), envelope...)
	}
	if x.onMessage != nil {
		x.onMessage("response", o.c.operation, envelope)
	}
	if o.silenced() {
		o.st.held = append(o.st.held, envelope...)
		return true
	}
	if at, ok := o.faultOn(streamHalf); ok {
		if _, hit := x.faults.hit(streamHalf, at, ""); hit {
			o.write(envelope[:len(envelope)/2])
			cut(o.st.conn, false)
			return false
		}
	}
	return o.write(envelope)
}

// write sends what was held back, then b.
func (o *streamWriter) write(b []byte) bool {
	if o.st != nil && len(o.st.held) > 0 {
		b = append(o.st.held, b...)
		o.st.held = nil
	}
	if _, err := o.c.w.Write(b); err != nil {
		return false
	}
	return http.NewResponseController(o.c.w).Flush() == nil
}

// notification is what a stream tells of one subscription.
type notification struct {
	id     string
	box    guid
	events []event
}

// streamEnvelope writes an answer of GetStreamingEvents, in the form of real servers or of the schema.
func (x *exchange) streamEnvelope(batch []notification, failure *streamError, status string) []byte {
	p := "m:"
	if x.schema {
		p = "t:"
	}
	b := make(markup, 0, 1200+len(batch)*300)
	b.raw(x.open, `<m:GetStreamingEventsResponse xmlns:m="`, nsMessages, `" xmlns:t="`, nsTypes, `"><m:ResponseMessages><m:GetStreamingEventsResponseMessage ResponseClass="`)
	if failure != nil {
		b.raw(`Error"><m:MessageText>`, failure.text, `</m:MessageText><m:ResponseCode>`, failure.code, `</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>`)
	} else {
		b.raw(`Success"><m:ResponseCode>NoError</m:ResponseCode>`)
	}
	if len(batch) > 0 {
		b.raw(`<m:Notifications>`)
		for _, n := range batch {
			b.raw(`<`, p, `Notification>`)
			b.element(x.idElement("t:"), n.id)
			for _, e := range n.events {
				b.event(n.box, e, x.eventTime(e))
			}
			b.raw(`</`, p, `Notification>`)
		}
		b.raw(`</m:Notifications>`)
	} else if failure == nil && x.gromox {
		b.raw(`<m:Notifications/>`)
	}
	if failure != nil && len(failure.ids) > 0 {
		b.raw(`<m:ErrorSubscriptionIds>`)
		for _, id := range failure.ids {
			b.element(x.idElement(p), id)
		}
		b.raw(`</m:ErrorSubscriptionIds>`)
	}
	if status != "" {
		b.raw(`<m:ConnectionStatus>`, status, `</m:ConnectionStatus>`)
	}
	b.raw(`</m:GetStreamingEventsResponseMessage></m:ResponseMessages></m:GetStreamingEventsResponse>`, envelopeEnd)
	return b
}

func (b *markup) event(box guid, e event, at string) {
	name := eventNames[e.kind]
	b.raw(`<t:`, name, `><t:TimeStamp>`, at, `</t:TimeStamp>`)
	if e.ofFolder {
		b.id("FolderId", folderID(box, e.folder), changeKey(box, e.change))
		b.id("ParentFolderId", folderID(box, folderTable[e.folder].parent), changeKey(box, 0))
	} else {
		b.id("ItemId", itemID(box, e.folder, e.item), changeKey(box, e.change))
		b.id("ParentFolderId", folderID(box, e.folder), changeKey(box, 0))
	}
	if e.kind == movedEvent || e.kind == copiedEvent {
		b.id("OldItemId", itemID(box, e.oldFolder, e.oldItem), changeKey(box, e.change))
		b.id("OldParentFolderId", folderID(box, e.oldFolder), changeKey(box, 0))
	}
	if e.ofFolder {
		b.raw(`<t:UnreadCount>`, strconv.Itoa(e.unread), `</t:UnreadCount>`)
	}
	b.raw(`</t:`, name, `>`)
}

func (b *markup) id(name, id, key string) {
	b.raw(`<t:`, name, ` Id="`, id, `" ChangeKey="`, key, `"/>`)
}

// children of a node; none of nil.
func (n *node) children() []*node {
	if n == nil {
		return nil
	}
	return n.kids
}
