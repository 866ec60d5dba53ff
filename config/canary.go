package config

// The canary: mailboxes that send mail to themselves, so that the whole way to APNs is tried before somebody misses an alert.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/hostname"
)

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

func (o *object) canary(entries []Exchange) Canary {
	defer o.end()
	c := Canary{
		Mailboxes: o.texts("mailboxes", coveredBy(entries)),
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

// coveredBy checks the address of a mailbox that one of the entries covers, and returns the form in which mailboxes are known. An entry without domains
// has a mistake in them.
func coveredBy(entries []Exchange) func(string) (string, error) {
	return func(s string) (string, error) {
		address, err := person(s)
		if err != nil {
			return "", err
		}
		name, at, _ := strings.Cut(address, "@")
		at, _ = hostname.ParseDomain(at)
		if len(entries) > 0 && !slices.ContainsFunc(entries, func(e Exchange) bool { return len(e.Domains) == 0 || slices.Contains(e.Domains, at) }) {
			return "", fmt.Errorf("no exchange entry has its mail domain under domains, so no device can be enrolled for it: %s", quoted(address))
		}
		return name + "@" + at, nil
	}
}
