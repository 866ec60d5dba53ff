package simulator

// Autodiscover, the plain XML (POX) form ([MS-OXDSCLI]).

import (
	"net/http"
	"strconv"
)

const (
	nsAutodiscover         = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
	nsAutodiscoverResponse = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
	nsAutodiscoverRequest  = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
)

// Redirect is an answer of Autodiscover that points elsewhere: to another address, or to another URL.
type Redirect struct {
	Address, URL string
}

// SetRedirect has Autodiscover answer for an address with a redirect; the zero Redirect ends that. The address needs no
// mailbox here.
func (s *Server) SetRedirect(address string, to Redirect) {
	x := s.store
	x.mu.Lock()
	defer x.mu.Unlock()
	if to == (Redirect{}) {
		delete(x.redirects, normal(address))
		return
	}
	x.redirects[normal(address)] = to
}

func (x *exchange) serveAutodiscover(w http.ResponseWriter, r *http.Request) {
	var request *node
	if r.Method == http.MethodPost {
		doc, err := parseXML(r.Body)
		if err == nil && doc.name == "Autodiscover" && doc.space == nsAutodiscoverRequest {
			request = doc.kid(nsAutodiscoverRequest, "Request")
		}
	}
	address := normal(request.kid(nsAutodiscoverRequest, "EMailAddress").value())
	x.mu.Lock()
	x.requests["Autodiscover"]++
	redirect, redirected := x.redirects[address]
	box := x.find(address)
	x.mu.Unlock()
	if f, on := x.faults.on(wrongPassword, address, ""); on && f.Mailbox != "" {
		if _, hit := x.faults.hit(wrongPassword, address, ""); hit {
			x.unauthorized(w)
			return
		}
	}
	b := make(markup, 0, 2048)
	b.raw(xmlDeclaration, `<Autodiscover xmlns="`, nsAutodiscover, `">`)
	_, unknown := x.faults.hit(mailboxUnknown, address, "")
	switch {
	case address == "" || request.kid(nsAutodiscoverRequest, "AcceptableResponseSchema").value() != nsAutodiscoverResponse:
		x.autodiscoverError(&b, 600, "Invalid Request")
	case unknown || box == nil && !redirected:
		x.autodiscoverError(&b, 500, "The email address can't be found.")
	case redirect.URL != "":
		b.raw(`<Response xmlns="`, nsAutodiscoverResponse, `"><Account><AccountType>email</AccountType><Action>redirectUrl</Action>`)
		b.element("RedirectUrl", redirect.URL)
		b.raw(`</Account></Response>`)
	case redirected:
		b.raw(`<Response xmlns="`, nsAutodiscoverResponse, `"><Account><Action>redirectAddr</Action>`)
		b.element("RedirectAddr", redirect.Address)
		b.raw(`</Account></Response>`)
	default:
		x.autodiscoverSettings(&b, box)
	}
	b.raw(`</Autodiscover>`)
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
}

func (x *exchange) autodiscoverError(b *markup, code int, text string) {
	b.raw(`<Response xmlns="`, nsAutodiscover, `"><Error Time="`, x.clock.now().Format("15:04:05.0000000"), `" Id="4130155072"><ErrorCode>`,
		strconv.Itoa(code), `</ErrorCode>`)
	b.element("Message", text)
	b.raw(`<DebugData/></Error></Response>`)
}

func (x *exchange) autodiscoverSettings(b *markup, box *mailbox) {
	server := box.guid.String() + "@" + Domain
	b.raw(`<Response xmlns="`, nsAutodiscoverResponse, `"><User>`)
	b.element("DisplayName", box.address)
	b.element("LegacyDN", legacyDN(box.address))
	b.element("AutoDiscoverSMTPAddress", box.address)
	b.raw(`<DeploymentId>50817eff-b925-4578-a0db-13bfc635e7a5</DeploymentId></User>`,
		`<Account><AccountType>email</AccountType><Action>settings</Action><MicrosoftOnline>False</MicrosoftOnline>`)
	for _, kind := range []string{"EXCH", "EXPR"} {
		b.raw(`<Protocol><Type>`, kind, `</Type>`)
		if kind == "EXCH" {
			b.element("Server", server)
		} else {
			b.element("Server", x.host)
		}
		b.raw(`<ServerVersion>`, versionHex, `</ServerVersion>`)
		b.element("ASUrl", x.url)
		b.element("OOFUrl", x.url)
		b.element("EwsUrl", x.url)
		if kind == "EXPR" {
			b.raw(`<SSL>On</SSL><AuthPackage>Basic</AuthPackage>`)
			b.element("GroupingInformation", grouping)
		}
		b.raw(`</Protocol>`)
	}
	b.raw(`</Account></Response>`)
}

// grouping is the value that all mailboxes of this server share.
const grouping = "Default-First-Site-Name"
