package certificate

// PFX (PKCS #12, RFC 7292): which variants are read, and how to convert the others.

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"strings"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// Unread is the error for a valid PFX of a variant that is not read.
type Unread struct {
	Why string
}

func (e *Unread) Error() string { return e.Advice("FILE") }

// Advice is the error for a file of this name: why it is not read, and the command that converts it. OpenSSL asks for the file's
// password, and twice for that of the new one.
func (e *Unread) Advice(file string) string {
	return "is a PFX " + e.Why + ", which is not read: convert it with: openssl pkcs12 -in " + file + " -aes256 -out client.pem" +
		" (and -legacy where that says that an algorithm is unsupported), and name client.pem here"
}

var errNeither = errors.New("is neither a PFX file nor PEM, or is damaged") // the parser's error helps nobody

func loadPFX(file []byte, password string) (key any, certificates []*x509.Certificate, err error) {
	key, leaf, chain, err := pkcs12.DecodeChain(file, password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return nil, nil, ErrPassword
	case err != nil && strings.Contains(err.Error(), "private key missing"):
		return nil, nil, ErrNoKey
	case err != nil && strings.Contains(err.Error(), "certificate missing"):
		return nil, nil, ErrNoCertificate
	case err != nil:
		return nil, nil, unread(file, err)
	}
	return key, append([]*x509.Certificate{leaf}, chain...), nil
}

// maxPFXHead is where the content type of a PFX begins at the latest: after two lengths and the version.
const maxPFXHead = 32

// unread says why a file could not be read as PFX.
func unread(file []byte, err error) error {
	// The content type data (1.2.840.113549.1.7.1): a file without it is something else.
	data := []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01}
	if !bytes.Contains(file[:min(len(file), maxPFXHead)], data) {
		return errNeither
	}
	const indefinite = 0x80 // a length that only BER has
	if file[1] == indefinite {
		return &Unread{Why: "in BER"}
	}
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(file, &outer); err != nil || len(rest) > 0 {
		return errNeither // cut off
	}
	var pfx struct {
		Version int
		Content struct {
			Type asn1.ObjectIdentifier
			Data asn1.RawValue
		}
		MAC asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(file, &pfx); err != nil {
		return &Unread{Why: "in BER"}
	}
	if len(pfx.MAC.FullBytes) == 0 {
		return &Unread{Why: "without a MAC"}
	}
	if e, ok := errors.AsType[pkcs12.NotImplementedError](err); ok {
		return &Unread{Why: "that is encrypted or built in an unusual way (" + strings.TrimPrefix(e.Error(), "pkcs12: ") + ")"}
	}
	return &Unread{Why: "that is built in an unusual way, or is damaged"}
}
