package autodiscover

// GetUserSettings: one request of SOAP Autodiscover for several users, and its answer (MS-OXWSADISC section 3.1.4.4).

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
	nsSettings = "http://schemas.microsoft.com/exchange/2010/Autodiscover"
	nsAddress  = "http://www.w3.org/2005/08/addressing"
	nsSOAP     = "http://schemas.xmlsoap.org/soap/envelope/"
	soapAction = nsSettings + "/Autodiscover/GetUserSettings"
	// soapVersion is that of the documentation's example: GroupingInformation is younger than Exchange 2010.
	soapVersion = "Exchange2013"
)

// codeOrder is the code of an answer with the users in another order than the request.
const codeOrder = "order"

// The requested settings.
const (
	settingExternal = "ExternalEwsUrl"
	settingInternal = "InternalEwsUrl"
	settingSchemas  = "EwsSupportedSchemas" // "Exchange2007, …, Exchange2013"
	settingGroup    = "GroupingInformation"
	settingPrimary  = "AutoDiscoverSMTPAddress"
	settingServer   = "InternalMailboxServer"
)

// reply is the answer for one user: one of the two.
type reply struct {
	answer
	err *fault.Error
}

// getUserSettings asks at u for users, with credentials; u must be allowed. It returns as many replies, in their order, or an
// error that concerns all of them.
func (c *Client) getUserSettings(ctx context.Context, u string, users []string) ([]reply, *fault.Error) {
	question, err := soapQuestion(u, users)
	if err != nil {
		return nil, &fault.Error{Op: op, Code: CodeAddress, Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	r, failed := c.post(ctx, u, users[0], soapAction, question)
	if failed != nil {
		return nil, failed
	}
	if redirects(r.status) {
		a, failed := r.moved()
		return slices.Repeat([]reply{{answer: a}}, len(users)), failed
	}
	failed = r.refusal()
	if r.status == http.StatusInternalServerError { // the status of a SOAP fault
		if _, e := parseSOAP(r.body, users); e != nil && e.Code == CodeFault {
			failed = e
		}
	}
	if failed != nil {
		return nil, failed
	}
	return parseSOAP(r.body, users)
}

// soapQuestion is the body of the request for the settings of users.
func soapQuestion(u string, users []string) ([]byte, error) {
	doc := etree.NewDocument()
	doc.CreateProcInst("xml", `version="1.0" encoding="utf-8"`)
	envelope := doc.CreateElement("soap:Envelope")
	envelope.CreateAttr("xmlns:a", nsSettings)
	envelope.CreateAttr("xmlns:wsa", nsAddress)
	envelope.CreateAttr("xmlns:soap", nsSOAP)
	header := envelope.CreateElement("soap:Header")
	header.CreateElement("a:RequestedServerVersion").SetText(soapVersion)
	header.CreateElement("wsa:Action").SetText(soapAction)
	header.CreateElement("wsa:To").SetText(u)
	request := envelope.CreateElement("soap:Body").CreateElement("a:GetUserSettingsRequestMessage").CreateElement("a:Request")
	list := request.CreateElement("a:Users")
	for _, address := range users {
		list.CreateElement("a:User").CreateElement("a:Mailbox").SetText(address)
	}
	settings := request.CreateElement("a:RequestedSettings")
	for _, name := range []string{settingExternal, settingInternal, settingSchemas, settingGroup, settingPrimary, settingServer} {
		settings.CreateElement("a:Setting").SetText(name)
	}
	return doc.WriteToBytes()
}

// parseSOAP reads the answer to a request for users: a reply for each, in their order, or an error that concerns all.
//
// The answer does not name the users: they are in the order of the request. So an answer with more or fewer users is rejected (Microsoft's
// own client assigns fewer to the first ones), and also one with the primary address of a user at the position of another.
func parseSOAP(b []byte, users []string) ([]reply, *fault.Error) {
	root, err := document(b)
	if err != nil {
		return nil, unread(err, b, "Envelope")
	}
	if root.Tag != "Envelope" {
		return nil, &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait, Text: "the answer is not one of Autodiscover"}
	}
	body := child(root, "Body")
	if f := child(body, "Fault"); f != nil {
		return nil, &fault.Error{Op: op, Code: CodeFault, Scope: fault.Server, Remedy: fault.Wait,
			Text: quoted("an error within the server", text(f, "faultstring"))}
	}
	response := child(child(body, "GetUserSettingsResponseMessage"), "Response")
	if response == nil {
		return nil, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait, Text: "the answer has no response"}
	}
	if code := text(response, "ErrorCode"); code != "" && code != "NoError" {
		return nil, serverError(code, text(response, "ErrorMessage"))
	}
	answers := children(child(response, "UserResponses"), "UserResponse")
	if len(answers) != len(users) {
		return nil, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait,
			Text: fmt.Sprintf("it answers for %d users, and the request was for %d", len(answers), len(users))}
	}
	replies := make([]reply, 0, len(users))
	for i, user := range users {
		r := userReply(answers[i])
		replies = append(replies, r)
		if r.primary != "" && r.primary != user && slices.Contains(users, r.primary) {
			return nil, &fault.Error{Op: op, Code: codeOrder, Scope: fault.Server, Remedy: fault.Wait,
				Text: "it answers for the users in another order than in the request"}
		}
	}
	return replies, nil
}

// userReply reads a UserResponse. Missing settings, for which there may be a UserSettingError, are ignored.
func userReply(e *etree.Element) reply {
	target := text(e, "RedirectTarget")
	switch code := text(e, "ErrorCode"); code {
	case "", "NoError":
	case "RedirectAddress":
		address, err := mail.ParseAddress(target)
		if err != nil {
			return reply{err: &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait,
				Text: "its redirect has an invalid mail address", Err: err}}
		}
		return reply{answer: answer{redirectAddr: address}}
	case "RedirectUrl":
		if target == "" {
			return reply{err: &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait, Text: "its redirect has no target"}}
		}
		return reply{answer: answer{redirectURL: target}}
	default:
		return reply{err: serverError(code, text(e, "ErrorMessage"))}
	}
	settings := map[string]string{}
	for _, s := range children(child(e, "UserSettings"), "UserSetting") {
		name := text(s, "Name")
		settings[name] = cmp.Or(settings[name], text(s, "Value"))
	}
	a := answer{group: printable(settings[settingGroup]), server: mailboxServer(settings[settingServer])}
	a.name(settings[settingExternal])
	a.name(settings[settingInternal])
	if p, err := mail.ParseAddress(settings[settingPrimary]); err == nil {
		a.primary = p
	}
	if list := strings.FieldsFunc(settings[settingSchemas], func(r rune) bool { return r == ',' || r == ' ' }); len(list) > 0 {
		a.schema = printable(list[len(list)-1])
	}
	return reply{answer: a}
}

// mailboxServer returns the name of a mailbox server. Since Exchange 2013 the setting is the mailbox itself, as GUID@domain.
func mailboxServer(setting string) string {
	if strings.Contains(setting, "@") {
		return ""
	}
	return printable(setting)
}
