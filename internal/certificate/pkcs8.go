package certificate

// Encrypted private keys (PKCS #8, RFC 5958 section 3), as OpenSSL writes them since 1.1: PBES2 with PBKDF2 and AES (RFC 8018). The
// standard library reads only those that are not encrypted.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // in HMAC it is not broken, and files have it
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
)

// maxIterations bounds the work on a key's password, to some seconds: OpenSSL uses 2,048, and OWASP recommends 1,300,000 for
// HMAC-SHA1.
const maxIterations = 4_000_000

// What RFC 8018 defines.
type (
	encryptedPrivateKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbes2Params struct {
		KeyDerivation pkix.AlgorithmIdentifier
		Encryption    pkix.AlgorithmIdentifier
	}
	pbkdf2Params struct {
		Salt       []byte
		Iterations int
		KeyLength  int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"` // none: HMAC-SHA1
	}
)

// decryptPKCS8 returns the private key within an EncryptedPrivateKeyInfo. After a wrong password the error
// is mostly ErrPassword; else the result is not a key.
func decryptPKCS8(der []byte, password string) ([]byte, error) {
	var sealed encryptedPrivateKey
	if err := unmarshal(der, &sealed); err != nil {
		return nil, err
	}
	// Names by their number, as openssl asn1parse shows them.
	if id := sealed.Algorithm.Algorithm.String(); id != "1.2.840.113549.1.5.13" {
		return nil, unknownEncryption(id)
	}
	var params pbes2Params
	if err := unmarshal(sealed.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, err
	}
	key, err := deriveKey(params, password)
	if err != nil {
		return nil, err
	}
	var iv []byte
	if err := unmarshal(params.Encryption.Parameters.FullBytes, &iv); err != nil {
		return nil, err
	}
	if len(iv) != aes.BlockSize || len(sealed.Data) == 0 || len(sealed.Data)%aes.BlockSize != 0 {
		return nil, errMalformedKey
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(sealed.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, sealed.Data)
	// The padding of PKCS #7 (RFC 8018 section 6.1.1). Nobody measures here how long it takes.
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > aes.BlockSize {
		return nil, ErrPassword
	}
	for _, b := range plain[len(plain)-padding:] {
		if int(b) != padding {
			return nil, ErrPassword
		}
	}
	return plain[:len(plain)-padding], nil
}

// deriveKey makes the AES key of a password.
func deriveKey(params pbes2Params, password string) ([]byte, error) {
	if id := params.KeyDerivation.Algorithm.String(); id != "1.2.840.113549.1.5.12" {
		return nil, unknownEncryption(id)
	}
	var size int
	switch id := params.Encryption.Algorithm.String(); id {
	case "2.16.840.1.101.3.4.1.2":
		size = 16
	case "2.16.840.1.101.3.4.1.22":
		size = 24
	case "2.16.840.1.101.3.4.1.42":
		size = 32
	default:
		return nil, unknownEncryption(id)
	}
	var derivation pbkdf2Params
	if err := unmarshal(params.KeyDerivation.Parameters.FullBytes, &derivation); err != nil {
		return nil, err
	}
	if derivation.KeyLength != 0 && derivation.KeyLength != size {
		return nil, errMalformedKey
	}
	if derivation.Iterations < 1 || derivation.Iterations > maxIterations {
		return nil, fmt.Errorf("the private key's password is hashed %d times: want 1 to %d", derivation.Iterations, maxIterations)
	}
	var by func() hash.Hash
	switch id := derivation.PRF.Algorithm.String(); id {
	case "", "1.2.840.113549.2.7":
		by = sha1.New
	case "1.2.840.113549.2.9":
		by = sha256.New
	case "1.2.840.113549.2.10":
		by = sha512.New384
	case "1.2.840.113549.2.11":
		by = sha512.New
	default:
		return nil, unknownEncryption(id)
	}
	return pbkdf2.Key(by, password, derivation.Salt, derivation.Iterations, size)
}

var errMalformedKey = errors.New("the encrypted private key is malformed")

// unmarshal reads one ASN.1 value that nothing follows.
func unmarshal(der []byte, into any) error {
	if rest, err := asn1.Unmarshal(der, into); err != nil || len(rest) > 0 {
		return errMalformedKey
	}
	return nil
}

func unknownEncryption(id string) error {
	return fmt.Errorf("the private key is encrypted by an algorithm (%s) that mailbell does not know: convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out key.pem", id)
}
