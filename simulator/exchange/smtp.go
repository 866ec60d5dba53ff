package exchange

// SMTP on loopback, so that any mail client can deliver to the mailboxes. It takes no credentials and relays nothing.

import (
	"io"
	"time"

	"github.com/emersion/go-smtp"
)

// Bounds of an SMTP session.
const (
	smtpTimeout     = 5 * time.Minute // RFC 5321 section 4.5.3.2
	smtpRecipients  = 1000
	smtpLine        = 4000 // RFC 5321 asks for 1,000; some senders write more
	smtpUnknownUser = 550
)

// SMTP makes a server that delivers to the mailboxes.
func (o *Organisation) SMTP() *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &smtpSession{org: o}, nil }))
	s.Domain = mailboxServer
	s.ReadTimeout, s.WriteTimeout = smtpTimeout, smtpTimeout
	s.MaxMessageBytes = MaxMessage
	s.MaxRecipients = smtpRecipients
	s.MaxLineLength = smtpLine
	s.EnableSMTPUTF8 = true
	return s
}

type smtpSession struct {
	org *Organisation
	to  []string
}

func (s *smtpSession) Mail(string, *smtp.MailOptions) error { return nil }

func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if x, _ := s.org.lookUp(to); x == nil {
		return &smtp.SMTPError{Code: smtpUnknownUser, EnhancedCode: smtp.EnhancedCode{5, 1, 10}, Message: "RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *smtpSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for _, to := range s.to {
		if _, err := s.org.Deliver(to, time.Time{}, raw); err != nil {
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "the mailbox has gone"}
		}
	}
	return nil
}

func (s *smtpSession) Reset()        { s.to = nil }
func (s *smtpSession) Logout() error { return nil }
