// Package phonekey has the key of a simulated phone, with which the app's Notification Service Extension signs what it sends to mailbell
// (docs/payload.md). It is written by that page and not by the code that checks it, so that one mistake cannot hide on both sides.
package phonekey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// Header is the header field of a request that has its signature.
const Header = "Mailbell-Signature"

// Key signs for one phone, as CryptoKit does with a key of the Secure Enclave.
type Key struct {
	private *ecdsa.PrivateKey
	public  string
}

// New makes a key.
func New() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	return &Key{private, base64.StdEncoding.EncodeToString(point)}, nil
}

// Public is what the app has enrolled of the key (receipt_key): X9.63 in base64.
func (k *Key) Public() string { return k.public }

// SignPost signs a body that is posted to a path, and returns the value of Header.
func (k *Key) SignPost(path string, body []byte) (string, error) {
	return k.Sign(append([]byte("POST "+path+"\n"), body...))
}

// Sign signs bytes: SHA-256, and r and s with 32 bytes each, in base64.
func (k *Key) Sign(b []byte) (string, error) {
	hash := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, k.private, hash[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return base64.StdEncoding.EncodeToString(signature[:]), nil
}
