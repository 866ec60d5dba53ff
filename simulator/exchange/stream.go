package exchange

// GetStreamingEvents: what a stream sends, and how. Like Exchange, it delivers at most once: an event leaves its queue when it is
// written into an envelope, whether or not the envelope arrives.

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// stream is an open GetStreamingEvents. Its fields are under Host.mu, but for those that only its own handler uses.
type stream struct {
	conn    net.Conn
	budget  string // whose HangingConnectionLimit it counts against
	subs    []*subscription
	dirty   []*subscription // those with events
	errors  []streamError
	refused []streamError // of ids in its request, if it continues with the others
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

func (x *Host) cutStreams(f *faults.Cases, reset bool) {
	x.mu.Lock()
	var conns []net.Conn
	for st := range x.streams {
		if !st.cut && !st.replace && st.carries(f.Mailbox) && f.Met() {
			conns = append(conns, st.conn)
			st.cut = true
			x.detach(st) // events wait for the next stream from here on
		}
	}
	x.mu.Unlock()
	for _, c := range conns {
		faults.Cut(c, reset)
	}
}

// carries reports whether the stream has a subscription of a mailbox, or of any.
func (s *stream) carries(mailbox string) bool {
	return mailbox == "" || slices.ContainsFunc(s.subs, func(o *subscription) bool { return o.box.address == mailbox })
}

// wakeStreams makes every stream check its faults again.
func (x *Host) wakeStreams() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := range x.streams {
		s.poke()
	}
}

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
// names the wrong ones; a server that is not Microsoft's names them, and continues with the others.
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
	if x.gromox { // it makes no difference between them
		unknown, foreign = slices.Concat(foreign, unknown), nil
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
func (x *Host) detach(st *stream) {
	for _, s := range st.subs {
		if s.stream == st {
			s.stream = nil
			s.used = time.Now()
		}
	}
	st.dirty = nil
}

func (x *Host) closeStream(st *stream) {
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

// run writes until the time is over, the client has gone, or the stream has no subscription left.
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
		if !o.send(x.streamEnvelope(nil, &e, "Closed")) { // though it continues
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
			if x.gromox && !o.drainAll() || !o.send(x.streamEnvelope(o.idle(), nil, "OK")) {
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

// idle is what a heartbeat tells: of a gromox, that there is nothing to tell of each subscription.
func (o *streamWriter) idle() []notification {
	x := o.c.x
	if !x.gromox {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []notification
	for _, s := range o.st.subs {
		if s.stream == o.st {
			list = append(list, notification{id: s.id, box: s.box.guid})
		}
	}
	return list
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

// faultOn returns the mailbox for which a fault that is set applies to this stream.
func (o *streamWriter) faultOn(name string) (mailbox string, ok bool) {
	x := o.c.x
	if o.st == nil || x.faults.None() {
		return "", false
	}
	f, ok := x.faults.Get(name)
	if !ok || !f.At(x.name) {
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
		if x.streamed.declared {
			envelope = append([]byte(xmlDeclaration), envelope...)
		}
	}
	if x.onMessage != nil {
		x.onMessage("response", o.c.operation, envelope)
	}
	if o.silenced() {
		o.st.held = append(o.st.held, envelope...)
		return true
	}
	if at, ok := o.faultOn(streamHalf); ok {
		if _, hit := x.faults.Hit(streamHalf, at, ""); hit {
			o.write(envelope[:len(envelope)/2])
			faults.Cut(o.st.conn, false)
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

// notification is the part of an envelope about one subscription.
type notification struct {
	id     string
	box    guid.GUID
	events []event
}

// streamEnvelope writes an answer of GetStreamingEvents, in the form of real servers or of the schema.
func (x *Host) streamEnvelope(batch []notification, failure *streamError, status string) []byte {
	p := "m:"
	if x.schema {
		p = "t:"
	}
	idElement := p + "SubscriptionId"
	if x.gromox {
		idElement = "SubscriptionId"
	}
	b := make(markup, 0, 1200+len(batch)*300)
	b.raw(x.streamed.open, `<m:GetStreamingEventsResponse xmlns:m="`, nsMessages, `" xmlns:t="`, nsTypes, `"><m:ResponseMessages><m:GetStreamingEventsResponseMessage ResponseClass="`)
	if failure != nil {
		b.raw(`Error"><m:MessageText>`, failure.text, `</m:MessageText><m:ResponseCode>`, failure.code, `</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>`)
	} else {
		b.raw(`Success"><m:ResponseCode>NoError</m:ResponseCode>`)
	}
	if len(batch) > 0 {
		b.raw(`<m:Notifications>`)
		for _, n := range batch {
			b.raw(`<`, p, `Notification>`)
			b.element("t:SubscriptionId", n.id)
			if x.gromox {
				b.raw(`<t:MoreEvents>false</t:MoreEvents>`)
			}
			if len(n.events) == 0 {
				b.raw(`<t:StatusEvent/>`)
			}
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
			b.element(idElement, id)
		}
		b.raw(`</m:ErrorSubscriptionIds>`)
	}
	if status != "" {
		b.raw(`<m:ConnectionStatus>`, status, `</m:ConnectionStatus>`)
	}
	b.raw(`</m:GetStreamingEventsResponseMessage></m:ResponseMessages></m:GetStreamingEventsResponse>`, x.streamed.end)
	return b
}

func (b *markup) event(box guid.GUID, e event, at string) {
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
