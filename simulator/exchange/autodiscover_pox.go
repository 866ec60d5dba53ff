package exchange

// Autodiscover, the plain XML (POX) form ([MS-OXDSCLI]).

import (
	"net/http"
	"strconv"
	"strings"
)

const (
	nsAutodiscover         = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
	nsAutodiscoverResponse = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
	nsAutodiscoverRequest  = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
)

func (x *Host) servePOX(w http.ResponseWriter, r *http.Request) {
	var request *node
	if r.Method == http.MethodPost {
		doc, err := parseXML(r.Body)
		if err == nil && doc.name == "Autodiscover" && doc.space == nsAutodiscoverRequest {
			request = doc.kid(nsAutodiscoverRequest, "Request")
		}
	}
	address := normal(request.kid(nsAutodiscoverRequest, "EMailAddress").value())
	x.count("Autodiscover")
	if x.denied(w, address) {
		return
	}
	b := make(markup, 0, 2048)
	b.raw(xmlDeclaration, `<Autodiscover xmlns="`, nsAutodiscover, `">`)
	if address == "" || request.kid(nsAutodiscoverRequest, "AcceptableResponseSchema").value() != nsAutodiscoverResponse {
		x.poxError(&b, 600, "Invalid Request")
	} else {
		x.poxAnswer(&b, x.resolve(address, poxPath))
	}
	b.raw(`</Autodiscover>`)
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
}

func (x *Host) poxAnswer(b *markup, p location) {
	switch {
	case p.unknown() && x.gromox:
		x.poxError(b, http.StatusNotFound, "Not Found")
	case p.unknown():
		x.poxError(b, 500, "The email address can't be found.")
	case p.redirect.URL != "":
		b.raw(`<Response xmlns="`, nsAutodiscoverResponse, `"><Account><AccountType>email</AccountType><Action>redirectUrl</Action>`)
		b.element("RedirectUrl", p.redirect.URL)
		b.raw(`</Account></Response>`)
	case p.redirect.Address != "":
		b.raw(`<Response xmlns="`, nsAutodiscoverResponse, `"><Account><Action>redirectAddr</Action>`)
		b.element("RedirectAddr", p.redirect.Address)
		b.raw(`</Account></Response>`)
	default:
		x.poxSettings(b, p.box)
	}
}

func (x *Host) poxError(b *markup, code int, text string) {
	b.raw(`<Response xmlns="`, nsAutodiscover, `"><Error Time="`, x.clock.Now().Format("15:04:05.0000000"), `" Id="4130155072"><ErrorCode>`,
		strconv.Itoa(code), `</ErrorCode>`)
	b.element("Message", text)
	b.raw(`<DebugData/></Error></Response>`)
}

// rpcServer is what the settings call the server of a mailbox: its mailbox server, with releases before 2013; with later ones
// the mailbox itself, as if it were a server.
func (x *Host) rpcServer(box Mailbox) string {
	if !x.release.modern {
		return box.Server
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.find(box.Address)
	if b == nil {
		return ""
	}
	return b.guid.String() + "@" + Domain
}

func (x *Host) poxSettings(b *markup, box Mailbox) {
	host, _, _ := strings.Cut(x.address(), ":")
	b.raw(`<Response xmlns="`, nsAutodiscoverResponse, `"><User>`)
	b.element("DisplayName", box.Address)
	b.element("LegacyDN", legacyDN(box.Address))
	b.element("AutoDiscoverSMTPAddress", box.Address)
	b.raw(`<DeploymentId>50817eff-b925-4578-a0db-13bfc635e7a5</DeploymentId></User>`, `<Account><AccountType>email</AccountType><Action>settings</Action>`)
	if x.release.modern {
		b.element("MicrosoftOnline", map[bool]string{true: "True", false: "False"}[x.name == Online])
	}
	kinds := []string{"EXCH", "EXPR"}
	if x.gromox {
		kinds = []string{"EXHTTP", "EXCH", "EXPR"}
	}
	for _, kind := range kinds {
		b.raw(`<Protocol><Type>`, kind, `</Type>`)
		if kind == "EXCH" {
			b.element("Server", x.rpcServer(box))
		} else {
			b.element("Server", host)
		}
		b.raw(`<ServerVersion>`, x.release.hex(), `</ServerVersion>`)
		b.element("OOFUrl", x.EWSURL())
		if !x.gromox || kind != "EXPR" {
			b.element("ASUrl", x.EWSURL())
			b.element("EwsUrl", x.EWSURL())
		}
		if kind == "EXPR" {
			b.raw(`<SSL>On</SSL><AuthPackage>Basic</AuthPackage>`)
			if g := x.grouping(); g != "" {
				b.element("GroupingInformation", g)
			}
		}
		b.raw(`</Protocol>`)
	}
	b.raw(`</Account></Response>`)
}
