package exchange

// GetItem: which properties are asked for, and how an item is written in the order of the schema.

import (
	"encoding/base64"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of item requests.
const (
	maxFind       = 1000 // EWSFindCountLimit
	maxFiltered   = 250  // that of a listing with a restriction, since Exchange 2013
	maxItems      = 1000 // ids of a GetItem request
	findSubject   = 255  // characters of a subject in a listing
	maxRequestURI = 1000 // properties of a shape; the schema knows some 500
)

// view is an item as one request sees it.
type view struct {
	c     *call
	box   *mailbox
	it    *item
	shape *shape
	find  bool
	body  *parts // decoded at most once
}

func (v *view) parts() *parts {
	if v.body == nil {
		v.body = v.it.msg.body()
	}
	return v.body
}

// property is one that can be asked for. Those of FindItem are fewer: bodies, recipients and headers come from GetItem only.
type property struct {
	uri   string
	write func(b *markup, v *view)
	find  bool
	basic bool // in the base shape Default
}

// properties are in the order of ItemType and MessageType in the schema.
var properties = []property{
	{uri: "item:MimeContent", write: func(b *markup, v *view) {
		b.raw(`<t:MimeContent CharacterSet="UTF-8">`, base64.StdEncoding.EncodeToString(v.it.msg.raw), `</t:MimeContent>`)
	}},
	{uri: "item:ItemId", find: true, basic: true}, // always there, see writeItem
	{uri: "item:ParentFolderId", find: true, write: func(b *markup, v *view) {
		b.id("ParentFolderId", folderID(v.box.guid, v.it.folder), changeKey(v.box.guid, 0))
	}},
	{uri: "item:ItemClass", find: true, write: func(b *markup, v *view) { b.element("t:ItemClass", v.it.msg.class) }},
	{uri: "item:Subject", find: true, basic: true, write: writeSubject},
	{uri: "item:Sensitivity", find: true, basic: true, write: func(b *markup, v *view) { b.element("t:Sensitivity", v.it.msg.sensitive) }},
	{uri: "item:Body", basic: true, write: writeBody("Body")},
	{uri: "item:Attachments", basic: true, write: writeAttachments},
	{uri: "item:DateTimeReceived", find: true, write: writeReceived},
	{uri: "item:Size", find: true, basic: true, write: func(b *markup, v *view) { b.element("t:Size", strconv.Itoa(len(v.it.msg.raw))) }},
	{uri: "item:Importance", find: true, write: func(b *markup, v *view) { b.element("t:Importance", v.it.msg.importance) }},
	{uri: "item:InReplyTo", find: true, write: optional("InReplyTo", func(m *message) string { return m.inReplyTo })},
	{uri: "item:IsSubmitted", find: true, write: constant("IsSubmitted", "false")},
	{uri: "item:IsDraft", find: true, write: constant("IsDraft", "false")},
	{uri: "item:IsFromMe", find: true, write: constant("IsFromMe", "false")},
	{uri: "item:IsResend", find: true, write: constant("IsResend", "false")},
	{uri: "item:IsUnmodified", find: true, write: constant("IsUnmodified", "true")},
	{uri: "item:InternetMessageHeaders", write: writeHeaders},
	{uri: "item:DateTimeSent", find: true, basic: true, write: func(b *markup, v *view) { b.element("t:DateTimeSent", v.c.sentTime(v.it)) }},
	{uri: "item:DateTimeCreated", find: true, basic: true, write: func(b *markup, v *view) { b.element("t:DateTimeCreated", v.c.x.wire(v.it.created)) }},
	{uri: "item:DisplayCc", find: true, write: func(b *markup, v *view) { b.element("t:DisplayCc", displayNames(v.it.msg.cc)) }},
	{uri: "item:DisplayTo", find: true, write: func(b *markup, v *view) { b.element("t:DisplayTo", displayNames(v.it.msg.to)) }},
	{uri: "item:HasAttachments", find: true, basic: true, write: func(b *markup, v *view) {
		b.element("t:HasAttachments", strconv.FormatBool(v.it.msg.attachment))
	}},
	{uri: "item:Culture", find: true, write: constant("Culture", "en-US")},
	{uri: "item:EffectiveRights", find: true, write: func(b *markup, _ *view) { b.raw(effectiveRights) }},
	{uri: "item:LastModifiedName", find: true, write: constant("LastModifiedName", "Microsoft Exchange")},
	{uri: "item:LastModifiedTime", find: true, write: func(b *markup, v *view) { b.element("t:LastModifiedTime", v.c.x.wire(v.it.created)) }},
	{uri: "item:IsAssociated", find: true, write: constant("IsAssociated", "false")},
	{uri: "item:ConversationId", find: true, write: func(b *markup, v *view) {
		id := append([]byte{0, 3, 36, 0}, v.box.guid.String()...)
		id = append(append(id, 16, 0), v.it.msg.thread[:]...)
		b.raw(`<t:ConversationId Id="`, base64.StdEncoding.EncodeToString(id), `"/>`)
	}},
	{uri: "item:UniqueBody", write: writeBody("UniqueBody")},
	{uri: "item:Flag", find: true, write: func(b *markup, _ *view) { b.raw(`<t:Flag><t:FlagStatus>NotFlagged</t:FlagStatus></t:Flag>`) }},
	{uri: "item:InstanceKey", find: true, write: func(b *markup, v *view) {
		b.element("t:InstanceKey", base64.StdEncoding.EncodeToString(appendCounter(nil, v.it.number)))
	}},
	{uri: "item:Preview", find: true, write: optional("Preview", func(m *message) string { return m.preview })},
	{uri: "item:TextBody", write: func(b *markup, v *view) {
		b.raw(`<t:TextBody BodyType="Text" IsTruncated="false">`)
		b.text(v.parts().plain())
		b.raw(`</t:TextBody>`)
	}},
	{uri: "item:InferenceClassification", find: true, write: constant("InferenceClassification", "Focused")},
	{uri: "message:Sender", find: true, write: func(b *markup, v *view) { v.single(b, "Sender", v.it.msg.sender) }},
	{uri: "message:ToRecipients", basic: true, write: func(b *markup, v *view) { v.recipients(b, "ToRecipients", v.it.msg.to) }},
	{uri: "message:CcRecipients", basic: true, write: func(b *markup, v *view) { v.recipients(b, "CcRecipients", v.it.msg.cc) }},
	{uri: "message:IsReadReceiptRequested", find: true, basic: true, write: constant("IsReadReceiptRequested", "false")},
	{uri: "message:IsDeliveryReceiptRequested", find: true, basic: true, write: constant("IsDeliveryReceiptRequested", "false")},
	{uri: "message:ConversationIndex", find: true, write: func(b *markup, v *view) {
		index := append([]byte{1, 0, 0, 0, 0, 0}, v.it.msg.thread[:]...)
		b.element("t:ConversationIndex", base64.StdEncoding.EncodeToString(index))
	}},
	{uri: "message:ConversationTopic", find: true, write: func(b *markup, v *view) { b.element("t:ConversationTopic", v.it.msg.topic()) }},
	{uri: "message:From", find: true, basic: true, write: func(b *markup, v *view) { v.single(b, "From", v.it.msg.from) }},
	{uri: "message:InternetMessageId", find: true, write: optional("InternetMessageId", func(m *message) string { return m.internetID })},
	{uri: "message:IsRead", find: true, basic: true, write: func(b *markup, v *view) { b.element("t:IsRead", strconv.FormatBool(v.it.read)) }},
	{uri: "message:IsResponseRequested", find: true, write: constant("IsResponseRequested", "false")},
	{uri: "message:References", find: true, write: optional("References", func(m *message) string { return m.references })},
	{uri: "message:ReplyTo", write: func(b *markup, v *view) { v.recipients(b, "ReplyTo", v.it.msg.replyTo) }},
	{uri: "message:ReceivedBy", find: true, write: func(b *markup, v *view) { v.single(b, "ReceivedBy", mail.Address{Address: v.c.address()}) }},
	{uri: "message:ReceivedRepresenting", find: true, write: func(b *markup, v *view) {
		v.single(b, "ReceivedRepresenting", mail.Address{Address: v.c.address()})
	}},
}

const effectiveRights = `<t:EffectiveRights><t:CreateAssociated>true</t:CreateAssociated><t:CreateContents>true</t:CreateContents>` +
	`<t:CreateHierarchy>true</t:CreateHierarchy><t:Delete>true</t:Delete><t:Modify>true</t:Modify><t:Read>true</t:Read>` +
	`<t:ViewPrivateItems>true</t:ViewPrivateItems></t:EffectiveRights>`

func constant(name, value string) func(*markup, *view) {
	return func(b *markup, _ *view) { b.element("t:"+name, value) }
}

func optional(name string, of func(*message) string) func(*markup, *view) {
	return func(b *markup, v *view) {
		if s := of(v.it.msg); s != "" {
			b.element("t:"+name, s)
		}
	}
}

// sent is the Date of the message, or else when it came in.
func (it *item) sent() time.Time {
	if it.msg.sent.IsZero() {
		return it.created
	}
	return it.msg.sent
}

func writeSubject(b *markup, v *view) {
	s := v.it.msg.subject
	if v.find {
		s = firstRunes(s, findSubject)
	}
	if _, ok := v.c.x.faults.Hit(answerControlChars, v.c.address(), ""); ok {
		b.raw(`<t:Subject>&#x1F;&#x0;`)
		b.text(s)
		b.raw("\x01\x0b&#xFFFE;</t:Subject>")
		return
	}
	if _, ok := v.c.x.faults.Hit(answerUnescaped, v.c.address(), ""); ok {
		b.raw(`<t:Subject>Tom & Jerry, 1 < 2, &nbsp; `)
		b.text(s)
		b.raw(`</t:Subject>`)
		return
	}
	b.element("t:Subject", s)
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

func writeReceived(b *markup, v *view) {
	t := v.it.received
	if !v.find {
		if _, ok := v.c.x.faults.On(receivedAsSent, v.c.address(), ""); ok {
			t = v.it.sent()
		}
	}
	b.element("t:DateTimeReceived", v.c.receivedTime(t))
}

func writeBody(name string) func(*markup, *view) {
	return func(b *markup, v *view) {
		kind, s := "Text", v.parts().plain()
		if v.shape.bodyType == "HTML" || v.shape.bodyType != "Text" && v.parts().html != nil {
			kind, s = "HTML", v.parts().markup()
		}
		b.raw(`<t:`, name, ` BodyType="`, kind, `" IsTruncated="false">`)
		b.text(s)
		b.raw(`</t:`, name, `>`)
	}
}

// writeAttachments lists them. What is in them is in item:MimeContent only: there is no GetAttachment.
func writeAttachments(b *markup, v *view) {
	list := v.it.msg.files()
	if len(list) == 0 {
		return
	}
	b.raw(`<t:Attachments>`)
	for i, a := range list {
		element := "FileAttachment"
		if a.message {
			element = "ItemAttachment"
		}
		b.raw(`<t:`, element, `><t:AttachmentId Id="`, attachmentID(v.box.itemID(v.it), i+1), `"/>`)
		b.element("t:Name", a.name)
		b.element("t:ContentType", a.media)
		if a.contentID != "" {
			b.element("t:ContentId", a.contentID)
		}
		b.element("t:Size", strconv.FormatInt(a.size, 10))
		b.element("t:LastModifiedTime", v.c.x.wire(v.it.created))
		b.element("t:IsInline", strconv.FormatBool(a.inline))
		if !a.message {
			b.raw(`<t:IsContactPhoto>false</t:IsContactPhoto>`)
		}
		b.raw(`</t:`, element, `>`)
	}
	b.raw(`</t:Attachments>`)
}

func writeHeaders(b *markup, v *view) {
	if len(v.it.msg.header) == 0 {
		return
	}
	b.raw(`<t:InternetMessageHeaders>`)
	for _, h := range v.it.msg.header {
		b.raw(`<t:InternetMessageHeader HeaderName="`)
		b.text(toUTF8(h.name))
		b.raw(`">`)
		b.text(toUTF8(h.value))
		b.raw(`</t:InternetMessageHeader>`)
	}
	b.raw(`</t:InternetMessageHeaders>`)
}

func displayNames(list []mail.Address) string {
	names := make([]string, 0, len(list))
	for _, a := range list {
		names = append(names, nameOf(a))
	}
	return strings.Join(names, "; ")
}

func nameOf(a mail.Address) string {
	if a.Name == "" {
		return a.Address
	}
	return a.Name
}

// person writes a mailbox. In a listing a sender of this organisation has its legacy DN for an address, as with Exchange;
// GetItem resolves it.
func (v *view) person(b *markup, a mail.Address) {
	b.raw(`<t:Mailbox>`)
	if n := nameOf(a); n != "" {
		b.element("t:Name", n)
	}
	if a.Address != "" {
		routing, address := "SMTP", a.Address
		if local, domain, _ := strings.Cut(normal(a.Address), "@"); v.find && domain == Domain {
			routing, address = "EX", legacyDN(local)
		}
		b.element("t:EmailAddress", address)
		b.element("t:RoutingType", routing)
		b.raw(`<t:MailboxType>Mailbox</t:MailboxType>`)
	}
	b.raw(`</t:Mailbox>`)
}

func legacyDN(local string) string {
	return "/O=FIRST ORGANIZATION/OU=EXCHANGE ADMINISTRATIVE GROUP (FYDIBOHF23SPDLT)/CN=RECIPIENTS/CN=" + strings.ToUpper(local)
}

func (v *view) single(b *markup, name string, a mail.Address) {
	if a == (mail.Address{}) {
		return
	}
	b.raw(`<t:`, name, `>`)
	v.person(b, a)
	b.raw(`</t:`, name, `>`)
}

func (v *view) recipients(b *markup, name string, list []mail.Address) {
	if len(list) == 0 {
		return
	}
	b.raw(`<t:`, name, `>`)
	for _, a := range list {
		v.person(b, a)
	}
	b.raw(`</t:`, name, `>`)
}

// shape is which properties a request wants.
type shape struct {
	want     []bool // by the index of properties
	bodyType string
}

var fieldURI = regexp.MustCompile(`^(folder|item|message|meeting|meetingRequest|calendar|task|contacts|distributionlist|postitem|conversation|persona|role|abchperson|action):[A-Z][A-Za-z0-9]*$`)

// parseShape reads an ItemShape. A property that this server does not have is left out of the answer, as Exchange does with
// one that the item does not have.
func (r release) parseShape(n *node, find bool) (*shape, *soapFault) {
	s := &shape{want: make([]bool, len(properties)), bodyType: n.at("BodyType").value()}
	base := n.at("BaseShape").value()
	for i, p := range properties {
		switch base {
		case "IdOnly":
		case "Default":
			s.want[i] = p.basic && (p.find || !find)
		case "AllProperties":
			s.want[i] = p.uri != "item:MimeContent" && (p.find || !find) && r.knows(p.uri)
		default:
			return nil, badRequest(fmt.Sprintf("The 'BaseShape' element is invalid: the value '%s' is not in the enumeration.", base))
		}
	}
	if !find && (n.at("IncludeMimeContent").value() == "true" || n.at("IncludeMimeContent").value() == "1") {
		s.want[0] = true
	}
	more := n.at("AdditionalProperties").children()
	if len(more) > maxRequestURI {
		return nil, badRequest("The element 'AdditionalProperties' has too many children.")
	}
	for _, k := range more {
		if k.name != "FieldURI" {
			continue // extended and indexed properties: no item here has one
		}
		uri := k.attr("FieldURI")
		if !fieldURI.MatchString(uri) {
			return nil, badRequest(fmt.Sprintf("The 'FieldURI' attribute is invalid: the value '%s' is not in the enumeration.", uri))
		}
		if !r.knows(uri) {
			return nil, unknownProperty(uri)
		}
		i := slices.IndexFunc(properties, func(p property) bool { return p.uri == uri })
		if i < 0 {
			continue
		}
		s.want[i] = properties[i].find || !find
	}
	return s, nil
}

// elementOf is the schema's type for an item class.
func elementOf(class string) string {
	switch {
	case class == "IPM.Schedule.Meeting.Request":
		return "MeetingRequest"
	case class == "IPM.Schedule.Meeting.Canceled":
		return "MeetingCancellation"
	case strings.HasPrefix(class, "IPM.Schedule.Meeting.Resp."):
		return "MeetingResponse"
	}
	return "Message"
}

func (v *view) write(b *markup) {
	name := elementOf(v.it.msg.class)
	b.raw(`<t:`, name, `>`)
	for i, p := range properties {
		switch {
		case p.uri == "item:ItemId":
			b.id("ItemId", v.box.itemID(v.it), changeKey(v.box.guid, v.it.change))
		case v.shape.want[i]:
			p.write(b, v)
		}
	}
	b.raw(`</t:`, name, `>`)
}

func (c *call) getItem(b *markup) *soapFault {
	const message = "GetItemResponseMessage"
	shape, fault := c.x.release.parseShape(c.body.kid(nsMessages, "ItemShape"), false)
	if fault != nil {
		return fault
	}
	ids := c.body.kid(nsMessages, "ItemIds").children()
	if len(ids) == 0 || len(ids) > maxItems {
		return badRequest(fmt.Sprintf("The element 'ItemIds' holds %d ids; 1 to %d are allowed.", len(ids), maxItems))
	}
	for _, n := range ids {
		it, code, text := c.item(n)
		if code == "" {
			if f, ok := c.x.faults.Hit(itemUnreadable, c.address(), ""); ok {
				if code, text = f.Reason, "The item could not be read."; code == "" {
					code = "ErrorItemCorrupt"
				}
			}
		}
		if code != "" {
			b.responseError(message, code, text)
			continue
		}
		b.success(message)
		b.raw(`<m:Items>`)
		v := view{c: c, box: c.box, it: it, shape: shape}
		v.write(b)
		b.raw(`</m:Items></m:`, message, `>`)
	}
	return nil
}

// item finds the item of an ItemId element; code is the error's, if there is one.
func (c *call) item(n *node) (it *item, code, text string) {
	if n.name != "ItemId" {
		return nil, "ErrorInvalidIdMalformed", "Only item ids are served here."
	}
	box, number, ok := parseItemID(n.attr("Id"))
	if !ok {
		return nil, "ErrorInvalidIdMalformed", "Id is malformed."
	}
	if c.box == nil {
		return nil, "ErrorAccessDenied", "Access is denied. Check credentials and try again."
	}
	if box == c.box.guid {
		c.x.mu.Lock()
		it = c.box.items[number]
		c.x.mu.Unlock()
	}
	if it == nil {
		return nil, "ErrorItemNotFound", "The specified object was not found in the store., The process failed to get the correct properties."
	}
	return it, "", ""
}
