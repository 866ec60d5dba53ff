// Package certificate reads a certificate with its key from a file, as current versions of OpenSSL and Windows write it: PFX (PKCS #12,
// RFC 7292), or PEM (RFC 7468).
package certificate

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// maxFile bounds a certificate file; one with a key and a long chain has some 20 KiB.
const maxFile = 1 << 20

// The errors of a certificate file that callers distinguish.
var (
	ErrPassword      = errors.New("the password does not open the key")
	ErrNoKey         = errors.New("holds no private key: it is needed beside the certificate")
	ErrNoCertificate = errors.New("holds no certificate: it is needed beside the key")
	ErrKeyMismatch   = errors.New("the private key matches none of its certificates")
)

// Load reads the content of a file with a certificate and its private key: a PFX, in base64 or not, or PEM with both, the key as PKCS #1,
// SEC 1 or PKCS #8, encrypted with the password or not. The error of a PFX that has to be converted is an *Unread. The other certificates
// in the file are its chain, in their order. Leaf is set. An expired certificate is loaded too: the server decides about it.
func Load(file []byte, password string) (*tls.Certificate, error) {
	if len(file) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes: not a certificate file", maxFile)
	}
	var key any
	var certificates []*x509.Certificate
	var err error
	if file = text(file); bytes.Contains(file, []byte(begin)) {
		key, certificates, err = loadPEM(file, password)
	} else {
		if der, ok := fromBase64(file); ok {
			file = der
		}
		key, certificates, err = loadPFX(file, password)
	}
	if err != nil {
		return nil, err
	}
	return keyPair(key, certificates)
}

// keyPair puts the certificate of a key before the others.
func keyPair(key any, certificates []*x509.Certificate) (*tls.Certificate, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("its private key is of a kind that cannot sign")
	}
	c := &tls.Certificate{PrivateKey: key}
	var chain [][]byte
	for _, x := range certificates {
		public, ok := x.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if c.Leaf == nil && ok && public.Equal(signer.Public()) {
			c.Leaf = x
		} else {
			chain = append(chain, x.Raw)
		}
	}
	if c.Leaf == nil {
		return nil, ErrKeyMismatch
	}
	c.Certificate = append([][]byte{c.Leaf.Raw}, chain...)
	return c, nil
}

func loadPEM(file []byte, password string) (key any, certificates []*x509.Certificate, err error) {
	blocks, err := Blocks(file)
	if err != nil {
		return nil, nil, err
	}
	for _, block := range blocks {
		if block.Type == "PKCS12" || block.Type == "PFX" {
			return loadPFX(block.Bytes, password)
		}
		if isCertificate(block) {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("a certificate cannot be read: %w", err)
			}
			certificates = append(certificates, c)
			continue
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if key != nil {
			return nil, nil, errors.New("holds several private keys: want one")
		}
		if key, err = loadKey(block, password); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case key == nil:
		return nil, nil, ErrNoKey
	case len(certificates) == 0:
		return nil, nil, ErrNoCertificate
	}
	return key, certificates, nil
}

// loadKey reads the PEM block of a private key.
func loadKey(block *pem.Block, password string) (key any, err error) {
	der := block.Bytes
	switch _, old := block.Headers["DEK-Info"]; {
	case old:
		//nolint:staticcheck // how OpenSSL wrote keys until 2021 (RFC 1423): weak, but no stronger for being refused
		if der, err = x509.DecryptPEMBlock(block, []byte(password)); err != nil {
			if errors.Is(err, x509.IncorrectPasswordError) {
				return nil, ErrPassword
			}
			return nil, fmt.Errorf("the private key cannot be read: %w", err)
		}
	case block.Type == "ENCRYPTED PRIVATE KEY":
		if der, err = decryptPKCS8(der, password); err != nil {
			return nil, err
		}
	}
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	default:
		return nil, fmt.Errorf("mailbell does not know private keys of the kind %q", block.Type)
	}
	switch {
	case err != nil && !bytes.Equal(der, block.Bytes):
		return nil, ErrPassword // one wrong password in 256 leaves a valid padding
	case err != nil:
		return nil, fmt.Errorf("the private key cannot be read: %w", err)
	}
	return key, nil
}
