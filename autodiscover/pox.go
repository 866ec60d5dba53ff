package autodiscover

// One question of POX Autodiscover and its answer (MS-OXDSCLI, "POX Autodiscover response for Exchange").

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/beevik/etree"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// askTimeout bounds one question: the server asks its directory, which may take seconds after it started.
	askTimeout = 20 * time.Second
	maxAnswer  = 1 << 20 // bytes; a real answer has up to 30 KiB
	maxDepth   = 32      // of elements; a real answer nests 7
	maxWords   = 200     // bytes of a server's own words in an error

	requestSchema  = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
	responseSchema = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
)

// answer is what a POX answer says: settings, or where else to ask.
type answer struct {
	ewsURL       string
	group        string // GroupingInformation
	primary      string // AutoDiscoverSMTPAddress
	redirectAddr string // normalised
	redirectURL  string
}

// ask posts the question for address to u, with credentials; u must be allowed.
func (s *search) ask(ctx context.Context, u, address string) (answer, *fault.Error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := question(address)
	if err != nil {
		return answer{}, &fault.Error{Op: op, Code: CodeAddress, Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		return answer{}, &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, Text: "a URL that is not valid was named"}
	}
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	req.Header.Set("X-AnchorMailbox", address)
	req.Header.Set("User-Agent", s.o.UserAgent)
	resp, err := s.o.HTTP.RoundTrip(req)
	if err != nil {
		return answer{}, proxy.Explain(op, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case redirects(code):
		to, err := resp.Location()
		if err != nil {
			return answer{}, status(code, fault.Server, fault.Wait)
		}
		return answer{redirectURL: to.String()}, nil
	case code == http.StatusUnauthorized:
		return answer{}, status(code, fault.Account, fault.Fix)
	case code == http.StatusForbidden:
		return answer{}, status(code, fault.Account, fault.Fix)
	case code >= 500, code == http.StatusTooManyRequests:
		return answer{}, status(code, fault.Server, fault.Wait)
	default:
		return answer{}, &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait, Text: fmt.Sprintf("HTTP %d", code)}
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, proxy.Explain(op, err)
	}
	return parse(doc)
}

// status types an answer by its HTTP status.
func status(code int, scope fault.Scope, remedy fault.Remedy) *fault.Error {
	return &fault.Error{Op: op, Code: fmt.Sprintf("HTTP %d", code), Scope: scope, Remedy: remedy, Text: http.StatusText(code)}
}

func redirects(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// plainRedirect asks at u, over http and without credentials, for nothing but a redirect: where it leads is a candidate.
func (s *search) plainRedirect(ctx context.Context, u string) []string {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	// Whatever goes wrong here says little: few domains have this candidate.
	fail := &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		s.failed(u, fail)
		return nil
	}
	req.Header.Set("User-Agent", s.o.UserAgent)
	resp, err := s.o.Plain.RoundTrip(req)
	if err != nil {
		s.failed(u, fail)
		return nil
	}
	resp.Body.Close()
	to, err := resp.Location()
	if !redirects(resp.StatusCode) || err != nil {
		s.failed(u, fail)
		return nil
	}
	if err := s.hop(); err != nil {
		s.failed(u, err)
		return nil
	}
	return []string{to.String()}
}

// question is the request for the settings of an address.
func question(address string) ([]byte, error) {
	doc := etree.NewDocument()
	doc.CreateProcInst("xml", `version="1.0" encoding="utf-8"`)
	root := doc.CreateElement("Autodiscover")
	root.CreateAttr("xmlns", requestSchema)
	request := root.CreateElement("Request")
	request.CreateElement("EMailAddress").SetText(address)
	request.CreateElement("AcceptableResponseSchema").SetText(responseSchema)
	return doc.WriteToBytes()
}

// parse reads a POX answer, by local names: servers disagree on the namespace of errors.
func parse(b []byte) (answer, *fault.Error) {
	root, err := document(b)
	if err != nil {
		code := CodeUnread
		if !bytes.Contains(b, []byte("Autodiscover")) {
			code = codeNotAuto // a web site
		}
		return answer{}, &fault.Error{Op: op, Code: code, Scope: fault.Server, Remedy: fault.Wait, Text: "the answer cannot be understood", Err: err}
	}
	if root.Tag != "Autodiscover" {
		return answer{}, &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait, Text: "the answer is something else"}
	}
	response := child(root, "Response")
	account := child(response, "Account")
	for _, e := range []*etree.Element{child(response, "Error"), child(account, "Error"), child(root, "Error")} {
		if e != nil {
			return answer{}, told(e)
		}
	}
	switch action := text(account, "Action"); {
	case strings.EqualFold(action, "redirectAddr"):
		address, err := mail.ParseAddress(text(account, "RedirectAddr"))
		if err != nil {
			return answer{}, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait, Text: "it redirects to something that is not a mail address", Err: err}
		}
		return answer{redirectAddr: address}, nil
	case strings.EqualFold(action, "redirectUrl"):
		return answer{redirectURL: text(account, "RedirectUrl")}, nil
	case !strings.EqualFold(action, "settings"):
		return answer{}, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait, Text: "it asks for an unknown action"}
	}
	a := answer{primary: text(child(response, "User"), "AutoDiscoverSMTPAddress")}
	// EXPR is for clients outside the site, EXCH for those inside, WEB for browsers.
	protocols := map[string]*etree.Element{}
	for _, p := range children(account, "Protocol") {
		if t := strings.ToUpper(text(p, "Type")); protocols[t] == nil {
			protocols[t] = p
		}
	}
	web := protocols["WEB"]
	for _, p := range []*etree.Element{protocols["EXPR"], protocols["EXCH"]} {
		a.ewsURL = cmp.Or(a.ewsURL, text(p, "EwsUrl"))
		a.group = cmp.Or(a.group, text(p, "GroupingInformation"))
	}
	for _, p := range []*etree.Element{web, child(child(web, "External"), "Protocol"), child(child(web, "Internal"), "Protocol")} {
		a.ewsURL = cmp.Or(a.ewsURL, cmp.Or(text(p, "EwsUrl"), text(p, "ASUrl")))
	}
	return a, nil
}

// told types an Error element by its ErrorCode (MS-OXDSCLI section 2.2.4.1.1.3.2).
func told(e *etree.Element) *fault.Error {
	code := text(e, "ErrorCode")
	f := &fault.Error{Op: op, Code: "ErrorCode " + printable(code), Scope: fault.Server, Remedy: fault.Wait}
	switch code {
	case "500", "InvalidUser", "InvalidDomain":
		f.Scope, f.Remedy, f.Text = fault.Mailbox, fault.Fix, "the server knows no mailbox with this address"
	case "501", "602":
		f.Scope, f.Remedy, f.Text = fault.Mailbox, fault.Fix, "the server knows the address, and has no settings for it"
	case "600", "601":
		f.Remedy, f.Text = fault.Fix, "the server does not take the request"
	default:
		f.Text = "an error within the server"
	}
	if m := printable(text(e, "Message")); m != "" {
		f.Text += fmt.Sprintf("; it says: %q", m)
	}
	return f
}

// document parses b within bounds, and returns the root element.
func document(b []byte) (*etree.Element, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("larger than %d bytes", maxAnswer)
	}
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{
		MaxDepth: maxDepth,
		CharsetReader: func(string, io.Reader) (io.Reader, error) {
			return nil, errors.New("an encoding other than UTF-8")
		},
	}
	if err := doc.ReadFromBytes(sanitised(b)); err != nil {
		return nil, err
	}
	for _, t := range doc.Child {
		if _, ok := t.(*etree.Directive); ok {
			return nil, errors.New("a document type (DTD), which is refused with all that it declares")
		}
	}
	if doc.Root() == nil {
		return nil, errors.New("empty")
	}
	return doc.Root(), nil
}

var references = regexp.MustCompile(`&#(x[0-9a-fA-F]+|[0-9]+);`)

// sanitised drops the characters that XML forbids, and that servers send nevertheless in display names.
func sanitised(b []byte) []byte {
	b = bytes.ToValidUTF8(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), []byte("\uFFFD"))
	b = bytes.Map(func(r rune) rune {
		if !legal(r) {
			return -1
		}
		return r
	}, b)
	return references.ReplaceAllFunc(b, func(ref []byte) []byte {
		digits := string(ref[2 : len(ref)-1])
		base := 10
		if digits[0] == 'x' {
			digits, base = digits[1:], 16
		}
		n, err := strconv.ParseInt(digits, base, 32)
		if err != nil || !legal(rune(n)) || !utf8.ValidRune(rune(n)) {
			return nil
		}
		return ref
	})
}

// legal reports whether XML 1.0 (section 2.2) has this character.
func legal(r rune) bool {
	return r >= ' ' && r != 0xFFFE && r != 0xFFFF || r == '\t' || r == '\n' || r == '\r'
}

func printable(s string) string { return proxy.Printable(s, maxWords) }

// child returns the first child of e with this local name; nil: none, or no e.
func child(e *etree.Element, name string) *etree.Element {
	for _, c := range children(e, name) {
		return c
	}
	return nil
}

func children(e *etree.Element, name string) (found []*etree.Element) {
	if e == nil {
		return nil
	}
	for _, c := range e.ChildElements() {
		if c.Tag == name {
			found = append(found, c)
		}
	}
	return found
}

func text(e *etree.Element, name string) string {
	if c := child(e, name); c != nil {
		return strings.TrimSpace(c.Text())
	}
	return ""
}
