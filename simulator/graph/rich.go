package graph

// Notifications with content: encrypted for the certificate of the subscription.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // what Graph names a certificate by, and the hash of its RSA-OAEP
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// Bounds of a certificate.
const (
	maxCertificateID = 128
	minKeyBits       = 2048
	maxKeyBits       = 4096
)

// encryption is what the content of notifications is encrypted with.
type encryption struct {
	id         string // encryptionCertificateId
	thumbprint string
	key        *rsa.PublicKey
	wanted     shape // $select of the resource
}

// encryptedContent is the content on the wire.
type encryptedContent struct {
	Data          string `json:"data"`
	DataSignature string `json:"dataSignature"`
	DataKey       string `json:"dataKey"`
	ID            string `json:"encryptionCertificateId"`
	Thumbprint    string `json:"encryptionCertificateThumbprint"`
}

// readEncryption reads what a subscription with resource data needs, and says what is wrong.
func readEncryption(certificate, id, resource string) (*encryption, string) {
	if certificate == "" || id == "" {
		return nil, "encryptionCertificate and encryptionCertificateId are required where includeResourceData is true."
	}
	if len(id) > maxCertificateID {
		return nil, "encryptionCertificateId exceeds 128 characters."
	}
	_, query, _ := strings.Cut(resource, "?")
	values, err := url.ParseQuery(query)
	if err != nil || values.Get("$select") == "" {
		return nil, "A resource of Outlook needs $select where includeResourceData is true."
	}
	for name := range strings.SplitSeq(values.Get("$select"), ",") {
		if name == "body" || name == "uniqueBody" {
			return nil, "The property '" + name + "' cannot be part of a notification."
		}
	}
	der, err := base64.StdEncoding.DecodeString(certificate)
	if err != nil {
		return nil, "encryptionCertificate is not base64."
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, "encryptionCertificate is not an X.509 certificate."
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < minKeyBits || key.N.BitLen() > maxKeyBits {
		return nil, "encryptionCertificate needs an RSA key of 2048 to 4096 bits."
	}
	sum := sha1.Sum(der) //nolint:gosec // see the import
	return &encryption{id: id, thumbprint: strings.ToUpper(hex.EncodeToString(sum[:])), key: key}, ""
}

// What can be wrong with content, by the reason of the fault.
const (
	wrongSignature   = "signature"
	wrongData        = "data"
	wrongKey         = "key"
	wrongCertificate = "certificate"
	tokenForged      = "token"
	tokenForOthers   = "audience"
	tokenExpired     = "expired"
	tokenMissing     = "missing"
)

var wrongs = []string{wrongSignature, wrongData, wrongKey, wrongCertificate, tokenForged, tokenForOthers, tokenExpired, tokenMissing}

// spoil makes wrong what the fault says.
func (s *Server) spoil(c *encryptedContent, address string) {
	f, ok := s.faults.On(contentWrong, address, "")
	if !ok {
		return
	}
	switch f.Reason {
	case wrongSignature:
		c.DataSignature = altered(c.DataSignature)
	case wrongData:
		c.Data = altered(c.Data)
	case wrongKey:
		c.DataKey = altered(c.DataKey)
	case wrongCertificate:
		c.ID = "unknown"
	}
}

// altered is another text in base64 of the same length.
func altered(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return s
	}
	b[len(b)/2] ^= 1
	return base64.StdEncoding.EncodeToString(b)
}

// validation is the token that proves who posts content of a subscription; empty: none.
func (s *Server) validation(sub *subscription) string {
	f, ok := s.faults.On(contentWrong, sub.box.Address, "")
	if !ok {
		return s.tokens.Validation(sub.app, 0)
	}
	switch f.Reason {
	case tokenForged:
		token := s.tokens.Validation(sub.app, 0)
		signed := strings.LastIndexByte(token, '.') + 1
		return token[:signed] + strings.Repeat("A", len(token)-signed)
	case tokenForOthers:
		return s.tokens.Validation(guid.New().String(), 0)
	case tokenExpired:
		return s.tokens.Validation(sub.app, 24*time.Hour)
	case tokenMissing:
		return ""
	}
	return s.tokens.Validation(sub.app, 0)
}

// encrypt encrypts content: a new AES-256 key in CBC mode, whose first 16 bytes are the initialisation vector; the key by RSA-OAEP with
// SHA-1; and an HMAC-SHA256 of the cipher text.
func (e *encryption) encrypt(content any) (*encryptedContent, error) {
	plain, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	for range padding {
		plain = append(plain, byte(padding))
	}
	data := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, key[:aes.BlockSize]).CryptBlocks(data, plain)
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, e.key, key, nil) //nolint:gosec // see the import
	if err != nil {
		return nil, err
	}
	sign := hmac.New(sha256.New, key)
	sign.Write(data)
	b64 := base64.StdEncoding.EncodeToString
	return &encryptedContent{b64(data), b64(sign.Sum(nil)), b64(sealed), e.id, e.thumbprint}, nil
}
