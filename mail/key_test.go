package mail

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"
)

// hmacOf is the sum by crypto/hmac.
func hmacOf(s Secret, parts ...string) []byte {
	h := hmac.New(sha256.New, s[:])
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write([]byte(p))
	}
	return h.Sum(nil)[:16]
}

func FuzzASumIsTheHMACOfItsParts(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), "id", "record", "<1@contoso.example>")
	f.Add([]byte{}, "", "", "")
	f.Add([]byte("secret"), "subject", "record", strings.Repeat("long", 1000))
	f.Fuzz(func(t *testing.T, secret []byte, a, b, c string) {
		var s Secret
		copy(s[:], secret)
		if got, want := s.sum(a, b, c), hmacOf(s, a, b, c); string(got[:]) != string(want) {
			t.Errorf("%x, want %x", got, want)
		}
	})
}

func TestAKeyAllocatesNothing(t *testing.T) {
	s := Secret{1}
	if n := testing.AllocsPerRun(100, func() { _ = s.PushID(Key{}, "token", "topic") }); n > 1 { // the key, as a part
		t.Errorf("%v allocations for the id of a push", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = s.ItemKey("record", "AAMkAGI2TG93AAA=") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
