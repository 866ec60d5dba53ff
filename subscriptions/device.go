package subscriptions

import (
	"strings"
	"time"
	"unique"

	"github.com/mailbell/mailbell/mail"
)

// Device is an enrolment: one mailbox, one token, one topic. A phone with two mailboxes has two.
type Device struct {
	ID          string    `json:"id"`                    // the MDM portal's choice, 1 to 128 of A-Za-z0-9._:@-
	Mailbox     string    `json:"mailbox"`               // the address as enrolled, normalised
	Record      string    `json:"record"`                // the id of the mailbox's record
	Token       string    `json:"token"`                 // APNs device token, lower-case hex, 64 to 200 characters; only ever in the state
	Topic       string    `json:"topic"`                 // the app's bundle id
	Environment string    `json:"environment"`           // production or sandbox
	Exchange    string    `json:"exchange,omitempty"`    // pins the exchange entry
	Created     time.Time `json:"created"`               // on our clock
	Enrolled    time.Time `json:"enrolled"`              // on our clock: when the token was last confirmed; APNs' 410 is compared with it
	Label       string    `json:"label,omitempty"`       // the MDM portal's words for it, for people
	ReceiptKey  string    `json:"receipt_key,omitempty"` // public, of the phone: it signs receipts with it
	Since       time.Time `json:"since"`                 // rule 5: gets alerts of what was received since then, on the server's clock; zero until that clock is known
}

// share has the device share with all others the strings that thousands have in common: each was read from its own text.
func (d *Device) share() {
	for _, s := range []*string{&d.Topic, &d.Environment, &d.Exchange} {
		*s = unique.Make(*s).Value()
	}
}

// oneText puts strings that are kept for equally long into one: with fewer objects, the garbage collector is done sooner.
func oneText(list ...*string) {
	n := 0
	for _, s := range list {
		n += len(*s)
	}
	var b strings.Builder
	b.Grow(n)
	for _, s := range list {
		b.WriteString(*s)
	}
	text := b.String()
	for _, s := range list {
		*s, text = text[:len(*s)], text[len(*s):]
	}
}

// Enrolment is what an MDM portal asks for. Its fields are checked already.
type Enrolment struct {
	ID, Mailbox, Token, Topic, Environment, Exchange, Label, ReceiptKey string
}

// Beginning is when and where an enrolment begins.
type Beginning struct {
	Now   time.Time // on our clock
	Since time.Time // now on the server's clock less the tolerance (rule 5); zero where that clock is not known yet

	// Of a new mailbox, if nobody has to be asked for them: where it lives, and the account that listens to it. zero: they are not known
	// yet.
	Location mail.Location
	Account  string
}
