package certificate

// PEM (RFC 7468) as editors, mail programs and shells write it.

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf16"
)

const begin = "-----BEGIN "

// beginLine is a BEGIN line with nothing behind it, which is all that is shown of one: behind it stands the key, where lines have run together.
var beginLine = regexp.MustCompile(`^-----BEGIN ([A-Z0-9 ]{1,40})-----$`)

// ErrNoAuthority is the error for a file of trust roots without one.
var ErrNoAuthority = errors.New("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")

// Blocks returns the PEM blocks of a file. A byte order mark, UTF-16 and indented lines are accepted, and text between the blocks is
// ignored. If a block cannot be read, the error names its line: encoding/pem leaves the block out silently, and its certificate would
// then be missing elsewhere.
func Blocks(file []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	lines := strings.Split(string(text(file)), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	for i := 0; i < len(lines); {
		if !strings.HasPrefix(lines[i], begin) {
			i++
			continue
		}
		end := i + 1
		for end < len(lines) && !strings.HasPrefix(lines[end], begin) {
			end++
		}
		block, _ := pem.Decode([]byte(strings.Join(lines[i:end], "\n") + "\n"))
		if block == nil {
			label := beginLine.FindStringSubmatch(lines[i])
			if label == nil {
				return nil, fmt.Errorf("the block that begins in line %d is damaged: its BEGIN line is not one, or others have run into it; "+
					"give each line a line of its own", i+1)
			}
			return nil, fmt.Errorf("the block that begins in line %d (%q) is damaged: copy it anew, from its BEGIN line to its END line", i+1, label[1])
		}
		blocks = append(blocks, block)
		i = end
	}
	return blocks, nil
}

// PEM returns the blocks of a file without the text between them, for crypto/tls and others.
func PEM(file []byte) ([]byte, error) {
	blocks, err := Blocks(file)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, block := range blocks {
		if isCertificate(block) {
			block.Type = "CERTIFICATE"
		}
		b.Write(pem.EncodeToMemory(block))
	}
	return b.Bytes(), nil
}

// Authorities reads the certificates of a file of trust roots: PEM, or one certificate in DER, as Windows exports it. The error is
// ErrNoAuthority if there is none.
func Authorities(file []byte) ([]*x509.Certificate, error) {
	if len(file) > 0 && file[0] == derSequence {
		c, err := x509.ParseCertificate(file)
		if err != nil {
			return nil, fmt.Errorf("is neither PEM nor one certificate in DER; convert a PKCS #7 file (.p7b) with: "+
				"openssl pkcs7 -inform der -in FILE -print_certs -out ca.pem (%w)", err)
		}
		return []*x509.Certificate{c}, nil
	}
	blocks, err := Blocks(file)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for _, block := range blocks {
		switch {
		case block.Type == "PKCS7":
			return nil, errors.New("is a PKCS #7 file: convert it with: openssl pkcs7 -in FILE -print_certs -out ca.pem")
		case !isCertificate(block):
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, ErrNoAuthority
	}
	return list, nil
}

// isCertificate reports whether a block is a certificate; the second label is of old versions of OpenSSL.
func isCertificate(block *pem.Block) bool {
	return block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE"
}

// derSequence is the first byte of a certificate and of a PFX.
const derSequence = 0x30

// text returns a file of text as UTF-8 without a byte order mark: Windows' editors write one, and its shell UTF-16.
func text(file []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(file, []byte("\xef\xbb\xbf")):
		return file[3:]
	case bytes.HasPrefix(file, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(file, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		return file
	}
	var units []uint16
	for b := file[2:]; len(b) >= 2; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	return []byte(string(utf16.Decode(units)))
}

// fromBase64 decodes a file in base64 without BEGIN and END, if it may be ASN.1.
func fromBase64(file []byte) ([]byte, bool) {
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(file)), ""))
	return der, err == nil && len(der) > 0 && der[0] == derSequence
}
