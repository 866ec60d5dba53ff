package graph

// Notifications with content: the keys for which Graph encrypts the messages in them, and how they are decrypted.
//
// The key and its certificate are mailbell's own. They are in memory only and replaced every few weeks: after a restart the content of a
// subscription that was made before cannot be decrypted, and its notifications are hints as any other, until the subscription is made anew.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // Graph encrypts its key by RSA-OAEP with SHA-1, which does not need collision resistance
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/requestid"
	"github.com/mailbell/mailbell/mail"
)

const (
	keyBits = 2048 // Graph takes 2,048 to 4,096
	// rotation is how long new subscriptions are made for one key. Those that were made for it live on for LongestRich at most, and Graph may
	// post for four hours more, so one former key is enough.
	rotation = 21 * 24 * time.Hour
	// certificateLife is how long a certificate says that it is valid: longer than any subscription that was made for it.
	certificateLife = 90 * 24 * time.Hour
	// maxSealedKey bounds an encrypted key: it has the length of ours.
	maxSealedKey = 1 << 10
)

// Keys are the keys for which messages in notifications are encrypted: the present one, and the one before. It is safe for concurrent use.
type Keys struct {
	mu              sync.Mutex
	present, former *key
}

// key is a key with its certificate.
type key struct {
	private *rsa.PrivateKey
	rich    Rich
	made    time.Time
}

// Rich returns the certificate for which a new subscription has its messages encrypted now. The first call, and one every three weeks,
// makes a key, which takes a tenth of a second.
func (k *Keys) Rich() (Rich, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.present == nil || time.Since(k.present.made) >= rotation {
		made, err := newKey(time.Now())
		if err != nil {
			return Rich{}, err
		}
		k.former, k.present = k.present, made
	}
	return k.present.rich, nil
}

// Present says whether a subscription that was made for a certificate can go on as it is. Where it says no, its content cannot be decrypted,
// or not for long.
func (k *Keys) Present(certificateID string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.present != nil && k.present.rich.CertificateID == certificateID && time.Since(k.present.made) < rotation
}

// of returns the key of a certificate; nil: it is not there.
func (k *Keys) of(certificateID string) *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range []*key{k.present, k.former} {
		if one != nil && one.rich.CertificateID == certificateID {
			return one
		}
	}
	return nil
}

// newKey makes a key and a certificate that it signs itself.
func newKey(now time.Time) (*key, error) {
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("make a key for notifications: %w", err)
	}
	id := requestid.New()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a certificate for notifications: %w", err)
	}
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mailbell notifications " + id}, KeyUsage: x509.KeyUsageKeyEncipherment,
		NotBefore: now.Add(-mail.Tolerance), NotAfter: now.Add(certificateLife),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for notifications: %w", err)
	}
	return &key{private: private, rich: Rich{Certificate: base64.StdEncoding.EncodeToString(der), CertificateID: id}, made: now}, nil
}

// errContent is all that is said of content that is not what Graph sends: an oracle would tell more.
var errContent = errors.New("the content of the notification cannot be decrypted")

// ErrNoKey is the error of content that was encrypted for a certificate that is not there any more.
var ErrNoKey = errors.New("the key of the notification's certificate is not there any more")

// Open decrypts a message. It is for notifications whose client state fits: what anybody posts would keep a processor busy.
func (k *Keys) Open(e *Encrypted) (mail.Message, error) {
	own := k.of(e.CertificateID)
	if own == nil {
		return mail.Message{}, ErrNoKey
	}
	plain, err := own.open(e)
	if err != nil {
		return mail.Message{}, err
	}
	var m message
	if json.Unmarshal(plain, &m) != nil || m.ID == "" { // its error may quote the message
		return mail.Message{}, errContent
	}
	return m.mail(), nil
}

// open decrypts the symmetric key, checks the signature, and only then decrypts the data.
func (k *key) open(e *Encrypted) ([]byte, error) {
	sealed, err1 := base64.StdEncoding.DecodeString(e.DataKey)
	signature, err2 := base64.StdEncoding.DecodeString(e.DataSignature)
	data, err3 := base64.StdEncoding.DecodeString(e.Data)
	if err1 != nil || err2 != nil || err3 != nil || len(sealed) > maxSealedKey || len(data) == 0 || len(data)%aes.BlockSize != 0 {
		return nil, errContent
	}
	symmetric, err := rsa.DecryptOAEP(sha1.New(), nil, k.private, sealed, nil) //nolint:gosec // see the import
	if err != nil {
		return nil, errContent
	}
	block, err := aes.NewCipher(symmetric)
	if err != nil {
		return nil, errContent
	}
	sum := hmac.New(sha256.New, symmetric)
	sum.Write(data)
	if !hmac.Equal(sum.Sum(nil), signature) {
		return nil, errContent
	}
	cipher.NewCBCDecrypter(block, symmetric[:aes.BlockSize]).CryptBlocks(data, data)
	return unpad(data)
}

// unpad takes the padding of PKCS #7 off.
func unpad(data []byte) ([]byte, error) {
	n := int(data[len(data)-1])
	if n == 0 || n > aes.BlockSize {
		return nil, errContent
	}
	for _, b := range data[len(data)-n:] {
		if int(b) != n {
			return nil, errContent
		}
	}
	return data[:len(data)-n], nil
}
