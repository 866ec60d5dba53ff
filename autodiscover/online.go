package autodiscover

// Exchange Online: Autodiscover V2, which needs no credentials and answers in JSON, says whether a mailbox is there ("GET
// /autodiscover/autodiscover.json/v1.0/{address}?Protocol=EWS"); SOAP gives the other settings, if the credential may use it.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
)

// soapPause is how long a cloud's SOAP is not asked after it refused: it never accepts tokens of RBAC for Applications, so a request for
// each mailbox would be in vain. After any other cause it is asked again within the hour.
const soapPause = time.Hour

const v2Path = "/autodiscover/autodiscover.json/v1.0/"

// lookOnline finds a mailbox in the cloud.
func (s *search) lookOnline(ctx context.Context, address string) (answer, *fault.Error) {
	a, err := s.askV2(ctx, address)
	if err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	pausing := time.Now().Before(s.soapAgain)
	s.mu.Unlock()
	if pausing {
		return a, nil
	}
	more, _, err := s.follow(ctx, endpoint{strings.TrimSuffix(s.o.Cloud, "/") + soapPath, true}, address)
	switch {
	case ctx.Err() != nil:
		return answer{}, cancelled(ctx.Err())
	case err == nil && more.redirectAddr != "":
		return more, nil
	case err == nil:
		more.ewsURL, more.otherURLs, more.server = a.ewsURL, a.otherURLs, ""
		return more, nil
	case err.Elsewhere: // V2 has been seen to answer for addresses that nobody has
		return answer{}, err
	case !ofOneUser(err):
		s.mu.Lock()
		s.soapAgain = time.Now().Add(soapPause)
		s.mu.Unlock()
	}
	return a, nil
}

// askV2 asks the cloud for the URL of EWS, without credentials.
func (s *search) askV2(ctx context.Context, address string) (answer, *fault.Error) {
	u := strings.TrimSuffix(s.o.Cloud, "/") + v2Path + url.PathEscape(address) + "?Protocol=EWS"
	for seen := map[string]bool{}; !seen[u]; {
		seen[u] = true
		r, err := s.request(ctx, s.o.Plain, http.MethodGet, u, http.Header{"Accept": {"application/json"}}, nil)
		if err != nil {
			return answer{}, err
		}
		if !redirects(r.status) {
			named, err := parseV2(r.status, r.body)
			if err != nil {
				if err.Remedy == fault.Wait {
					err.After, err.Asked = r.after, r.after > 0
				}
				return answer{}, err
			}
			ews, err := s.inCloud(named)
			if err != nil {
				return answer{}, err
			}
			if configured, err := url.Parse(s.o.EWS); err == nil && hostname.Address(configured) == hostname.Address(ews) {
				named = s.o.EWS // written one way, so that its mailboxes are one group
			}
			return answer{ewsURL: named, how: "Autodiscover V2 at " + hostOf(u)}, nil
		}
		if err := s.hop(); err != nil {
			return answer{}, err
		}
		to, err := s.inCloud(r.location)
		if err != nil {
			return answer{}, err
		}
		u = to.String()
	}
	return answer{}, loop("the URL is redirected in a circle")
}

// inCloud returns the URL in the cloud's answer if its host is the cloud's. Any other URL is not followed: it is the location of a
// mailbox that is not in the cloud.
func (s *search) inCloud(u string) (*url.URL, *fault.Error) {
	parsed, ok := valid(u)
	if !ok {
		return nil, &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait,
			Text: "the cloud's answer has an invalid URL"}
	}
	over := *parsed
	over.Scheme = "https" // another scheme is no reason to look for the mailbox elsewhere
	if s.hosts.Refuse(&over) != nil {
		return nil, elsewhere(fmt.Sprintf("the cloud gives the location %q, which is not in the cloud", printable(parsed.Host)))
	}
	return parsed, s.allowed(u)
}

// parseV2 reads an answer of Autodiscover V2: the URL of EWS, or why there is none.
func parseV2(code int, body []byte) (string, *fault.Error) {
	if len(body) > maxAnswer {
		return "", &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait,
			Text: fmt.Sprintf("the answer is larger than %d bytes", maxAnswer)}
	}
	var a struct {
		URL          string `json:"Url"`
		ErrorCode    string
		ErrorMessage string
	}
	err := json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), &a)
	switch {
	case code == http.StatusNotFound:
		e := status(code, fault.Mailbox, fault.Fix)
		e.Text, e.Elsewhere = quoted("the cloud knows no mailbox with this address", a.ErrorCode), true
		return "", e
	case err == nil && a.ErrorCode != "":
		return "", serverError(a.ErrorCode, a.ErrorMessage)
	case code != http.StatusOK:
		return "", status(code, fault.Server, fault.Wait) // the request had no credentials: a 401 does not concern the account
	case err != nil || a.URL == "":
		return "", &fault.Error{Op: op, Code: CodeUnread, Scope: fault.Server, Remedy: fault.Wait,
			Text: "the cloud's answer cannot be parsed"}
	}
	return a.URL, nil
}
