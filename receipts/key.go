package receipts

// The key of a phone, and what is signed with it: ECDSA on P-256 with SHA-256 (FIPS 186-5), because that is the one curve on which the
// Secure Enclave of an iPhone signs, so that the private key never leaves the phone, not even to the app.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
)

const (
	keySize       = 65 // of a point, uncompressed (SEC 1, X9.63): 4, x, y
	signatureSize = 64 // r, s, as IEEE P1363 has them
	number        = 32 // bytes of each of these
)

var errKey = errors.New("want the public key in base64: x963Representation of a P-256 key, 65 bytes that begin with 4")

// CheckKey checks the public key of a phone, which has one form only.
func CheckKey(s string) (string, error) {
	if _, err := parseKey(s); err != nil {
		return "", errKey
	}
	return s, nil
}

func parseKey(s string) (*ecdsa.PublicKey, error) {
	point, err := decode(s, keySize)
	if err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

// ParseSignature reads the signature of a request: base64 of r and s, 64 bytes.
func ParseSignature(s string) ([]byte, error) { return decode(s, signatureSize) }

// decode reads base64 of so many bytes. There is one text for the same bytes.
func decode(s string, size int) ([]byte, error) {
	if len(s) != base64.StdEncoding.EncodedLen(size) { // the decoder passes over ends of lines
		return nil, fmt.Errorf("it is not base64 of %d bytes", size)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(data) != size {
		return nil, fmt.Errorf("it is not base64 of %d bytes", size)
	}
	return data, nil
}

// verify says whether a key signed a text.
func verify(key *ecdsa.PublicKey, text, signature []byte) bool {
	if len(signature) != signatureSize {
		return false
	}
	hash := sha256.Sum256(text)
	return ecdsa.Verify(key, hash[:], new(big.Int).SetBytes(signature[:number]), new(big.Int).SetBytes(signature[number:]))
}

// newStranger is the public key of nobody. A signature of a device that is not there is compared with it, so that its answer takes as long
// as that of a device that is.
func newStranger() string {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		panic(err) // it was made on this curve
	}
	return base64.StdEncoding.EncodeToString(point)
}
