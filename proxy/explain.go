package proxy

// What went wrong with a connection, in words and as a type.

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/mailbell/mailbell/internal/fault"
)

// The codes of what can go wrong with a connection, in fault.Error.Code. All concern the Server.
const (
	CodeCertificate = "certificate" // shown, and not trusted: Fix
	CodeTLS         = "TLS"         // the handshake failed otherwise: Fix
	CodeName        = "name"        // not found in DNS, or DNS did not answer: Wait
	CodeConnect     = "connect"     // refused or unreachable: Wait
	CodeTimeout     = "timeout"     // no answer in time: Wait
	CodeNetwork     = "network"     // broke under way: Retry
)

const (
	maxText  = 300 // of a peer's own words in an error: enough for a sentence and a name, too little to flood a log
	maxNames = 5   // of a certificate, in an error
)

// Explain types the error of a round trip: what failed with the connection and what to do. An error that is typed already,
// as a credential's refusal is, stays as it is. op is what was tried; it becomes Op.
func Explain(op string, err error) *fault.Error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	e := &fault.Error{Op: op, Scope: fault.Server, Err: cleaned{err}}
	switch cert, kind := failed(err); {
	case kind == CodeCertificate:
		e.Code, e.Remedy, e.Text = kind, fault.Fix, describe(cert)
	case kind == CodeTLS:
		e.Code, e.Remedy, e.Text = kind, fault.Fix, "no TLS connection could be agreed on"
	case kind == CodeTimeout:
		e.Code, e.Remedy, e.Text = kind, fault.Wait, "no answer in time"
	case kind == CodeName:
		e.Code, e.Remedy, e.Text = kind, fault.Wait, "the host name could not be looked up"
	case kind == CodeConnect:
		e.Code, e.Remedy, e.Text = kind, fault.Wait, "the server cannot be reached"
	default:
		e.Code, e.Remedy, e.Text = CodeNetwork, fault.Retry, "the connection broke"
	}
	return e
}

// failed finds the kind of a connection's error, and the certificate where that was at fault and is known.
func failed(err error) (*x509.Certificate, string) {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if len(e.UnverifiedCertificates) > 0 {
			return e.UnverifiedCertificates[0], CodeCertificate
		}
		return nil, CodeCertificate
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return nil, CodeTLS
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return nil, CodeTLS
	}
	// A DNS server that does not answer is a matter of names, not of the server that was to be asked.
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return nil, CodeName
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return nil, CodeTimeout
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return nil, CodeConnect
	}
	// What is left of the handshake's errors has no type: no common version, no common cipher.
	if strings.Contains(err.Error(), "tls: ") {
		return nil, CodeTLS
	}
	return nil, CodeNetwork
}

// describe names what an administrator needs to know of a certificate that was refused.
func describe(c *x509.Certificate) string {
	if c == nil {
		return "the server's certificate is not trusted"
	}
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	more := ""
	if len(names) > maxNames {
		names, more = names[:maxNames], fmt.Sprintf(" and %d more", len(names)-maxNames)
	}
	return Printable(fmt.Sprintf("the server's certificate %q for %s%s, issued by %q, valid from %s to %s, is not trusted", c.Subject.String(),
		strings.Join(names, ", "), more, c.Issuer.String(), c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly)), 2*maxText)
}

// Printable makes the words of a peer fit for an error: one line without control characters, of at most limit bytes.
func Printable(s string, limit int) string {
	s = s[:min(len(s), 4*limit)] // what is dropped below anyway is not gone through
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// cleaned is an error whose text is printable: a server's certificate may name itself as it likes.
type cleaned struct{ error }

func (c cleaned) Error() string { return Printable(c.error.Error(), maxText) }
func (c cleaned) Unwrap() error { return c.error }
