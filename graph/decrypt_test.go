package graph

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// vectors are what the cryptography of node made (testdata/graph/vectors.mjs).
type vectors struct {
	PrivateKey string
	Good       []struct {
		Subject string
		Content Encrypted
	}
	Bad    map[string]Encrypted
	Tokens struct {
		Tenant, App string
		Keys        json.RawMessage
		Good, Bad   map[string]string
	}
}

func readVectors(t testing.TB) (v vectors, keys *Keys) {
	t.Helper()
	if err := json.Unmarshal([]byte(sample(t, "vectors.json")), &v); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(v.PrivateKey))
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return v, &Keys{present: &key{private: private.(*rsa.PrivateKey), rich: Rich{CertificateID: "vectors"}, made: time.Now()}}
}

func TestAMessageThatAnotherImplementationEncryptedIsRead(t *testing.T) {
	v, keys := readVectors(t)
	if len(v.Good) < 20 {
		t.Fatal("the vectors are missing")
	}
	for _, c := range v.Good {
		m, err := keys.Open(&c.Content)
		if err != nil || m.Subject != c.Subject || m.InternetID != "<1@fabrikam.com>" || m.From.Name != "Tom" || m.Sent.IsZero() {
			t.Errorf("%q: %+v, %v", c.Subject, m, err)
		}
	}
}

func TestContentThatIsNotAsItWasEncryptedIsRefusedWithoutAWordOfWhy(t *testing.T) {
	v, keys := readVectors(t)
	if len(v.Bad) < 15 {
		t.Fatal("the vectors are missing")
	}
	for name, content := range v.Bad {
		if m, err := keys.Open(&content); !errors.Is(err, errContent) || err.Error() != errContent.Error() || m.Subject != "" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if _, err := keys.Open(&Encrypted{CertificateID: "another"}); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	if _, err := (&Keys{}).Open(&v.Good[0].Content); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
}

func TestTheCertificateIsOneThatGraphTakesAndIsReplacedWhileTheFormerStillOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &Keys{}
		first, err := keys.Rich()
		if err != nil {
			t.Fatal(err)
		}
		der, err := base64.StdEncoding.DecodeString(first.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		public, ok := c.PublicKey.(*rsa.PublicKey)
		if !ok || public.N.BitLen() != keyBits || c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil || len(first.CertificateID) > 128 {
			t.Errorf("%v", c.Subject)
		}
		if last := time.Now().Add(rotation + LongestRich + 4*time.Hour); c.NotBefore.After(time.Now()) || c.NotAfter.Before(last) {
			t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
		}
		<-time.After(rotation - time.Second)
		if again, err := keys.Rich(); err != nil || again != first || !keys.Present(first.CertificateID) {
			t.Errorf("it is replaced too early (%v)", err)
		}
		<-time.After(time.Second)
		if keys.Present(first.CertificateID) {
			t.Error("subscriptions to a certificate that is to be replaced go on")
		}
		second, err := keys.Rich()
		if err != nil || second == first || keys.Present(first.CertificateID) || !keys.Present(second.CertificateID) || keys.of(first.CertificateID) == nil {
			t.Errorf("%v", err)
		}
		<-time.After(rotation)
		if _, err := keys.Rich(); err != nil || keys.of(first.CertificateID) != nil || keys.of(second.CertificateID) == nil {
			t.Errorf("%v: more than one former key is kept", err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	v, keys := readVectors(f)
	f.Add(v.Good[0].Content.Data, v.Good[0].Content.DataSignature, v.Good[0].Content.DataKey)
	for _, c := range v.Bad {
		f.Add(c.Data, c.DataSignature, c.DataKey)
	}
	good := map[string]bool{}
	for _, c := range v.Good {
		good[c.Subject] = true
	}
	f.Fuzz(func(t *testing.T, data, signature, sealed string) {
		m, err := keys.Open(&Encrypted{Data: data, DataSignature: signature, DataKey: sealed, CertificateID: "vectors"})
		if err == nil && !good[m.Subject] {
			t.Errorf("%+v was made out of nothing", m)
		}
	})
}

func TestACertificateIDIsNotInTheMessageOfAnError(t *testing.T) {
	_, err := (&Keys{}).Open(&Encrypted{CertificateID: "secret"})
	if strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func BenchmarkOpen(b *testing.B) {
	v, keys := readVectors(b)
	for b.Loop() {
		if _, err := keys.Open(&v.Good[0].Content); err != nil {
			b.Fatal(err)
		}
	}
}
