package autodiscover

// One request of POX Autodiscover and its answer (MS-OXDSCLI, "POX Autodiscover response for Exchange").

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/beevik/etree"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	requestSchema  = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
	responseSchema = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
)

// maxOtherURLs bounds the URLs of EWS that are kept beside the first: internal and external, by two protocols, are four.
const maxOtherURLs = 3

// answer is the answer for a user: settings, or a redirect.
type answer struct {
	ewsURL       string
	otherURLs    [maxOtherURLs]string // of EWS too, in their order: used if credentials are not allowed at the first
	group        string               // GroupingInformation
	primary      string               // AutoDiscoverSMTPAddress
	server       string               // the mailbox server, where it is named
	schema       string               // the newest EWS schema, if the server names it
	how          string               // who said it
	redirectAddr string               // normalised
	redirectURL  string
	moved        bool // redirectURL is for every user
}

// name appends a URL of EWS.
func (a *answer) name(u string) {
	if u == "" || u == a.ewsURL || slices.Contains(a.otherURLs[:], u) {
		return
	}
	if a.ewsURL == "" {
		a.ewsURL = u
		return
	}
	if free := slices.Index(a.otherURLs[:], ""); free >= 0 {
		a.otherURLs[free] = u
	}
}

// askPOX posts the request for address to u, with credentials; u must be allowed.
func (s *search) askPOX(ctx context.Context, u, address string) (answer, *fault.Error) {
	body, err := question(address)
	if err != nil {
		return answer{}, &fault.Error{Op: op, Code: CodeAddress, Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	r, failed := s.post(ctx, u, address, "", body)
	if failed != nil {
		return answer{}, failed
	}
	failed = r.refusal()
	if failed != nil && failed.Scope != fault.Account {
		// A server may report an error by its status and in its answer; only the answer is about the mailbox.
		if _, said := parse(r.body); said != nil && said.Scope == fault.Mailbox {
			failed = said
		}
	}
	switch {
	case failed != nil:
		return answer{}, failed
	case redirects(r.status):
		return r.moved()
	}
	return parse(r.body)
}

// plainRedirect asks u, over http and without credentials, for a redirect, whose target is a candidate.
func (s *search) plainRedirect(ctx context.Context, u string) []string {
	r, err := s.request(ctx, s.o.Plain, http.MethodGet, u, http.Header{}, nil)
	if err != nil || r.location == "" {
		// An error here is hardly informative: few domains have this candidate.
		s.failed(u, &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait})
		return nil
	}
	if err := s.hop(); err != nil {
		s.failed(u, err)
		return nil
	}
	return []string{r.location}
}

// question is the body of the request for the settings of an address.
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
		return answer{}, unread(err, b, "Autodiscover")
	}
	if root.Tag != "Autodiscover" {
		return answer{}, &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait, Text: "the answer is not one of Autodiscover"}
	}
	response := child(root, "Response")
	account := child(response, "Account")
	for _, e := range []*etree.Element{child(response, "Error"), child(account, "Error"), child(root, "Error")} {
		if e != nil {
			return answer{}, serverError(text(e, "ErrorCode"), text(e, "Message"))
		}
	}
	switch action := text(account, "Action"); {
	case strings.EqualFold(action, "redirectAddr"):
		address, err := mail.ParseAddress(text(account, "RedirectAddr"))
		if err != nil {
			return answer{}, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait,
				Text: "its redirect has an invalid mail address", Err: err}
		}
		return answer{redirectAddr: address}, nil
	case strings.EqualFold(action, "redirectUrl"):
		if to := text(account, "RedirectUrl"); to != "" {
			return answer{redirectURL: to}, nil
		}
		return answer{}, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait, Text: "its redirect has no target"}
	case !strings.EqualFold(action, "settings"):
		return answer{}, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait, Text: "its answer has an unknown action"}
	}
	return accountSettings(account, text(child(response, "User"), "AutoDiscoverSMTPAddress")), nil
}

// accountSettings reads the settings of an account: above all its URLs of EWS, in the order of their protocols.
func accountSettings(account *etree.Element, primary string) answer {
	a := answer{primary: primary}
	protocols := map[string][]*etree.Element{}
	for _, p := range children(account, "Protocol") {
		t := strings.ToUpper(text(p, "Type"))
		protocols[t] = append(protocols[t], p)
	}
	// EXPR is for clients outside the site, EXCH for those inside, WEB for browsers. Since Exchange 2013 there is EXHTTP too, for MAPI over
	// HTTP: once internal, then once external. One type may come several times, and any without a URL of EWS (gromox's EXPR has none).
	slices.Reverse(protocols["EXHTTP"])
	named := slices.Concat(protocols["EXPR"], protocols["EXHTTP"], protocols["EXCH"])
	for _, p := range named {
		a.name(text(p, "EwsUrl"))
		a.group = cmp.Or(a.group, printable(text(p, "GroupingInformation")))
		if strings.EqualFold(text(p, "Type"), "EXCH") {
			a.server = cmp.Or(a.server, mailboxServer(text(p, "Server")))
		}
	}
	if a.ewsURL != "" {
		return a
	}
	for _, web := range protocols["WEB"] {
		for _, p := range []*etree.Element{web, child(child(web, "External"), "Protocol"), child(child(web, "Internal"), "Protocol")} {
			a.name(cmp.Or(text(p, "EwsUrl"), text(p, "ASUrl")))
		}
	}
	if a.ewsURL == "" { // EwsUrl is optional, and ASUrl, of the availability service, is an operation of EWS
		for _, p := range named {
			a.name(text(p, "ASUrl"))
		}
	}
	return a
}

// errorCode is the code of an error that the server gave by its own code.
func errorCode(code string) string { return "ErrorCode " + printable(code) }

// Some of SOAP's.
const (
	codeInvalidRequest = "ErrorCode InvalidRequest" // a question that the server does not take, or that is for too many users
	codeInvalidSetting = "ErrorCode InvalidSetting" // a setting that the server does not know; POX asks for none by name
	codeServerBusy     = "ErrorCode ServerBusy"
)

// serverError types an error by the server's code: POX (MS-OXDSCLI section 2.2.4.1.1.3.2), SOAP (MS-OXWSADISC, ErrorCode) and V2.
func serverError(code, message string) *fault.Error {
	f := &fault.Error{Op: op, Code: errorCode(code), Scope: fault.Server, Remedy: fault.Wait}
	switch code {
	case "500", "404", "InvalidUser", "InvalidDomain", "UserNotFound", "ErrorCannotFindUser", "ErrorNonExistentMailbox": // 404 is gromox's
		f.Scope, f.Remedy, f.Elsewhere, f.Text = fault.Mailbox, fault.Fix, true, "the server knows no mailbox with this address"
	case "501", "602", "InvalidSetting", "SettingIsNotAvailable":
		f.Scope, f.Remedy, f.Text = fault.Mailbox, fault.Fix, "the server knows the address, and has no settings for it"
	case "600", "601", "InvalidRequest", "NotFederated":
		f.Remedy, f.Text = fault.Fix, "the server does not take the request"
	case "ServerBusy":
		f.Text = "the server is busy"
	default:
		f.Text = "an error within the server"
	}
	f.Text = quoted(f.Text, message)
	return f
}

// quoted appends the server's own text.
func quoted(text, words string) string {
	words = printable(words)
	if words == "" {
		return text
	}
	return text + fmt.Sprintf("; the server answered: %q", words)
}
