package exchange

// Servers that speak EWS and are not Microsoft's. The personality Gromox differs from Exchange as grommunio's server does,
// and a little more, so that a client that works with it works with others too:
//
//   - faults come with HTTP status 200, without detail;
//   - request bodies without a length (chunked) are refused;
//   - times have nine digits behind the second, and differ from call to call: an event has the time when it is written, and an
//     item's received time is up to two seconds earlier in one call than in the other;
//   - a heartbeat has an empty Notifications, and events wait for the next one;
//   - GetStreamingEvents answers an error document for the ids that are wrong (ErrorInvalidSubscription for those that it does
//     not know), and then continues, even without a valid id;
//   - a subscription belongs to its mailbox: a stream of several mailboxes gets the events only of the one that it impersonates;
//   - subscription ids are small numbers that a restart uses again, in elements without a namespace;
//   - there is no affinity, so no cookie.
//
// Its messages are not valid against the schema where the real ones are not.

import (
	"time"
)

// Gromox is the name of that personality.
const Gromox = "gromox"

// Forms of times. Exchange has whole seconds; the store behind it is finer.
const (
	wireTime   = "2006-01-02T15:04:05Z"
	gromoxTime = "2006-01-02T15:04:05.000000000Z"
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

// idElement is the name of an element SubscriptionId that belongs into the namespace of a prefix.
func (x *Host) idElement(prefix string) string {
	if x.gromox {
		return "SubscriptionId"
	}
	return prefix + "SubscriptionId"
}

// bare is a fault with nothing but code and text.
func (f *soapFault) bare() []byte {
	code := f.code
	if f.violation != "" {
		code = "SOAP:Client"
	}
	b := make(markup, 0, 512)
	b.raw(`<SOAP:Envelope xmlns:SOAP="`, nsSOAP, `"><SOAP:Header/><SOAP:Body><SOAP:Fault><faultcode>`, code, `</faultcode><faultstring>`)
	b.text(f.text)
	b.raw(`</faultstring></SOAP:Fault></SOAP:Body></SOAP:Envelope>`)
	return b
}
