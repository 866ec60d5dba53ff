package proxy

// What an answer of a server shows beside its status: by it the causes of one status are told apart.

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/challenge"
	"github.com/mailbell/mailbell/internal/fault"
)

// maxPage bounds what is looked at of a page that refuses: its title and first words.
const maxPage = 2 << 10

// marks are the headers by which Exchange itself can be told from what stands before it.
var marks = [...]string{"X-Feserver", "X-Beserver", "X-Calculatedbetarget", "X-Diaginfo", "X-Ms-Diagnostics", "X-Owa-Version"}

// certificateWords are in the pages of servers that want a certificate of the client: IIS by its substatus or in words, and nginx.
var certificateWords = [...]string{"403.7 ", "403.16 ", "client certificate", "required ssl certificate"}

// signInPaths are in the paths of pages at which people sign in: those of Exchange, of AD FS, and of gates in front of both.
var signInPaths = [...]string{"logon", "login", "signin", "sign-in", "/adfs/", "/oauth2/", "saml"}

// EvidenceOf is what an answer of Exchange, or of whatever answers in its place, shows. Of a page that refuses it looks at the beginning, and
// leaves the body as it was.
func EvidenceOf(resp *http.Response, of fault.Peer) fault.Evidence {
	e := fault.Evidence{Peer: of, Status: resp.StatusCode, Offers: challenge.Schemes(resp.Header.Values("Www-Authenticate"))}
	if resp.Request != nil && resp.Request.URL != nil {
		e.Host = Printable(resp.Request.URL.Host, maxText)
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		if len(e.Offers) == 0 {
			e.Detail = fault.NoChallenge
		}
	case resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusBadRequest:
		e.Detail = refusedBy(resp)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		if to, err := resp.Location(); err == nil {
			e.Leads = Printable(to.Host+to.EscapedPath(), maxText)
			if signInPage(to.EscapedPath()) {
				e.Detail = fault.SignInPage
			}
		}
	}
	return e
}

// refusedBy says what refuses.
func refusedBy(resp *http.Response) fault.Detail {
	policy := strings.ToLower(resp.Header.Get("X-Ews-Policy-Reason"))
	switch {
	case strings.Contains(policy, "disabled"):
		return fault.PolicyOff
	case policy != "":
		return fault.PolicyBlocks
	case asksForCertificate(resp):
		return fault.ClientUnknown
	case resp.StatusCode != http.StatusForbidden:
		return fault.None
	case slices.ContainsFunc(marks[:], func(name string) bool { return resp.Header.Get(name) != "" }):
		return fault.PolicyBlocks
	}
	return fault.BeforeItsDoor
}

// asksForCertificate says whether a page asks for a certificate of the client.
func asksForCertificate(resp *http.Response) bool {
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	resp.Body = &resumed{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	if err != nil {
		return false
	}
	page := strings.ToLower(string(head))
	return slices.ContainsFunc(certificateWords[:], func(words string) bool { return strings.Contains(page, words) })
}

// resumed is a body of which the beginning was looked at.
type resumed struct {
	io.Reader
	io.Closer
}

func signInPage(path string) bool {
	path = strings.ToLower(path)
	return slices.ContainsFunc(signInPaths[:], func(part string) bool { return strings.Contains(path, part) })
}
