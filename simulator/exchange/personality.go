package exchange

// Servers that speak EWS and are not Microsoft's. The personality Gromox differs from Exchange as grommunio's server does,
// and a little more, so that a client that works with it works with others too:
//
//   - faults come with HTTP status 200, without detail, and ErrorCannotFindUser for an address that nobody has;
//   - request bodies without a length (chunked) are refused;
//   - times have six digits behind the second, and differ from call to call: an event has the time when it is written, and an
//     item's received time is up to two seconds earlier in one call than in the other;
//   - a heartbeat has a StatusEvent for each subscription that has nothing to tell, and events wait for the next one;
//   - GetStreamingEvents answers an error document for the ids that are wrong (ErrorInvalidSubscription, also for those of others)
//     with ConnectionStatus Closed (since gromox 3.10), and then continues all the same, even without a valid id;
//   - a subscription belongs to its mailbox: a stream of several mailboxes gets the events only of the one that it impersonates;
//   - subscription ids are made of small numbers that a restart uses again;
//   - envelopes have its prefixes, and the ids in ErrorSubscriptionIds no namespace;
//   - there is no affinity, so no cookie;
//   - Autodiscover is plain XML only: error 404 for an address that nobody has, the URL of EWS in EXHTTP and EXCH, none in EXPR.
//
// Its messages are not valid against the schema where the real ones are not.

import (
	"encoding/base64"
	"encoding/binary"
	"time"
)

// Gromox is the name of that personality.
const Gromox = "gromox"

// Forms of times. Exchange has whole seconds; the store behind it is finer.
const (
	wireTime   = "2006-01-02T15:04:05Z"
	gromoxTime = "2006-01-02T15:04:05.000000Z"
)

func (x *Host) wire(t time.Time) string {
	if x.gromox {
		return t.UTC().Format(gromoxTime)
	}
	return t.Format(wireTime)
}

// eventTime is the TimeStamp of an event that is being written.
func (x *Host) eventTime(e event) string {
	if x.gromox {
		return x.wire(x.clock.Now())
	}
	return x.wire(e.at)
}

// drift is by how much the times in the answer to a call differ from the true ones.
func (c *call) drift() time.Duration {
	if !c.x.gromox {
		return 0
	}
	const step, steps = 617_283_945, 4 // nanoseconds: up to 1.85 s
	return time.Duration(c.number%steps) * step
}

func (c *call) receivedTime(t time.Time) string { return c.x.wire(t.Add(-c.drift())) }

// sentTime differs only below the second, as that of real servers: it is a property of the message.
func (c *call) sentTime(it *item) string {
	t := it.sent()
	if c.x.gromox {
		t = t.Truncate(time.Second).Add(c.drift() % time.Second)
	}
	return c.x.wire(t)
}

// unknown is the error of a stream for ids without a subscription.
func (x *Host) unknown(ids ...string) streamError {
	if x.gromox {
		return streamError{"ErrorInvalidSubscription", "Subscription is invalid.", ids}
	}
	return streamError{"ErrorSubscriptionNotFound", notFoundText, ids}
}

// gromoxID is the id of its n-th subscription: the number, and the minutes after which it ends.
func gromoxID(n int) string {
	const minutes = 30
	b := binary.LittleEndian.AppendUint32(nil, uint32(n))
	return base64.StdEncoding.EncodeToString(binary.LittleEndian.AppendUint32(b, minutes))
}

// unknownUser is the fault of a call that acts on an address which nobody has.
func (x *Host) unknownUser() *soapFault {
	if x.gromox {
		return &soapFault{code: "ErrorCannotFindUser", text: "E-3330: impersonation: user not found"}
	}
	return noMailbox()
}

// bare is a fault with nothing but code and text.
func (f *soapFault) bare() []byte {
	code := f.code
	if f.violation != "" {
		code = "SOAP:Client"
	}
	b := make(markup, 0, 512)
	b.raw(`<SOAP:Envelope xmlns:SOAP="`, nsSOAP, `" xmlns:xsi="`, nsXSI, `" xmlns:xsd="`, nsXSD, `"><SOAP:Header/><SOAP:Body>`,
		`<SOAP:Fault><faultcode xsi:type="xsd:string">`, code, `</faultcode><faultstring xsi:type="xsd:string">`)
	b.text(f.text)
	b.raw(`</faultstring></SOAP:Fault></SOAP:Body></SOAP:Envelope>`)
	return b
}
