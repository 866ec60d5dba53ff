package certificate

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"
)

// inUTF16 is a file as Windows' shell writes it.
func inUTF16(file []byte) []byte {
	b := []byte("\xff\xfe")
	for _, unit := range utf16.Encode([]rune(string(file))) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

// manners are ways in which a PEM file comes that say the same.
func manners(file []byte) map[string][]byte {
	big := []byte("\xfe\xff")
	for _, unit := range utf16.Encode([]rune(string(file))) {
		big = binary.BigEndian.AppendUint16(big, unit)
	}
	return map[string][]byte{
		"as it is":               file,
		"with a byte order mark": append([]byte("\xef\xbb\xbf"), file...),
		"in UTF-16":              inUTF16(file),
		"in UTF-16, big-endian":  big,
		"with CRLF":              bytes.ReplaceAll(file, []byte("\n"), []byte("\r\n")),
		"indented":               append([]byte("    "), bytes.ReplaceAll(file, []byte("\n"), []byte(" \n\t "))...),
		"with text between":      append([]byte("Bag Attributes\n    friendlyName: bell\nsubject=CN = x -----BEGIN\n"), bytes.ReplaceAll(file, []byte("-----BEGIN"), []byte("# next\n-----BEGIN"))...),
		"without the last end":   bytes.TrimRight(file, "\n"),
		"with OpenSSL's label":   bytes.ReplaceAll(file, []byte(" CERTIFICATE-----"), []byte(" X509 CERTIFICATE-----")),
	}
}

func TestAPEMFileIsReadAsEditorsAndShellsLeaveIt(t *testing.T) {
	for _, name := range []string{"pkcs8.pem", "chain.pem", "rfc1423.pem", "pkcs8-default.pem"} {
		want, err := Load(read(t, name), "bell-pass")
		if err != nil {
			t.Fatal(err)
		}
		for how, file := range manners(read(t, name)) {
			got, err := Load(file, "bell-pass")
			if err != nil || len(got.Certificate) != len(want.Certificate) || !bytes.Equal(got.Certificate[0], want.Certificate[0]) {
				t.Errorf("%s %s: %v", name, how, err)
			}
		}
	}
}

func TestADamagedBlockIsNamedByItsLine(t *testing.T) {
	file := string(read(t, "chain.pem"))
	first := strings.Index(file, "-----BEGIN")
	certificate := strings.LastIndex(file, "-----BEGIN CERTIFICATE")
	for name, c := range map[string]struct {
		file string
		says string
	}{
		"the first, cut in its base64":   {file[:first] + strings.Replace(file[first:], "\nM", "\n!!", 1), "is damaged"},
		"the first, without its end":     {strings.Replace(file, "-----END", "-----", 1), "is damaged"},
		"the first, with another's end":  {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END KEY-----\n" + file, `line 1 ("CERTIFICATE") is damaged`},
		"the first, with nothing":        {"# chain\n\n-----BEGIN CERTIFICATE-----\n" + file, `line 3 ("CERTIFICATE") is damaged`},
		"the last, cut off":              {file[:certificate+100], `("CERTIFICATE") is damaged`},
		"the last line of all":           {file + "-----BEGIN PRIVATE KEY-----", `("PRIVATE KEY") is damaged`},
		"with a label that does not end": {"-----BEGIN " + strings.Repeat("x\x1b", 5000) + "\n" + file, "line 1"},
	} {
		_, err := Load([]byte(c.file), "bell-pass")
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "damaged") || len(err.Error()) > 400 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if _, err := Authorities([]byte(c.file)); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s, as trust roots: %v", name, err)
		}
		if _, err := PEM([]byte(c.file)); err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
}

func TestOfAKeyWhoseLinesHaveRunTogetherNothingIsShown(t *testing.T) {
	key := string(read(t, "pkcs8.pem"))
	key = key[strings.Index(key, "-----BEGIN PRIVATE KEY"):]
	lines := strings.Split(key, "\n")
	for _, between := range []string{"", " ", `\n`, "-", `",`} {
		for _, file := range []string{
			strings.Join(lines, between),
			lines[0] + between + strings.Join(lines[1:], "\n"),
			strings.TrimRight(lines[0], "-") + between + strings.Join(lines[1:], "\n"),
		} {
			_, err := Blocks([]byte(file))
			if err == nil || !strings.Contains(err.Error(), "line 1 is damaged") || !strings.Contains(err.Error(), "a line of its own") || strings.Contains(err.Error(), lines[1][:4]) {
				t.Errorf("between the lines %q: %v", between, err)
			}
		}
	}
}

func TestTrustRootsAreReadFromPEMAndDER(t *testing.T) {
	chain := read(t, "chain.pem")
	var der []byte
	certificates := 0
	for b, rest := pem.Decode(chain); b != nil; b, rest = pem.Decode(rest) {
		if b.Type == "CERTIFICATE" {
			der = b.Bytes
			certificates++
		}
	}
	for how, file := range manners(chain) {
		if got, err := Authorities(file); err != nil || len(got) != certificates {
			t.Errorf("%s: %d, %v", how, len(got), err)
		}
	}
	if got, err := Authorities(der); err != nil || len(got) != 1 || !bytes.Equal(got[0].Raw, der) {
		t.Errorf("DER: %v, %v", got, err)
	}
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"PKCS #7":             {pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: []byte("0")}), "openssl pkcs7 -in FILE -print_certs -out ca.pem"},
		"PKCS #7 in DER":      {[]byte("0\x03\x02\x01\x03"), "openssl pkcs7 -inform der -in FILE -print_certs -out ca.pem"},
		"another certificate": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("0")}), "cannot be read"},
	} {
		if _, err := Authorities(c.file); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, file := range []string{"", "hello", "\xef\xbb\xbf", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("0")}))} {
		if _, err := Authorities([]byte(file)); !errors.Is(err, ErrNoAuthority) {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestWhatPEMReturnsIsAPairForTLS(t *testing.T) {
	for how, file := range manners(read(t, "pkcs8.pem")) {
		clean, err := PEM(file)
		if err != nil {
			t.Errorf("%s: %v", how, err)
			continue
		}
		if _, err := tls.X509KeyPair(clean, clean); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
}

func FuzzBlocks(f *testing.F) {
	for _, file := range manners(read(f, "chain.pem")) {
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		blocks, err := Blocks(file)
		if err != nil && blocks != nil {
			t.Error("blocks and an error")
		}
		for _, b := range blocks {
			if again, _ := pem.Decode(pem.EncodeToMemory(b)); again == nil {
				t.Errorf("%q cannot be read again", b.Type)
			}
		}
	})
}
