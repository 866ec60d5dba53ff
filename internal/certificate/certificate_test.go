package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files of testdata were written by OpenSSL 3.0. The password of each is bell-pass.
func read(t testing.TB, name string) []byte {
	t.Helper()
	return must(os.ReadFile(filepath.Join("testdata", name)))
}

func TestACertificateIsReadAsOpenSSLAndWindowsWriteIt(t *testing.T) {
	for _, c := range []struct {
		file  string
		chain int
	}{
		{"openssl3.pfx", 1}, {"legacy.pfx", 1}, {"chain.pfx", 2}, {"chain.pem", 2},
		{"pkcs8.pem", 1}, {"pkcs1.pem", 1}, {"ec.pem", 1}, {"rfc1423.pem", 1},
		{"pkcs8-default.pem", 1}, {"pkcs8-aes128-sha1.pem", 1}, {"pkcs8-aes192-sha384.pem", 1}, {"pkcs8-aes256-sha512.pem", 1}, {"pkcs8-one-iteration.pem", 1},
	} {
		t.Run(c.file, func(t *testing.T) {
			got, err := Load(read(t, c.file), "bell-pass")
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Certificate) != c.chain || !bytes.Equal(got.Certificate[0], got.Leaf.Raw) || !strings.HasPrefix(got.Leaf.Subject.CommonName, "mailbell") {
				t.Errorf("%d certificates, the first of %s", len(got.Certificate), got.Leaf.Subject)
			}
			switch key := got.PrivateKey.(type) {
			case *rsa.PrivateKey:
				if !key.PublicKey.Equal(got.Leaf.PublicKey) {
					t.Error("the key is another's")
				}
			case *ecdsa.PrivateKey:
				if key.Curve != elliptic.P256() {
					t.Error("the key is another's")
				}
			}
		})
	}
}

func TestWhatIsWrongWithACertificateFileIsNamed(t *testing.T) {
	pfx, encrypted, plain, ec := read(t, "openssl3.pfx"), read(t, "pkcs8-default.pem"), read(t, "pkcs8.pem"), read(t, "ec.pem")
	only := func(file []byte, keep string) (out []byte) {
		for b, rest := pem.Decode(file); b != nil; b, rest = pem.Decode(rest) {
			if strings.HasSuffix(b.Type, keep) {
				out = append(out, pem.EncodeToMemory(b)...)
			}
		}
		return out
	}
	for _, c := range []struct {
		name     string
		file     []byte
		password string
		is       error
		says     string
	}{
		{"a wrong password of a PFX", pfx, "guess", ErrPassword, ""},
		{"no password of a PFX", pfx, "", ErrPassword, ""},
		{"a wrong password of a legacy PFX", read(t, "legacy.pfx"), "guess", ErrPassword, ""},
		{"a wrong password of PEM", encrypted, "guess", ErrPassword, ""},
		{"no password of PEM", encrypted, "", ErrPassword, ""},
		{"a wrong password of old PEM", read(t, "rfc1423.pem"), "guess", ErrPassword, ""},
		{"no key", only(plain, "CERTIFICATE"), "", ErrNoKey, ""},
		{"no certificate", only(plain, "KEY"), "", ErrNoCertificate, ""},
		{"the key of another", append(only(plain, "CERTIFICATE"), only(ec, "KEY")...), "", ErrKeyMismatch, ""},
		{"two keys", append(bytes.Clone(plain), only(ec, "KEY")...), "", nil, "several private keys"},
		{"scrypt", read(t, "pkcs8-scrypt.pem"), "bell-pass", nil, "1.3.6.1.4.1.11591.4.11"},
		{"3DES", read(t, "pkcs8-des3.pem"), "bell-pass", nil, "1.2.840.113549.3.7"},
		{"another kind of key", []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), "", nil, "OPENSSH"},
		{"a certificate that is cut", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "", nil, "a certificate cannot be read"},
		{"a PFX that is cut", pfx[:100], "bell-pass", nil, "neither a PFX file nor PEM"},
		{"something else", []byte("hello"), "", nil, "neither a PFX file nor PEM"},
		{"nothing", nil, "", nil, "neither a PFX file nor PEM"},
		{"a file that is too large", make([]byte, maxFile+1), "", nil, "larger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Load(c.file, c.password)
			if err == nil || got != nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "bell-pass") {
				t.Error("the error shows the password")
			}
		})
	}
}

func TestAWrongPasswordIsNotTakenForABrokenKey(t *testing.T) {
	block, _ := pem.Decode(read(t, "pkcs8-aes128-sha1.pem"))
	// One in 256 leaves a padding that looks right, as this one does.
	const lucky = "guess-143"
	if _, err := decryptPKCS8(block.Bytes, lucky); err != nil {
		t.Fatal("the file has changed: find another password")
	}
	if _, err := loadKey(block, lucky); !errors.Is(err, ErrPassword) {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"ec.pem", "pkcs8.pem", "rfc1423.pem"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if !bytes.Contains(file, []byte("-----BEGIN ")) || bytes.Contains(file, []byte("ENCRYPTED PRIVATE")) {
			return // PFX is go-pkcs12's, which has its own; the other is below
		}
		c, err := Load(file, "bell-pass")
		if (err == nil) != (c != nil && c.Leaf != nil && c.PrivateKey != nil) {
			t.Errorf("%v, %v", c, err)
		}
	})
}

func FuzzDecryptPKCS8(f *testing.F) {
	for _, name := range []string{"pkcs8-one-iteration.pem", "pkcs8-scrypt.pem", "pkcs8-des3.pem"} {
		block, _ := pem.Decode(read(f, name))
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if iterations(der) > 100 {
			return // to be quick
		}
		plain, err := decryptPKCS8(der, "bell-pass")
		if err != nil && plain != nil {
			t.Error("an error and a key")
		}
		if err == nil {
			_, _ = x509.ParsePKCS8PrivateKey(plain)
		}
	})
}

// iterations is how often a key's password is hashed; 0: the key cannot be read so far.
func iterations(der []byte) int {
	var sealed encryptedPrivateKey
	var params pbes2Params
	var derivation pbkdf2Params
	if unmarshal(der, &sealed) != nil || unmarshal(sealed.Algorithm.Parameters.FullBytes, &params) != nil ||
		unmarshal(params.KeyDerivation.Parameters.FullBytes, &derivation) != nil {
		return 0
	}
	return derivation.Iterations
}

func TestAKeyThatTakesForEverIsRefused(t *testing.T) {
	block, _ := pem.Decode(read(t, "pkcs8-one-iteration.pem"))
	if iterations(block.Bytes) != 1 {
		t.Fatal("the file has changed")
	}
	var sealed encryptedPrivateKey
	var params pbes2Params
	var derivation pbkdf2Params
	for _, err := range []error{unmarshal(block.Bytes, &sealed), unmarshal(sealed.Algorithm.Parameters.FullBytes, &params), unmarshal(params.KeyDerivation.Parameters.FullBytes, &derivation)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{-1, 0, maxIterations + 1, 1 << 40} {
		derivation.Iterations = n
		params.KeyDerivation.Parameters.FullBytes = must(asn1.Marshal(derivation))
		if _, err := deriveKey(params, "bell-pass"); err == nil || !strings.Contains(err.Error(), "hashed") {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
