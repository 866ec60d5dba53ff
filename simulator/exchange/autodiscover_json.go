package exchange

// Autodiscover V2: one GET without credentials that returns a URL as JSON. There is no specification; this is how Exchange Online and
// Exchange 2016 and later answer.

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/mailbell/mailbell/simulator/internal/answer"
)

// maxV2Redirects is how many times a client may have been redirected.
const maxV2Redirects = 10

func (x *Host) serveV2(w http.ResponseWriter, r *http.Request) {
	x.count("AutodiscoverV2")
	query := r.URL.Query()
	address := normal(query.Get("Email"))
	if _, inPath, ok := cutFold(r.URL.Path, jsonPath+"/v1.0/"); ok {
		address = normal(inPath)
	}
	asked := query.Get("Protocol")
	urls := map[string]string{
		"ews":            x.EWSURL(),
		"autodiscoverv1": x.url + poxPath,
		"activesync":     x.url + "/Microsoft-Server-ActiveSync",
	}
	found, known := urls[strings.ToLower(asked)]
	switch {
	case checkAddress(address) != nil:
		v2Error(w, http.StatusBadRequest, "InvalidUserId", "The given user identifier is invalid.")
		return
	case asked == "":
		v2Error(w, http.StatusBadRequest, "MandatoryParameterMissing", "A valid value must be provided for the query parameter 'Protocol'.")
		return
	case !known:
		v2Error(w, http.StatusBadRequest, "InvalidProtocol", "The given protocol value '"+asked+"' is invalid. Supported values are 'ActiveSync,AutodiscoverV1,Ews'.")
		return
	}
	p := x.resolve(address, "")
	box, err := x.org.Mailbox(address)
	switch {
	case p.box.Address != "":
		placed := map[string]string{"Protocol": asked, "Url": found}
		if x.name == Online && strings.EqualFold(query.Get("ServerLocation"), "true") {
			placed["ServerLocation"] = onlineForest
		}
		answer.JSON(w, http.StatusOK, placed)
	case x.name == OnPremises && p.redirect.Address != "":
		sendOn(w, r, x.org.host(Online), p.redirect.Address)
	case x.name == Online && err == nil && box.Host != Online && !strings.HasSuffix(address, "@"+RoutingDomain):
		sendOn(w, r, x.org.hosts[0], address)
	default:
		v2Error(w, http.StatusNotFound, "UserNotFound", "The given user is not found.")
	}
}

// sendOn redirects to the Autodiscover of another host.
func sendOn(w http.ResponseWriter, r *http.Request, to *Host, address string) {
	count, _ := strconv.Atoi(r.URL.Query().Get("RedirectCount")) // none is 0
	if to == nil || count >= maxV2Redirects {
		v2Error(w, http.StatusNotFound, "UserNotFound", "The given user is not found.")
		return
	}
	query := url.Values{"Email": {address}, "Protocol": {r.URL.Query().Get("Protocol")}, "RedirectCount": {strconv.Itoa(count + 1)}}
	w.Header().Set("Location", to.url+jsonPath+"?"+query.Encode())
	w.WriteHeader(http.StatusFound)
}

func v2Error(w http.ResponseWriter, status int, code, text string) {
	answer.JSON(w, status, map[string]string{"ErrorCode": code, "ErrorMessage": text})
}

// cutFold is strings.Cut that compares without case.
func cutFold(s, sep string) (before, after string, found bool) {
	if i := strings.Index(strings.ToLower(s), sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
