package api

// What phones say for themselves: receipts of alerts that they showed, and the question whether alerts are to come. They need no bearer
// token: the signature with the key of the enrolment is the credential. Whoever has not got it learns nothing, not even which devices there
// are.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// signatureHeader has the signature of a request: base64 of r and s.
	signatureHeader = "Mailbell-Signature"
	// maxSigned bounds the body of a phone's request: sixteen receipts have 2 KiB.
	maxSigned = 8 << 10
	// answering is how long a phone has for the receipt of an alert, before it counts as one that was not shown: the extension has 30 seconds
	// to work on an alert.
	answering = time.Minute
)

var (
	errSignature = func() *Problem {
		p := newProblem("wrong_signature", "the signature is not that of the receipt_key of an enrolled device")
		p.authenticate = "" // no bearer token would do
		return p
	}()
	errManyReceipts = newProblem("too_many_receipts", "a phone may send one request a second")
	errSignedLarge  = newProblem("body_too_large", "the body is larger than 8 KiB")
)

// What a phone signs is one of these, and the bytes of the body: a signature of one call is of no use for the other.
const (
	signedReceipts  = "POST /v1/receipts\n"
	signedSelfCheck = "POST /v1/self-check\n"
)

// signed checks the signature of a phone. It takes as long, and answers the same, whether there is such a device or not.
func (a *API) signed(r *http.Request, call string, device string, body []byte) (subscriptions.Device, error) {
	signature, err := receipts.ParseSignature(r.Header.Get(signatureHeader))
	if err != nil {
		signature = nil // which is nobody's
	}
	d, ok := a.Receipts.Signed(device, append([]byte(call), body...), signature)
	if !ok {
		a.failed.counter.WithLabelValues(reasonWrongSignature).Inc()
		pause.For(r.Context(), a.failed.note(clientAddress(r), forwardedFor(r)))
		return d, errSignature
	}
	if wait := a.Receipts.Allow(d.ID); wait > 0 {
		busy := *errManyReceipts
		busy.retryAfter = strconv.Itoa(int((wait + time.Second - 1) / time.Second))
		return d, &busy
	}
	return d, nil
}

// receive takes receipts.
func (a *API) receive(r *http.Request) (answer, error) {
	body, err := readSigned(r)
	if err != nil {
		return answer{}, err
	}
	device, list, err := readReceipts(body)
	if err != nil {
		return answer{}, err
	}
	d, err := a.signed(r, signedReceipts, device, body)
	if err != nil {
		return answer{}, err
	}
	if err := a.Receipts.Take(r.Context(), d, list); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

// readSigned reads the body of a phone's request. Anybody can send one, so no room is made for more than it may have.
func readSigned(r *http.Request) ([]byte, error) { return readAtMost(r, maxSigned, errSignedLarge) }

// readReceipts reads the body of a request with receipts.
func readReceipts(body []byte) (device string, list []receipts.Shown, err error) {
	fields, err := readObject(body)
	if err != nil {
		return "", nil, err
	}
	f := &form{fields: fields}
	device = f.text("d", true, pattern.Device.Check)
	var lines []json.RawMessage
	value := f.take("shown")
	switch {
	case value == nil:
		f.fail("shown", codeRequired, "is required")
	case json.Unmarshal(value, &lines) != nil:
		f.fail("shown", codeWrongType, "want a list")
	case len(lines) == 0 || len(lines) > receipts.MaxShown:
		f.fail("shown", codeInvalid, fmt.Sprintf("want 1 to %d receipts", receipts.MaxShown))
	default:
		for i, line := range lines {
			list = append(list, f.receipt(fmt.Sprintf("shown[%d]", i), line))
		}
	}
	if err := f.end(); err != nil {
		return "", nil, err
	}
	return device, list, nil
}

// receipt reads one of them. name is what it is called in errors.
func (f *form) receipt(name string, line []byte) (s receipts.Shown) {
	fields, err := readObject(line)
	if err != nil {
		f.fail(name, codeWrongType, "want an object with m and at")
		return s
	}
	one := &form{fields: fields}
	one.text("m", false, func(text string) (string, error) {
		key, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(key) != len(s.Key) || len(text) != base64.RawURLEncoding.EncodedLen(len(s.Key)) {
			return "", errors.New("want the m of an alert: 22 characters")
		}
		s.Key = mail.Key(key)
		return text, nil
	})
	s.At = one.moment("at")
	if p, ok := errors.AsType[*Problem](one.end()); ok {
		for _, e := range p.Errors {
			f.fail(name+"."+e.Field, e.Code, e.Detail)
		}
	}
	return s
}

// moment returns a field that is a time, which is required.
func (f *form) moment(name string) (at time.Time) {
	f.text(name, true, func(text string) (string, error) {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return "", errors.New("want a time of RFC 3339, as in 2026-11-28T09:30:00Z")
		}
		at = t
		return text, nil
	})
	return at
}

// receiptsOf says whether the phone of a device answers, by the decisions about its mailbox; nil: it has no key to sign with.
func (a *API) receiptsOf(d subscriptions.Device, decisions []subscriptions.Decision, now time.Time) *DeviceReceipts {
	if d.ReceiptKey == "" {
		return nil
	}
	r := &DeviceReceipts{Last: a.Receipts.Last(d.ID).UTC()}
	for _, one := range decisions {
		switch {
		case one.Device != d.ID || one.Outcome != outcome.Accepted:
		case !one.Shown.IsZero():
			r.Shown++
			r.Accepted++
		case now.Sub(one.At) >= answering:
			r.Accepted++
		}
	}
	return r
}

// Sentence says whether the phone answers.
func (r DeviceReceipts) Sentence() string {
	missing := r.Accepted - r.Shown
	switch {
	case r.Accepted == 0:
		return "No alert is remembered that the phone could have confirmed."
	case missing == 0 && r.Accepted == 1:
		return "The phone has confirmed its last alert."
	case missing == 0:
		return fmt.Sprintf("The phone has confirmed its last %d alerts.", r.Accepted)
	case r.Accepted == 1:
		return "The phone has not confirmed its last alert."
	case r.Shown == 0:
		return fmt.Sprintf("The phone has confirmed none of its last %d alerts.", r.Accepted)
	}
	return fmt.Sprintf("The phone has not confirmed %d of its last %d alerts.", missing, r.Accepted)
}
