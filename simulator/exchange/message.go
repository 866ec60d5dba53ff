package exchange

// The properties of an Exchange item from an RFC 5322 message. Like Exchange, it accepts any message that arrived by SMTP: nothing here
// fails, and what cannot be read is left out.

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// Bounds of a message.
const (
	MaxMessage     = 32 << 20 // Exchange's default is 36 MB on the wire
	maxPreview     = 256      // characters; MS-OXWS item:Preview
	maxBodyPart    = 4 << 20  // of a text that is decoded
	maxParts       = 200
	maxPartDepth   = 10
	maxRecipients  = 1000
	maxAttachments = 100
	previewSource  = 4096 // characters of the body that the preview is made from
)

// message is the content of an item. It does not change.
type message struct {
	raw        []byte
	header     []headerField
	subject    string
	from       mail.Address
	sender     mail.Address
	to, cc     []mail.Address
	replyTo    []mail.Address
	sent       time.Time // zero: there is no Date
	internetID string
	inReplyTo  string
	references string
	class      string
	importance string
	sensitive  string
	preview    string
	thread     [16]byte
	attachment bool
}

type headerField struct{ name, value string } // as they came, unfolded

// parseMessage derives the properties of raw, which it keeps.
func parseMessage(raw []byte) *message {
	m := &message{raw: raw, class: "IPM.Note", importance: "Normal", sensitive: "Normal"}
	header, body := splitHeader(raw)
	m.header = header
	for _, h := range header {
		switch strings.ToLower(h.name) {
		case "subject":
			first(&m.subject, decodeHeader(h.value))
		case "from":
			firstAddress(&m.from, h.value)
		case "sender":
			firstAddress(&m.sender, h.value)
		case "to":
			m.to = append(m.to, parseAddresses(h.value)...)
		case "cc":
			m.cc = append(m.cc, parseAddresses(h.value)...)
		case "reply-to":
			m.replyTo = append(m.replyTo, parseAddresses(h.value)...)
		case "date":
			if t, err := mail.ParseDate(h.value); err == nil && m.sent.IsZero() && t.Year() > 1600 && t.Year() < 10000 {
				m.sent = t.UTC()
			}
		case "message-id":
			first(&m.internetID, h.value)
		case "in-reply-to":
			first(&m.inReplyTo, h.value)
		case "references":
			first(&m.references, h.value)
		case "importance":
			switch strings.ToLower(h.value) {
			case "high":
				m.importance = "High"
			case "low":
				m.importance = "Low"
			}
		case "x-priority":
			switch {
			case strings.HasPrefix(h.value, "1"), strings.HasPrefix(h.value, "2"):
				m.importance = "High"
			case strings.HasPrefix(h.value, "4"), strings.HasPrefix(h.value, "5"):
				m.importance = "Low"
			}
		case "sensitivity":
			switch strings.ToLower(h.value) {
			case "personal":
				m.sensitive = "Personal"
			case "private":
				m.sensitive = "Private"
			case "company-confidential":
				m.sensitive = "Confidential"
			}
		}
	}
	if m.sender == (mail.Address{}) {
		m.sender = m.from
	}
	parts := readParts(header, body, previewSource)
	m.class = classOf(header, parts)
	if fieldOf(header, "Sensitivity") == "" { // [MS-OXCICAL] 2.1.3.1.1.20.4
		switch parts.classification {
		case "PRIVATE":
			m.sensitive = "Private"
		case "CONFIDENTIAL":
			m.sensitive = "Confidential"
		}
	}
	m.attachment = parts.attachment
	if !strings.HasPrefix(m.class, "IPM.Note.SMIME") || strings.HasSuffix(m.class, "MultipartSigned") {
		m.preview = preview(parts.plain())
	}
	m.thread = threadOf(m)
	return m
}

func first(to *string, s string) {
	if *to == "" {
		*to = s
	}
}

func firstAddress(to *mail.Address, s string) {
	if list := parseAddresses(s); *to == (mail.Address{}) && len(list) > 0 {
		*to = list[0]
	}
}

// splitHeader cuts a message at the first empty line. Lines that are no field are skipped.
func splitHeader(raw []byte) (fields []headerField, body []byte) {
	rest := raw
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return fields, rest
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(fields) > 0 {
				last := &fields[len(fields)-1]
				last.value = strings.TrimSpace(last.value + " " + string(bytes.TrimSpace(line)))
			}
			continue
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if name = bytes.TrimRight(name, " \t"); !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
			continue
		}
		fields = append(fields, headerField{string(name), string(bytes.TrimSpace(value))})
	}
	return fields, nil
}

func fieldOf(fields []headerField, name string) string {
	for _, h := range fields {
		if strings.EqualFold(h.name, name) {
			return h.value
		}
	}
	return ""
}

// charsetReader decodes a charset by its name on the web, which covers those of mail.
func charsetReader(charset string, input io.Reader) (io.Reader, error) {
	charset, _, _ = strings.Cut(charset, "*") // RFC 2231 section 5: a language may follow
	e, err := htmlindex.Get(charset)
	if err != nil {
		return nil, err
	}
	return e.NewDecoder().Reader(input), nil
}

var encodedWord = regexp.MustCompile(`=\?[^?\s]+\?[bBqQ]\?[^?]*\?=`)

// decodeHeader decodes encoded words (RFC 2047). One that cannot be decoded stays as it is, and what one holds that is not of
// its charset becomes U+FFFD; neither affects the others. A character may be cut in two by words that follow each other.
func decodeHeader(s string) string {
	s = toUTF8(s)
	d := mime.WordDecoder{CharsetReader: charsetReader}
	var b strings.Builder
	last, decoded := 0, false
	for _, at := range encodedWord.FindAllStringIndex(s, -1) {
		word, err := d.Decode(s[at[0]:at[1]])
		if err != nil {
			continue
		}
		if gap := s[last:at[0]]; !decoded || strings.TrimSpace(gap) != "" {
			b.WriteString(gap)
		}
		b.WriteString(word)
		last, decoded = at[1], true
	}
	b.WriteString(s[last:])
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

// toUTF8 takes text that is not UTF-8 as Windows-1252, in which every byte is a character.
func toUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	e, err := htmlindex.Get("windows-1252")
	if err != nil {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	t, err := e.NewDecoder().String(s)
	if err != nil {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return t
}

func parseAddresses(s string) []mail.Address {
	s = toUTF8(s)
	p := mail.AddressParser{WordDecoder: &mime.WordDecoder{CharsetReader: charsetReader}}
	if list, err := p.ParseList(s); err == nil {
		out := make([]mail.Address, 0, min(len(list), maxRecipients))
		for _, a := range list[:min(len(list), maxRecipients)] {
			// Many programs put quotes around encoded words, and every reader decodes them.
			out = append(out, mail.Address{Name: decodeHeader(strings.ToValidUTF8(a.Name, "\uFFFD")), Address: toUTF8(a.Address)})
		}
		return out
	}
	// Not an address list: what stands in angle brackets is the address, what stands before it the name.
	name, rest, ok := strings.Cut(s, "<")
	address, _, closed := strings.Cut(rest, ">")
	if ok && closed {
		return []mail.Address{{Name: strings.Trim(decodeHeader(name), ` "`), Address: toUTF8(strings.TrimSpace(address))}}
	}
	if s = strings.TrimSpace(decodeHeader(s)); s != "" {
		return []mail.Address{{Name: s}}
	}
	return nil
}

// parts is what a walk over a message's MIME tree found.
type parts struct {
	limit          int // bytes of each text
	count          int
	text, html     *string
	calendar       string // method=… of a text/calendar part, in capitals
	partstat       string // of a calendar reply
	classification string // CLASS of a calendar event, in capitals
	described      string // DESCRIPTION of a calendar event
	status         string // Action: of a delivery report
	attachment     bool
	attachments    []attachment
	listed         bool // attachments are wanted: their sizes cost their decoding
}

// attachment is a part of a message that is no text of its body.
type attachment struct {
	name, media, contentID string
	size                   int64
	inline                 bool
	message                bool // a whole message of its own
}

func readParts(header []headerField, body []byte, limit int) *parts {
	p := &parts{limit: limit}
	p.read(header, body)
	return p
}

func (p *parts) read(header []headerField, body []byte) {
	h := textproto.MIMEHeader{}
	for _, name := range []string{"Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-Id"} {
		h.Set(name, fieldOf(header, name))
	}
	p.walk(h, bytes.NewReader(body), 0)
}

func (p *parts) walk(h textproto.MIMEHeader, body io.Reader, depth int) {
	if p.count++; p.count > maxParts || depth > maxPartDepth {
		return
	}
	encoding := h.Get("Content-Transfer-Encoding")
	media, params := mediaType(h.Get("Content-Type"))
	kind, dispositionParams, _ := mime.ParseMediaType(h.Get("Content-Disposition"))
	if boundary := params["boundary"]; strings.HasPrefix(media, "multipart/") && boundary != "" {
		r := multipart.NewReader(body, boundary)
		for p.count <= maxParts {
			part, err := r.NextRawPart()
			if err != nil {
				return
			}
			p.walk(textproto.MIMEHeader(part.Header), part, depth+1)
		}
		return
	}
	inner := media == "message/rfc822"
	if kind == "attachment" || dispositionParams["filename"] != "" || kind != "inline" && (params["name"] != "" || inner) {
		p.attachment = true
	}
	contentID := strings.Trim(strings.TrimSpace(h.Get("Content-Id")), "<>")
	attached := kind == "attachment" || dispositionParams["filename"] != "" || params["name"] != "" || inner ||
		contentID != "" && !strings.HasPrefix(media, "text/")
	if p.listed && attached && len(p.attachments) < maxAttachments {
		size, _ := io.Copy(io.Discard, transferDecoder(encoding, body)) // a part that is cut off has the size of what came
		p.attachments = append(p.attachments, attachment{
			name:  attachmentName(dispositionParams["filename"], params["name"], len(p.attachments)+1),
			media: media, contentID: contentID, size: size, message: inner,
			inline: kind == "inline" || kind != "attachment" && contentID != "",
		})
		return
	}
	if p.listed {
		return
	}
	read := func(limit int) string {
		b, _ := io.ReadAll(io.LimitReader(transferDecoder(encoding, body), int64(limit)))
		if charset := params["charset"]; charset != "" {
			if r, err := charsetReader(charset, bytes.NewReader(b)); err == nil {
				if t, err := io.ReadAll(r); err == nil {
					return strings.ToValidUTF8(string(t), "\uFFFD")
				}
			}
		}
		return toUTF8(trimRune(b))
	}
	switch {
	case kind == "attachment":
	case media == "text/plain" && p.text == nil:
		s := read(p.limit)
		p.text = &s
	case media == "text/html" && p.html == nil:
		s := read(max(p.limit, 64<<10)) // much of the beginning is style
		p.html = &s
	case media == "text/calendar" && p.calendar == "":
		s := read(64 << 10)
		p.described = description(s)
		s = strings.ToUpper(s)
		p.classification = lineValue(s, "CLASS:")
		if p.calendar = strings.ToUpper(params["method"]); p.calendar == "" {
			p.calendar = lineValue(s, "METHOD:")
		}
		if _, after, ok := strings.Cut(s, "PARTSTAT="); ok {
			p.partstat, _, _ = strings.Cut(after, ";")
			p.partstat, _, _ = strings.Cut(p.partstat, ":")
		}
	case media == "message/delivery-status":
		p.status = strings.ToLower(lineValue(strings.ToUpper(read(64<<10)), "ACTION:"))
	}
}

// attachmentName is the first name that there is, or one that Exchange makes up.
func attachmentName(filename, name string, n int) string {
	for _, s := range []string{filename, name} {
		if s = strings.TrimSpace(decodeHeader(s)); s != "" {
			return s
		}
	}
	return fmt.Sprintf("ATT%05d", n)
}

// mediaType reads a Content-Type. One whose parameters are broken still says what kind it is; a broken kind is plain text.
func mediaType(s string) (string, map[string]string) {
	media, params, err := mime.ParseMediaType(s)
	if err == nil {
		return media, params
	}
	media, _, _ = strings.Cut(s, ";")
	if media = strings.ToLower(strings.TrimSpace(media)); !strings.Contains(media, "/") {
		media = "text/plain"
	}
	return media, params
}

// trimRune drops a UTF-8 character that a limit cut off.
func trimRune(b []byte) string {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				b = b[:len(b)-i]
			}
			break
		}
	}
	return string(b)
}

// description is that of a calendar event: the body of a message that has no other ([MS-OXCICAL] 2.1.3.1.1.20.11).
func description(s string) string {
	s, _, _ = strings.Cut(s, "BEGIN:VALARM") // which describes itself
	s = icalFold.ReplaceAllString(s, "")
	if m := icalDescription.FindStringSubmatch(s); m != nil {
		return icalEscapes.Replace(m[1])
	}
	return ""
}

var (
	icalFold        = regexp.MustCompile(`\r?\n[ \t]`)
	icalDescription = regexp.MustCompile(`(?im)^DESCRIPTION(?:;(?:"[^"\r\n]*"|[^":\r\n])*)?:([^\r\n]*)`)
	icalEscapes     = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\N`, "\n", `\,`, ",", `\;`, ";")
)

func lineValue(s, name string) string {
	for line := range strings.Lines(s) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func transferDecoder(encoding string, r io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}

var (
	tags   = regexp.MustCompile(`(?is)<(style|script|head)\b.*?</(style|script|head)\s*>|<!--.*?-->|<[^>]*>`)
	breaks = regexp.MustCompile(`(?i)<(br|/p|/div|/tr|/li|/h[1-6]|/t[dh])\b[^>]*>`)
)

// plain is the text of the message; of HTML, what is left without its tags.
func (p *parts) plain() string {
	switch {
	case p.text != nil:
		return *p.text
	case p.html != nil:
		return html.UnescapeString(tags.ReplaceAllString(breaks.ReplaceAllString(*p.html, "\n$0"), ""))
	}
	return p.described
}

// markup is the body as HTML.
func (p *parts) markup() string {
	if p.html != nil {
		return *p.html
	}
	return "<html><head>\r\n<meta http-equiv=\"Content-Type\" content=\"text/html; charset=utf-8\"></head><body><pre>" +
		html.EscapeString(p.plain()) + "</pre></body></html>"
}

// files lists the attachments of the message, with their sizes.
func (m *message) files() []attachment {
	header, body := splitHeader(m.raw)
	p := &parts{listed: true}
	p.read(header, body)
	return p.attachments
}

// body decodes the texts of the message. They are not kept, because they are rarely needed.
func (m *message) body() *parts {
	header, body := splitHeader(m.raw)
	return readParts(header, body, maxBodyPart)
}

func preview(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	n := 0
	for i := range s {
		if n++; n > maxPreview {
			return s[:i]
		}
	}
	return s
}

// classOf is the item class that Exchange would give the message ([MS-OXCMAIL] 2.2.3).
func classOf(header []headerField, p *parts) string {
	media, params := mediaType(fieldOf(header, "Content-Type"))
	switch {
	case media == "application/pkcs7-mime" || media == "application/x-pkcs7-mime":
		return "IPM.Note.SMIME"
	case media == "multipart/signed":
		return "IPM.Note.SMIME.MultipartSigned"
	case media == "multipart/report" && strings.EqualFold(params["report-type"], "disposition-notification"):
		return "REPORT.IPM.Note.IPNRN"
	case media == "multipart/report":
		switch p.status {
		case "delivered", "relayed", "expanded":
			return "REPORT.IPM.Note.DR"
		case "delayed":
			return "REPORT.IPM.Note.Delayed"
		}
		return "REPORT.IPM.Note.NDR"
	}
	switch p.calendar {
	case "REQUEST":
		return "IPM.Schedule.Meeting.Request"
	case "CANCEL":
		return "IPM.Schedule.Meeting.Canceled"
	case "COUNTER":
		return "IPM.Schedule.Meeting.Resp.Tent"
	case "REPLY":
		switch p.partstat {
		case "DECLINED":
			return "IPM.Schedule.Meeting.Resp.Neg"
		case "TENTATIVE":
			return "IPM.Schedule.Meeting.Resp.Tent"
		}
		return "IPM.Schedule.Meeting.Resp.Pos"
	}
	return "IPM.Note"
}

var replyPrefix = regexp.MustCompile(`(?i)^\s*((re|fwd?|aw|wg)\s*:\s*)+`)

// topic is the subject without the marks of replies.
func (m *message) topic() string { return replyPrefix.ReplaceAllString(m.subject, "") }

// threadOf names the conversation: by the first message id of the thread, or by the topic.
func threadOf(m *message) (id [16]byte) {
	root := m.internetID
	if ids := strings.Fields(m.references + " " + m.inReplyTo); len(ids) > 0 {
		root = ids[0]
	} else if root == "" {
		root = m.topic()
	}
	sum := sha256.Sum256([]byte(root))
	copy(id[:], sum[:])
	return id
}
