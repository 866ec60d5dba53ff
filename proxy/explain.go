package proxy

// The errors of a connection: their types, and texts that explain them.

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mailbell/mailbell/internal/fault"
)

// The codes of what can go wrong with a connection, in fault.Error.Code. All concern the Server.
const (
	CodeCertificate = "certificate"     // shown, and not trusted: Fix
	CodeTLS         = "TLS"             // the handshake failed otherwise: Fix
	CodePlain       = "plain text"      // where TLS was expected. Retry: the server may have too many connections. Fix: the port has no TLS
	CodeSecure      = "TLS unexpected"  // where plain text was: Fix
	CodeName        = "name"            // not found in DNS, or DNS did not answer: Wait
	CodeConnect     = "connect"         // refused or unreachable: Wait
	CodeTimeout     = "timeout"         // no answer in time: Wait
	CodeNetwork     = "network"         // broke under way: Retry
	CodeProxy       = "proxy"           // Fix: the proxy refuses, or is not the configured one. Wait: it cannot be reached, or cannot reach the server
	CodePrivate     = "private address" // the host is not in the internet, and must be: Fix
)

const (
	maxText  = 300 // of a peer's own text in an error: enough for a sentence and a name, too little to flood a log
	maxNames = 5   // of a certificate, in an error
)

// Explain types the error of a round trip: what failed with the connection, and what to do. An error that is typed already, such as the
// refusal of a credential, stays as it is. op is what was tried; it becomes Op.
func Explain(op string, err error) *fault.Error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	if e := socksRefusal(err); e != nil {
		return e
	}
	if m, ok := errors.AsType[*mismatch](err); ok {
		e := m.fault()
		e.Op, e.Scope = op, fault.Server
		return e
	}
	e := &fault.Error{Op: op, Scope: fault.Server, Err: cleaned{err}}
	switch cert, kind := failed(err); {
	case kind == CodeCertificate:
		e.Code, e.Remedy, e.Text = kind, fault.Fix, "the server's "+describe(cert, err)
		e.Detail = flawOf(cert, err)
	case wantsCertificate(err):
		e.Code, e.Remedy, e.Text = CodeTLS, fault.Fix, "the server wants a certificate of this client, and mailbell has none for it"
		e.Detail = fault.ClientUnknown
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

// failed finds the kind of a connection's error, and the certificate that caused it if it is known.
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
	// A DNS server that does not answer is an error of the name, not of the server.
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return nil, CodeName
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return nil, CodeTimeout
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return nil, CodeConnect
	}
	// The other errors of the handshake have no type: no common version, no common cipher.
	if strings.Contains(err.Error(), "tls: ") {
		return nil, CodeTLS
	}
	return nil, CodeNetwork
}

// The words of crypto/tls for the alert with which a server says that it wants a certificate of the client (RFC 8446 section 6.2); they
// have no exported type. A test holds them against the Go that is used.
const (
	opAlert              = "remote error"
	textCertificateAlert = "tls: certificate required"
)

func wantsCertificate(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == opAlert && e.Err != nil && e.Err.Error() == textCertificateAlert
}

// flawOf is what is wrong with a certificate, for who chooses by it.
func flawOf(c *x509.Certificate, err error) fault.Detail {
	if c == nil {
		return fault.None
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return fault.OtherName
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return fault.Untimely
		}
		return fault.None
	}
	if _, ok := errors.AsType[x509.SystemRootsError](err); ok {
		return fault.NoRoots
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		return fault.None
	}
	if untimelyAuthority(err) != nil {
		return fault.Untimely
	}
	if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
		return fault.NoRoots
	}
	return fault.UnknownIssuer
}

// untimelyAuthority is the authority in the chain whose dates are wrong; nil: none. crypto/x509 then finds no chain and knows no authority.
func untimelyAuthority(err error) *x509.Certificate {
	e, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok || len(e.UnverifiedCertificates) == 0 {
		return nil
	}
	for _, authority := range e.UnverifiedCertificates[1:] {
		if now := time.Now(); now.After(authority.NotAfter) || now.Before(authority.NotBefore) {
			return authority
		}
	}
	return nil
}

// OfTLS says whether an error is one of a handshake, or of a certificate.
func OfTLS(err error) bool {
	_, kind := failed(err)
	return kind == CodeTLS || kind == CodeCertificate
}

// describe names what an administrator needs to know of a certificate that was refused, and what is wrong with it.
func describe(c *x509.Certificate, err error) string {
	if c == nil {
		return "certificate is not trusted"
	}
	return Printable("certificate "+identity(c), 2*maxText) + ", is not trusted: " + Printable(flaw(c, err), 2*maxText)
}

// identity names a certificate: subject, names, issuer and dates.
func identity(c *x509.Certificate) string {
	return fmt.Sprintf("%q for %s, issued by %q, valid from %s to %s", Printable(c.Subject.String(), maxText/3), names(c), Printable(c.Issuer.String(), maxText/3),
		c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly))
}

func names(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no host name" // the common name has not counted for years (RFC 9525)
	case len(names) > maxNames:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}

// flaw explains what is wrong with a certificate.
func flaw(c *x509.Certificate, err error) string {
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("%s was asked for, and the certificate is for %s", Printable(e.Host, maxText/3), names(c))
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		at := "it"
		if e.Cert != nil && !e.Cert.Equal(c) {
			at = "the certificate of the authority " + identity(e.Cert)
		}
		switch e.Reason {
		case x509.Expired:
			if e.Cert == nil {
				e.Cert = c
			}
			return at + untimely(e.Cert)
		case x509.IncompatibleUsage:
			return at + " is not meant for servers (extended key usage)"
		}
		return at + " is not valid: " + e.Error()
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		return "it cannot be verified"
	}
	// If the certificate of an authority has expired, crypto/x509 only says that the authority is unknown.
	if authority := untimelyAuthority(err); authority != nil {
		return "the certificate of the authority " + identity(authority) + untimely(authority)
	}
	if bytes.Equal(c.RawIssuer, c.RawSubject) {
		return "it was issued by itself: if it is the right one, put it into ca_file"
	}
	return "its authority is unknown: put the certificate of the one that issued it into ca_file, or let the server send those in between"
}

// untimely says how a certificate's dates are wrong.
func untimely(c *x509.Certificate) string {
	now := time.Now().UTC()
	today := "this machine's clock says " + now.Format(time.DateOnly)
	if now.Before(c.NotBefore) {
		return fmt.Sprintf(" is not yet valid, but from %s on; %s: is it right?", c.NotBefore.UTC().Format(time.DateOnly), today)
	}
	return fmt.Sprintf(" expired on %s; %s", c.NotAfter.UTC().Format(time.DateOnly), today)
}

// Printable makes a peer's text fit for an error: one line without control characters, of at most limit bytes.
func Printable(s string, limit int) string {
	s = s[:min(len(s), 4*limit)] // what is dropped below anyway is not gone through
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// cleaned is an error with a printable text: the names in a server's certificate can be anything.
type cleaned struct{ error }

func (c cleaned) Error() string { return Printable(c.error.Error(), maxText) }
func (c cleaned) Unwrap() error { return c.error }
