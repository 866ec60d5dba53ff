package graph

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// richly is what a subscription with content has besides.
func richly(t *testing.T, key *rsa.PrivateKey, changes map[string]any) map[string]any {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{
		"resource": "/users/" + user + "/mailFolders('inbox')/messages?$select=subject,internetMessageId", "includeResourceData": true,
		"encryptionCertificate": base64.StdEncoding.EncodeToString(der), "encryptionCertificateId": "one",
		"expirationDateTime": time.Now().Add(23 * time.Hour).UTC().Format(longTime),
	}
	maps.Copy(body, changes)
	return body
}

func TestContentIsEncryptedForTheSubscription(t *testing.T) {
	run(t, func(w *world) {
		key := signing()
		w.subscribed(richly(t, key, nil))
		w.deliver(user, 5, 0)
		posts := w.told()
		if len(posts) != 1 || posts[0].items[0].Encrypted == nil || len(posts[0].body.Tokens) != 1 {
			t.Fatalf("%+v", posts)
		}
		sealed := posts[0].items[0].Encrypted
		unpack := func(s string) []byte {
			b, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		symmetric, err := rsa.DecryptOAEP(sha1.New(), nil, key, unpack(sealed.DataKey), nil)
		if err != nil {
			t.Fatal(err)
		}
		data := unpack(sealed.Data)
		sum := hmac.New(sha256.New, symmetric)
		sum.Write(data)
		if !hmac.Equal(sum.Sum(nil), unpack(sealed.DataSignature)) {
			t.Error("the signature is wrong")
		}
		block, err := aes.NewCipher(symmetric)
		if err != nil {
			t.Fatal(err)
		}
		cipher.NewCBCDecrypter(block, symmetric[:aes.BlockSize]).CryptBlocks(data, data)
		var m map[string]any
		if err := json.Unmarshal(data[:len(data)-int(data[len(data)-1])], &m); err != nil {
			t.Fatalf("%v: %q", err, data)
		}
		if m["subject"] != "message 5" || m["internetMessageId"] != "<5@fabrikam.example>" || m["bodyPreview"] != nil || sealed.ID != "one" || len(sealed.Thumbprint) != 40 {
			t.Errorf("%v", m)
		}
	})
}

func TestSubscriptionWithContentIsRefusedWithoutWhatItNeeds(t *testing.T) {
	run(t, func(w *world) {
		small, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, curve.Public(), curve)
		if err != nil {
			t.Fatal(err)
		}
		key := signing()
		inbox := "/users/" + user + "/mailFolders('inbox')/messages"
		for name, body := range map[string]map[string]any{
			"no $select":     richly(t, key, map[string]any{"resource": inbox}),
			"the body":       richly(t, key, map[string]any{"resource": inbox + "?$select=subject,body"}),
			"no certificate": richly(t, key, map[string]any{"encryptionCertificate": nil}),
			"no id":          richly(t, key, map[string]any{"encryptionCertificateId": nil}),
			"nonsense":       richly(t, key, map[string]any{"encryptionCertificate": "AAAA"}),
			"a small key":    richly(t, small, nil),
			"a curve":        richly(t, key, map[string]any{"encryptionCertificate": base64.StdEncoding.EncodeToString(der)}),
			"too long": richly(t, key, map[string]any{
				"expirationDateTime": time.Now().Add(1441 * time.Minute).UTC().Format(longTime)}),
		} {
			if g := w.subscribe(body); g.status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", name, g.status, g.raw)
			}
		}
		w.subscribed(richly(t, key, nil))
	})
}

func TestContentThatIsNotRightDiffersInOneThing(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(richly(t, signing(), nil))
		tell := func() post {
			w.deliver(user, 1, 0)
			posts := w.told()
			if len(posts) != 1 {
				t.Fatalf("%d posts", len(posts))
			}
			return posts[0]
		}
		id := tell().items[0].Encrypted.ID
		for _, reason := range wrongs {
			w.set(contentWrong, faults.Fault{Reason: reason})
			p := tell()
			tokens, want := len(p.body.Tokens), 1
			if reason == tokenMissing {
				want = 0
			}
			if tokens != want || (p.items[0].Encrypted.ID == id) == (reason == wrongCertificate) {
				t.Errorf("%s: %s", reason, p.raw)
			}
			if want == 0 {
				continue
			}
			parts := strings.Split(p.body.Tokens[0], ".")
			claims, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Audience string `json:"aud"`
				Until    int64  `json:"exp"`
			}
			if err := json.Unmarshal(claims, &c); err != nil {
				t.Fatal(err)
			}
			if (c.Audience != w.tenant.ClientID()) != (reason == tokenForOthers) || (c.Until < time.Now().Unix()) != (reason == tokenExpired) || strings.HasSuffix(parts[2], "AAAAAAAA") != (reason == tokenForged) {
				t.Errorf("%s: %s", reason, claims)
			}
		}
	})
}
