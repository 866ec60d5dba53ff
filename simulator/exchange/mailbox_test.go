package exchange

import (
	"bufio"
	"errors"
	"net/smtp"
	"strings"
	"testing"
	"time"
)

func TestSMTPDeliversToKnownMailboxesOnly(t *testing.T) {
	s, a, b := pair(t)
	if err := smtp.SendMail(s.SMTPAddr, nil, "x@partner.example", []string{a.mailbox, strings.ToUpper(b.mailbox)}, testMail("by SMTP")); err != nil {
		t.Fatal(err)
	}
	a.must(findItem(0, 1, "Descending"), "<t:Subject>by SMTP</t:Subject>")
	b.must(findItem(0, 1, "Descending"), "<t:Subject>by SMTP</t:Subject>")
	if err := smtp.SendMail(s.SMTPAddr, nil, "x@partner.example", []string{"nobody@contoso.example"}, testMail("x")); err == nil || !strings.HasPrefix(err.Error(), "550") {
		t.Errorf("an unknown mailbox: %v", err)
	}
}

func TestDeliveryNamesWhatIsWrong(t *testing.T) {
	s, a, _ := pair(t)
	if _, err := s.Deliver("nobody@contoso.example", time.Time{}, nil); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("%v", err)
	}
	if _, err := s.Deliver(a.mailbox, time.Time{}, make([]byte, MaxMessage+1)); err == nil {
		t.Error("a message over the limit is taken")
	}
}

func TestThousandsOfMailboxesAreListenedToAtOnce(t *testing.T) {
	const mailboxes, each = 2000, 3
	s := start(t, mailboxes, Options{OnMessage: func(string, string, []byte) {}}) // not validated: it is many
	var ids []string
	c := newClient(t, s, "")
	for _, address := range s.Mailboxes() {
		c.mailbox = address
		ids = append(ids, c.subscribe(subscribeNewMail))
	}
	got := make(chan int, mailboxes)
	for at := 0; at < len(ids); at += maxIDs {
		c.mailbox = s.Mailboxes()[at]
		o := c.stream(ids[at : at+maxIDs]...)
		go func() {
			r := bufio.NewReaderSize(o.resp.Body, 1<<16)
			for n := 0; n < maxIDs*each; {
				line, err := r.ReadString('>')
				if err != nil {
					break
				}
				if line == "<t:NewMailEvent>" {
					n++
					got <- 1
				}
			}
		}()
	}
	for range each {
		for _, address := range s.Mailboxes() {
			deliver(t, s, address, "x")
		}
	}
	deadline := time.After(soon)
	for n := range mailboxes * each {
		select {
		case <-got:
		case <-deadline:
			t.Fatalf("%d of %d events within %v", n, mailboxes*each, soon)
		}
	}
}
