package exchange

// Autodiscover as SOAP ([MS-OXWSADISC]): GetUserSettings for many users at once. An error is that of the request, of one of
// its users, or of one setting of a user.

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
)

const (
	nsAutodiscoverSOAP = "http://schemas.microsoft.com/exchange/2010/Autodiscover"
	nsAddressing       = "http://www.w3.org/2005/08/addressing"
	nsInstance         = "http://www.w3.org/2001/XMLSchema-instance"
)

// Users of a request. Real servers have such a limit, which is not documented; the fault autodiscover_limit sets another.
const (
	maxSOAPUsers   = 100
	lowerSOAPUsers = 10
)

// soapSettings are the settings that a server may have.
var soapSettings = []string{"UserDisplayName", "UserDN", "UserDeploymentId", "InternalMailboxServer", "InternalMailboxServerDN", "InternalRpcClientServer",
	"InternalEwsUrl", "InternalOABUrl", "InternalUMUrl", "InternalEcpUrl", "InternalWebClientUrls", "InternalServerExclusiveConnect", "MailboxDN",
	"PublicFolderServer", "PublicFolderInformation", "ActiveDirectoryServer", "ExternalMailboxServer", "ExternalMailboxServerRequiresSSL",
	"ExternalMailboxServerAuthenticationMethods", "ExternalEwsUrl", "ExternalEwsVersion", "ExternalOABUrl", "ExternalUMUrl", "ExternalEcpUrl",
	"ExternalWebClientUrls", "ExternalServerExclusiveConnect", "ExchangeRpcUrl", "EwsPartnerUrl", "EwsSupportedSchemas", "CasVersion",
	"CrossOrganizationSharingEnabled", "AlternateMailboxes", "GroupingInformation", "UserMSOnline", "MapiHttpEnabled", "MobileMailboxPolicy",
	"AutoDiscoverSMTPAddress"}

func (x *Host) serveSOAP(w http.ResponseWriter, r *http.Request) {
	const action = "GetUserSettings"
	data, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	x.count(action)
	env, err := parseXML(bytes.NewReader(data))
	message := env.kid(nsSOAP, "Body").kid(nsAutodiscoverSOAP, action+"RequestMessage")
	if err != nil || env.space != nsSOAP || env.name != "Envelope" || message == nil {
		x.soapFault(w)
		return
	}
	request := message.kid(nsAutodiscoverSOAP, "Request")
	var addresses, settings []string
	for _, user := range request.kid(nsAutodiscoverSOAP, "Users").children() {
		addresses = append(addresses, normal(user.kid(nsAutodiscoverSOAP, "Mailbox").value()))
	}
	for _, s := range request.kid(nsAutodiscoverSOAP, "RequestedSettings").children() {
		settings = append(settings, s.value())
	}
	for _, address := range addresses {
		if x.denied(w, address) {
			return
		}
	}
	limit := maxSOAPUsers
	if f, lower := x.faults.On(autodiscoverLimit, "", ""); lower {
		if limit = f.Limit; limit == 0 {
			limit = lowerSOAPUsers
		}
	}
	b := make(markup, 0, 1024+1024*len(addresses))
	x.soapStart(&b, action)
	switch {
	case len(addresses) == 0 || len(settings) == 0 || slices.Contains(addresses, ""):
		b.soapError("InvalidRequest", "The request is invalid: it names no users, or no settings.")
		b.raw(`<UserResponses/>`)
	case len(addresses) > limit:
		b.soapError("InvalidRequest", "The request names "+strconv.Itoa(len(addresses))+" users, more than the server takes.")
		b.raw(`<UserResponses/>`)
	default:
		b.raw(`<ErrorCode>NoError</ErrorCode><ErrorMessage/><UserResponses>`)
		for _, address := range addresses {
			x.soapUser(&b, x.resolve(address, soapPath), settings)
		}
		b.raw(`</UserResponses>`)
	}
	b.raw(`</Response></`, action, `ResponseMessage></s:Body></s:Envelope>`)
	x.soapSend(w, http.StatusOK, b)
}

func (x *Host) soapSend(w http.ResponseWriter, status int, b markup) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// soapFault answers a request that this service does not have.
func (x *Host) soapFault(w http.ResponseWriter) {
	b := make(markup, 0, 512)
	b.raw(xmlDeclaration, `<s:Envelope xmlns:s="`, nsSOAP, `"><s:Body><s:Fault><faultcode>s:Client</faultcode>`,
		`<faultstring xml:lang="en-US">The message cannot be processed at the receiver: it is no request that this service has.</faultstring>`,
		`</s:Fault></s:Body></s:Envelope>`)
	x.soapSend(w, http.StatusInternalServerError, b)
}

func (x *Host) soapStart(b *markup, action string) {
	n := x.release.number
	b.raw(xmlDeclaration, `<s:Envelope xmlns:s="`, nsSOAP, `" xmlns:a="`, nsAddressing, `"><s:Header><a:Action s:mustUnderstand="1">`,
		nsAutodiscoverSOAP, `/Autodiscover/`, action, `Response</a:Action><h:ServerVersionInfo xmlns:h="`, nsAutodiscoverSOAP, `" xmlns:i="`, nsInstance, `">`)
	for i, name := range []string{"MajorVersion", "MinorVersion", "MajorBuildNumber", "MinorBuildNumber"} {
		b.element("h:"+name, strconv.Itoa(n[i]))
	}
	b.element("h:Version", x.release.name)
	b.raw(`</h:ServerVersionInfo></s:Header><s:Body><`, action, `ResponseMessage xmlns="`, nsAutodiscoverSOAP, `"><Response xmlns:i="`, nsInstance, `">`)
}

// soapError writes an error of the request or of a user.
func (b *markup) soapError(code, text string) {
	b.element("ErrorCode", code)
	b.element("ErrorMessage", text)
}

// soapUser writes the answer for one user.
func (x *Host) soapUser(b *markup, p location, settings []string) {
	const nowhere = `<RedirectTarget i:nil="true"/>`
	b.raw(`<UserResponse>`)
	switch {
	case p.unknown():
		b.soapError("InvalidUser", "Invalid user.")
		b.raw(nowhere, `<UserSettingErrors/><UserSettings/>`)
	case p.redirect.URL != "":
		b.soapError("RedirectUrl", "Redirection URL.")
		b.element("RedirectTarget", p.redirect.URL)
		b.raw(`<UserSettingErrors/><UserSettings/>`)
	case p.redirect.Address != "":
		b.soapError("RedirectAddress", "Redirection address.")
		b.element("RedirectTarget", p.redirect.Address)
		b.raw(`<UserSettingErrors/><UserSettings/>`)
	default:
		b.soapError("NoError", "No error.")
		b.raw(nowhere)
		x.soapSettings(b, p.box, settings)
	}
	b.raw(`</UserResponse>`)
}

// soapSettings writes the settings of the request, the missing ones first.
func (x *Host) soapSettings(b *markup, box Mailbox, settings []string) {
	var found markup
	b.raw(`<UserSettingErrors>`)
	for _, name := range settings {
		value := x.setting(box, name)
		if value != "" {
			found.raw(`<UserSetting i:type="StringSetting">`)
			found.element("Name", name)
			found.element("Value", value)
			found.raw(`</UserSetting>`)
			continue
		}
		b.raw(`<UserSettingError>`)
		if slices.Contains(soapSettings, name) {
			b.soapError("SettingIsNotAvailable", "The setting is not available.")
		} else {
			b.soapError("InvalidSetting", "The setting is not valid.")
		}
		b.element("SettingName", name)
		b.raw(`</UserSettingError>`)
	}
	b.raw(`</UserSettingErrors><UserSettings>`, string(found), `</UserSettings>`)
}

// setting is the value of a setting of a mailbox; empty where there is none.
func (x *Host) setting(box Mailbox, name string) string {
	switch name {
	case "UserDisplayName", "AutoDiscoverSMTPAddress":
		return box.Address
	case "UserDN":
		return legacyDN(box.Address)
	case "UserDeploymentId":
		return "50817eff-b925-4578-a0db-13bfc635e7a5"
	case "InternalMailboxServer":
		return x.rpcServer(box)
	case "ExternalMailboxServer":
		return x.address()
	case "InternalEwsUrl":
		if x.name == Online {
			return "" // everything is outside there
		}
		return x.EWSURL()
	case "ExternalEwsUrl":
		return x.EWSURL()
	case "ExternalEwsVersion", "CasVersion":
		return x.release.text()
	case "EwsSupportedSchemas":
		return x.release.schemas()
	case "GroupingInformation":
		return x.grouping()
	case "UserMSOnline":
		if x.name == Online {
			return "True"
		}
	}
	return ""
}
