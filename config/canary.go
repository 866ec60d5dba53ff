package config

// The canary: mailboxes that send mail to themselves, so that the whole way to APNs is tried before somebody misses an alert.

import "time"

const (
	// maxCanaries bounds the mailboxes: one for each Exchange, or each database, is enough.
	maxCanaries = 10

	defaultCanaryEvery, minCanaryEvery, maxCanaryEvery    = 15 * time.Minute, time.Minute, 24 * time.Hour
	defaultCanaryWithin, minCanaryWithin, maxCanaryWithin = 2 * time.Minute, 10 * time.Second, time.Hour
)

// Canary says which mailboxes send mail to themselves.
type Canary struct {
	Mailboxes []string      // none: there is no canary
	Every     time.Duration // between two messages of a mailbox
	Within    time.Duration // after that a message is late; less than Every
}

func (o *object) canary() Canary {
	defer o.end()
	c := Canary{
		Mailboxes: o.texts("mailboxes", person),
		Every:     o.duration("every", defaultCanaryEvery, minCanaryEvery, maxCanaryEvery),
		Within:    o.duration("within", defaultCanaryWithin, minCanaryWithin, maxCanaryWithin),
	}
	if len(c.Mailboxes) > maxCanaries {
		o.get("mailboxes").fail("has %d mailboxes: want at most %d", len(c.Mailboxes), maxCanaries)
	}
	if c.Within >= c.Every {
		o.get("within").fail("want less than every, which is %s: else a message is lost before it is late", short(c.Every))
	}
	return c
}
