package auth

// What a server offers to sign in with: the WWW-Authenticate of its answer 401.

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/challenge"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// maxOffer bounds a server's list of schemes in an error.
const maxOffer = 100

// offers are the schemes of a WWW-Authenticate header, with what follows each.
type offers [][2]string

// readOffers reads them from one line each or from a list.
func readOffers(h http.Header) (list offers) {
	for _, line := range h.Values("WWW-Authenticate") {
		for offer := range challenge.Elements(line) {
			scheme, rest, _ := strings.Cut(strings.TrimSpace(offer), " ")
			list = append(list, [2]string{scheme, strings.TrimSpace(rest)})
		}
	}
	return list
}

func (o offers) scheme(scheme string) bool {
	return slices.ContainsFunc(o, func(offer [2]string) bool { return strings.EqualFold(offer[0], scheme) })
}

// challenge returns the CHALLENGE that comes with a scheme; nil if there is none, for example if Negotiate means Kerberos.
func (o offers) challenge(scheme string) []byte {
	for _, offer := range o {
		message, err := base64.StdEncoding.DecodeString(offer[1])
		if strings.EqualFold(offer[0], scheme) && err == nil && bytes.HasPrefix(message, challengeStart) {
			return message
		}
	}
	return nil
}

// evidence is what a host shows that offers this.
func (o offers) evidence(host string) fault.Evidence {
	e := fault.Evidence{Host: proxy.Printable(host, maxHostText), Status: http.StatusUnauthorized}
	for _, offer := range o {
		e.Offers = append(e.Offers, proxy.Printable(offer[0], maxOffer))
	}
	if len(o) == 0 {
		e.Detail = fault.NoChallenge
	}
	return e
}

func (o offers) String() string {
	var names []string
	for _, offer := range o {
		names = append(names, offer[0])
	}
	if names == nil {
		return "no sign-in at all"
	}
	return proxy.Printable(strings.Join(names, ", "), maxOffer)
}
