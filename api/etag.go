package api

// Changes of an enrolment that are made only to the one that the client has seen (RFC 9110 sections 8.8.3 and 13.1).

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"

	"github.com/mailbell/mailbell/subscriptions"
)

// errPrecondition is answered where an enrolment is not the one that the client has seen.
var errPrecondition = newProblem("precondition_failed", "the enrolment is not the one of the header If-Match or If-None-Match: it was changed, removed or made meanwhile; nothing was done")

// errETag is answered where a header cannot be understood: without it, something else would be changed than the client wants.
var errETag = newProblem("wrong_etag", `want * or a list of entity tags, each in quotes as the header ETag has it, in If-Match and If-None-Match`)

// etag is the entity tag of an enrolment: a hash of all that its client has chosen, and of when it was made. It does not depend on the state
// of the mailbox, nor on when the device was enrolled last: who enrols the same again changes nothing.
func etag(d subscriptions.Device) string {
	text := make([]byte, 0, 512)
	for _, chosen := range [...]string{d.ID, d.Mailbox, d.Token, d.Topic, d.Environment, d.Exchange, d.Label, d.ReceiptKey} {
		text = binary.AppendUvarint(text, uint64(len(chosen)))
		text = append(text, chosen...)
	}
	sum := sha256.Sum256(binary.AppendVarint(text, d.Created.UnixNano()))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// precondition reads the precondition of a request about an enrolment; nil: it has none. If-None-Match is not one of a GET: the answer shows
// the state too, which the tag does not cover.
func precondition(r *http.Request) (subscriptions.Precondition, error) {
	match, noneMatch := r.Header.Values("If-Match"), r.Header.Values("If-None-Match")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		noneMatch = nil
	}
	if len(match) == 0 && len(noneMatch) == 0 {
		return nil, nil //nolint:nilnil // no precondition is not an error
	}
	want, ok := readETags(match)
	not, ok2 := readETags(noneMatch)
	if !ok || !ok2 {
		return nil, errETag
	}
	return func(d subscriptions.Device, known bool) error {
		tag := ""
		if known {
			tag = etag(d)
		}
		if len(match) > 0 && !want.has(tag, false) || len(noneMatch) > 0 && not.has(tag, true) {
			return errPrecondition
		}
		return nil
	}, nil
}

// etags are the tags of a header.
type etags struct {
	any  bool // *
	list []string
}

// has says whether a tag is among them; an empty one is that of no enrolment. weak: a weak tag of the list is as good as a strong one.
func (e etags) has(tag string, weak bool) bool {
	if tag == "" {
		return false
	}
	if e.any {
		return true
	}
	for _, one := range e.list {
		if one == tag || weak && strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}

// readETags reads the lines of a header: * or a list of entity tags.
func readETags(lines []string) (e etags, ok bool) {
	for _, rest := range lines {
		rest = strings.Trim(rest, " \t")
		if rest == "*" {
			e.any = true
			return e, len(lines) == 1
		}
		for rest != "" {
			if rest[0] == ',' { // an empty element of the list
				rest = strings.TrimLeft(rest[1:], " \t")
				continue
			}
			weak := strings.HasPrefix(rest, "W/")
			opaque := strings.TrimPrefix(rest, "W/")
			if !strings.HasPrefix(opaque, `"`) {
				return e, false
			}
			end := strings.IndexByte(opaque[1:], '"')
			if end < 0 || strings.ContainsFunc(opaque[1:1+end], func(c rune) bool { return c <= ' ' || c == 0x7f }) {
				return e, false
			}
			tag := opaque[:end+2]
			rest = strings.TrimLeft(opaque[end+2:], " \t")
			if rest != "" && rest[0] != ',' {
				return e, false
			}
			if weak {
				tag = "W/" + tag
			}
			e.list = append(e.list, tag)
		}
	}
	return e, len(lines) == 0 || len(e.list) > 0
}
