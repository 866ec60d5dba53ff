package api

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mailbell/mailbell/internal/hidden"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	maxBody   = 64 << 10 // of a request: an enrolment with all fields of later versions has a few KiB
	maxErrors = 50       // in one answer: more tell nobody more, and a body of wrong fields would come back larger
	maxShown  = 64       // characters of an unknown field's name that are shown
	minToken  = 64       // hex characters of a device token: 32 bytes, as they have always been
	maxToken  = 200      // Apple: "variable length", and at most 100 bytes so far
	maxLabel  = 100      // characters: more than any page has room for
)

// environment is one of APNs.
var environment = pattern.New(`^(production|sandbox)$`, "production or sandbox")

// later are the fields that only later versions have.
var later = []string{"content", "badge", "sound", "time_zone", "quiet_hours", "vip", "ignore", "only_important", "summary", "public_key"}

// readBody returns the body of a request, whose Content-Type must not be another one than JSON.
func readBody(r *http.Request) ([]byte, error) { return readAtMost(r, maxBody, errTooLarge) }

// readAtMost is readBody for a body of so many bytes, and the error of a larger one.
func readAtMost(r *http.Request, most int64, tooLarge error) ([]byte, error) {
	if t := r.Header.Get("Content-Type"); t != "" {
		kind, _, err := mime.ParseMediaType(t)
		// curl -d sends the type of a form with any body.
		if err != nil || kind != "application/json" && kind != "application/x-www-form-urlencoded" && !strings.HasSuffix(kind, "+json") {
			return nil, errContentType
		}
	}
	var data []byte
	var err error
	if n := r.ContentLength; n >= 0 && n <= most {
		data = make([]byte, n)
		_, err = io.ReadFull(r.Body, data)
	} else {
		data, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, most))
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, errBroken
	}
	return data, nil
}

// readObject reads the members of a JSON object (RFC 8259). Unlike encoding/json it refuses a name that occurs twice, and compares names
// with case, and passes over a byte order mark, with which Windows begins files.
func readObject(data []byte) (map[string]json.RawMessage, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var fields map[string]json.RawMessage
	err := json.Unmarshal(data, &fields)
	_, isOther := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case err != nil && !isOther || !utf8.Valid(data):
		return nil, errNotJSON
	case isOther || fields == nil: // null
		return nil, invalid(FieldError{Field: "body", Code: codeWrongType, Detail: "want an object"})
	case len(fields) != members(data): // the last of two with one name is there
		return nil, errTwice
	}
	return fields, nil
}

// members counts the members of an object that is valid JSON: it has a colon for each.
func members(object []byte) (n int) {
	depth, quoted := 0, false
	for i := 0; i < len(object); i++ {
		switch c := object[i]; {
		case quoted && c == '\\':
			i++ // whatever follows is no end
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ':' && depth == 1:
			n++
		}
	}
	return n
}

// form is a body whose fields are read one by one. Fields that are not read are unknown.
type form struct {
	fields map[string]json.RawMessage
	errs   []FieldError
}

func (f *form) fail(field, code, detail string) {
	if len(f.errs) < maxErrors {
		f.errs = append(f.errs, FieldError{field, code, detail})
	}
}

// take returns a field; nil if it is left out or null.
func (f *form) take(name string) json.RawMessage {
	value := f.fields[name]
	delete(f.fields, name)
	if string(value) == "null" {
		return nil
	}
	return value
}

// text returns a field that is a text, after check. An empty one is the same as none.
func (f *form) text(name string, required bool, check func(string) (string, error)) string {
	var s string
	if value := f.take(name); len(value) > 1 && value[0] == '"' && !bytes.ContainsRune(value, '\\') {
		s = string(value[1 : len(value)-1]) // as nearly all are: it stands for itself
	} else if value != nil && json.Unmarshal(value, &s) != nil {
		f.fail(name, codeWrongType, "want a text")
		return ""
	}
	if s == "" {
		if required {
			f.fail(name, codeRequired, "is required")
		}
		return ""
	}
	s, err := check(s)
	if err != nil {
		f.fail(name, codeInvalid, err.Error())
	}
	return s
}

// refuseLater reports the fields of later versions.
func (f *form) refuseLater() {
	for _, name := range later {
		if f.take(name) != nil {
			f.fail(name, codeNotAvailable, "not available in this version of mailbell: leave it out")
		}
	}
}

// end reports the fields that were not read, and returns all that is wrong; nil: nothing.
func (f *form) end() error {
	for _, name := range slices.Sorted(maps.Keys(f.fields)) {
		if utf8.RuneCountInString(name) > maxShown {
			name = string([]rune(name)[:maxShown]) + "…"
		}
		f.fail(name, codeUnknown, "there is no such field")
	}
	if len(f.errs) > 0 {
		return invalid(f.errs...)
	}
	return nil
}

// readEnrolment checks all of an enrolment that does not depend on the configuration, and reports everything that is wrong at once.
func readEnrolment(id string, body []byte) (subscriptions.Enrolment, error) {
	fields, err := readObject(body)
	if err != nil {
		return subscriptions.Enrolment{}, err
	}
	f := &form{fields: fields}
	if _, err := deviceID(id); err != nil {
		f.fail("id", codeInvalid, err.Error())
	}
	return f.enrolment(id)
}

// readLine is readEnrolment for a line of an import, which has the id in it. The id is returned as far as it can be read.
func readLine(line []byte) (id string, e subscriptions.Enrolment, err error) {
	fields, err := readObject(line)
	if err != nil {
		return "", e, err
	}
	f := &form{fields: fields}
	id = f.text("id", true, deviceID)
	e, err = f.enrolment(id)
	return id, e, err
}

// enrolment reads the fields of one.
func (f *form) enrolment(id string) (subscriptions.Enrolment, error) {
	e := subscriptions.Enrolment{
		ID:          id,
		Mailbox:     f.text("mailbox", true, mail.ParseAddress),
		Token:       f.text("token", true, deviceToken),
		Topic:       f.text("topic", false, pattern.Topic.Check),
		Environment: f.text("environment", false, environment.Check),
		Exchange:    f.text("exchange", false, pattern.Name.Check),
		Label:       f.text("label", false, label),
		ReceiptKey:  f.text("receipt_key", false, receipts.CheckKey),
	}
	f.refuseLater()
	if err := f.end(); err != nil {
		return subscriptions.Enrolment{}, err
	}
	return e, nil
}

// deviceID checks an id that is chosen. With . and .. a client would shorten the path of the device (RFC 3986 section 5.2.4), and reach
// another one.
func deviceID(s string) (string, error) {
	if s == "." || s == ".." {
		return "", errors.New(". and .. are no ids: a path cannot end with them")
	}
	return pattern.Device.Check(s)
}

// label checks the words that people know a device by. They are shown as they are, so they must not turn the text around them.
func label(s string) (string, error) {
	if utf8.RuneCountInString(s) > maxLabel {
		return "", fmt.Errorf("want at most %d characters", maxLabel)
	}
	if r, found := hidden.InLine(s); found {
		return "", fmt.Errorf("want one line of text without characters that cannot be seen: it has %U", r)
	}
	return s, nil
}

// deviceToken checks a device token in hex. Its errors do not show it.
func deviceToken(s string) (string, error) {
	if _, err := hex.DecodeString(s); err != nil || len(s) < minToken || len(s) > maxToken {
		return "", fmt.Errorf("want the device token in hex: an even number of %d to %d characters of 0-9 a-f", minToken, maxToken)
	}
	return strings.ToLower(s), nil
}
