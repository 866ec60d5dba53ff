package certificate

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inBER writes the outer lengths of a PFX as BER has them and DER has not: indefinite, as NSS and old Java do.
func inBER(t testing.TB, der []byte, layers int) []byte {
	t.Helper()
	var v asn1.RawValue
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		t.Fatal(err)
	}
	content := v.Bytes
	if layers > 1 { // the version, and the content behind it
		var version, rest asn1.RawValue
		behind, err := asn1.Unmarshal(content, &version)
		if err != nil {
			t.Fatal(err)
		}
		mac, err := asn1.Unmarshal(behind, &rest)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.Join([][]byte{version.FullBytes, inBER(t, rest.FullBytes, layers-1), mac}, nil)
	}
	return bytes.Join([][]byte{{der[0], 0x80}, content, {0, 0}}, nil)
}

// onlyInsideBER has the indefinite length one layer below the outer one.
func onlyInsideBER(t testing.TB, der []byte) []byte {
	t.Helper()
	inner := inBER(t, der, 2)
	inner = inner[2 : len(inner)-2]
	b, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: inner})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unreadPFX are files that OpenSSL reads and mailbell does not.
func unreadPFX(t testing.TB) map[string]struct {
	file []byte
	why  string
} {
	pfx := read(t, "openssl3.pfx")
	type file = struct {
		file []byte
		why  string
	}
	return map[string]file{
		"Camellia":             {read(t, "camellia.pfx"), "encrypted or built in an unusual way (pbes2 algorithm 1.2.392.200011.61.1.1.1.4 is not supported)"},
		"no MAC":               {read(t, "no-mac.pfx"), "without a MAC"},
		"BER":                  {inBER(t, pfx, 1), "in BER"},
		"BER in BER":           {inBER(t, pfx, 2), "in BER"},
		"BER in DER":           {onlyInsideBER(t, pfx), "in BER"},
		"no MAC, in base64":    {[]byte(base64.StdEncoding.EncodeToString(read(t, "no-mac.pfx"))), "without a MAC"},
		"Camellia, in PEM":     {pem.EncodeToMemory(&pem.Block{Type: "PKCS12", Bytes: read(t, "camellia.pfx")}), "pbes2"},
		"BER, in wrapped text": {wrapped(inBER(t, pfx, 1)), "in BER"},
	}
}

// wrapped is base64 as mail and certutil write it.
func wrapped(b []byte) []byte {
	s := base64.StdEncoding.EncodeToString(b)
	var lines []string
	for len(s) > 64 {
		lines = append(lines, s[:64])
		s = s[64:]
	}
	return []byte(strings.Join(append(lines, s), "\r\n") + "\r\n")
}

func TestAPFXThatIsNotReadComesWithTheCommandThatConvertsIt(t *testing.T) {
	for name, c := range unreadPFX(t) {
		_, err := Load(c.file, "bell-pass")
		e, ok := errors.AsType[*Unread](err)
		if !ok || !strings.Contains(e.Why, c.why) {
			t.Errorf("%s: %v, want %s", name, err, c.why)
			continue
		}
		if advice := e.Advice("apns.pfx"); !strings.Contains(advice, "openssl pkcs12 -in apns.pfx -aes256 -out client.pem") || strings.Contains(advice, "bell-pass") {
			t.Errorf("%s: %s", name, advice)
		}
	}
}

func TestWhatTheCommandWritesIsRead(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl")
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.pfx"), filepath.Join(dir, "client.pem")
	for name, c := range unreadPFX(t) {
		file := c.file
		if file[0] != derSequence {
			continue // OpenSSL wants base64 decoded before
		}
		if err := os.WriteFile(in, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.CommandContext(t.Context(), openssl, "pkcs12", "-in", in, "-aes256", "-out", out, "-passin", "pass:bell-pass", "-passout", "pass:bell-pass").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, said)
			continue
		}
		if got, err := Load(must(os.ReadFile(out)), "bell-pass"); err != nil || got.Leaf == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPFXIsReadInBase64(t *testing.T) {
	pfx := read(t, "openssl3.pfx")
	for name, file := range map[string][]byte{
		"one line":       []byte(base64.StdEncoding.EncodeToString(pfx)),
		"wrapped":        wrapped(pfx),
		"with a mark":    append([]byte("\xef\xbb\xbf"), wrapped(pfx)...),
		"in UTF-16":      inUTF16(wrapped(pfx)),
		"as PEM":         pem.EncodeToMemory(&pem.Block{Type: "PKCS12", Bytes: pfx}),
		"as PEM, marked": append([]byte("\xef\xbb\xbf"), pem.EncodeToMemory(&pem.Block{Type: "PFX", Bytes: pfx})...),
	} {
		if got, err := Load(file, "bell-pass"); err != nil || got.Leaf == nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Load(file, "guess"); !errors.Is(err, ErrPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnread(f *testing.F) {
	for _, c := range unreadPFX(f) {
		f.Add(c.file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if err := unread(file, errNeither); err == nil || err.Error() == "" {
			t.Error(err)
		}
	})
}
