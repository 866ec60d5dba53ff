package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// pair is an attribute of target information.
type pair struct {
	id    uint16
	value []byte
}

// infoOf is target information as a server sends it, with its end.
func infoOf(pairs ...pair) []byte {
	var info []byte
	for _, p := range append(pairs, pair{id: 0}) {
		info = binary.LittleEndian.AppendUint16(info, p.id)
		info = binary.LittleEndian.AppendUint16(info, uint16(len(p.value)))
		info = append(info, p.value...)
	}
	return info
}

// pairsOf reads the target information of a message, without its end.
func pairsOf(t *testing.T, message []byte) (pairs []pair) {
	t.Helper()
	n, from := binary.LittleEndian.Uint16(message[40:]), binary.LittleEndian.Uint32(message[44:])
	if again := binary.LittleEndian.Uint16(message[42:]); again != n {
		t.Errorf("the length is %d, and again %d", n, again)
	}
	info := message[from : from+uint32(n)]
	for {
		id, size := binary.LittleEndian.Uint16(info), binary.LittleEndian.Uint16(info[2:])
		if id == 0 {
			if len(info) != 4 {
				t.Errorf("%x after the end", info[4:])
			}
			return pairs
		}
		pairs = append(pairs, pair{id, info[4 : 4+size]})
		info = info[4+size:]
	}
}

var (
	boundTo   = &x509.Certificate{Raw: []byte("x")}
	domain    = pair{2, testUTF16("CONTOSO")}
	timestamp = pair{7, []byte{1, 2, 3, 4, 5, 6, 7, 8}}
)

func TestWhatTheServerSaysIsSignedWithWhatIsTheClientsToSay(t *testing.T) {
	bindings := channelBindings(endPoint(boundTo))
	client := []pair{{9, testUTF16("HTTP/ex01")}, {10, bindings}}
	for name, c := range map[string]struct {
		says   []pair
		signed []pair // before those of the client
		mic    bool
	}{
		"its domain":                  {[]pair{domain}, []pair{domain}, false},
		"nothing":                     {nil, nil, false},
		"a time":                      {[]pair{domain, timestamp}, []pair{domain, timestamp, {6, []byte{2, 0, 0, 0}}}, true},
		"flags":                       {[]pair{{6, []byte{5, 0, 1, 0}}, domain}, []pair{domain, {6, []byte{5, 0, 1, 0}}}, false},
		"flags and a time":            {[]pair{{6, []byte{5, 0, 1, 0}}, timestamp}, []pair{timestamp, {6, []byte{7, 0, 1, 0}}}, true},
		"a MIC, without a time":       {[]pair{{6, []byte{2, 0, 0, 0}}, domain}, []pair{domain}, false},
		"a MIC and more, and no time": {[]pair{{6, []byte{3, 0, 0, 0}}}, []pair{{6, []byte{1, 0, 0, 0}}}, false},
		"the client's words":          {[]pair{{9, testUTF16("HTTP/evil")}, {10, []byte("0123456789abcdef")}, domain}, []pair{domain}, false},
	} {
		challenge := challengeOf(infoOf(c.says...))
		bound, mic, err := bind(challenge, "ex01", boundTo)
		if err != nil || mic != c.mic {
			t.Errorf("%s: announced %t, %v", name, mic, err)
			continue
		}
		same := func(a, b pair) bool { return a.id == b.id && bytes.Equal(a.value, b.value) }
		if got := pairsOf(t, bound); !slices.EqualFunc(got, append(c.signed, client...), same) {
			t.Errorf("%s: signed is %v", name, got)
		}
		if !bytes.Equal(bound[:challengeInfo], challenge[:challengeInfo]) || !bytes.Equal(bound[challengeHead:len(challenge)], challenge[challengeHead:]) {
			t.Errorf("%s: the rest of the challenge has changed", name)
		}
	}
}

func TestAChallengeThatIsMalformedIsNotAnswered(t *testing.T) {
	// What the client adds: the name of the service, the bindings and the end.
	const added = 4 + 2*len("HTTP/ex01") + 4 + 16 + 4
	most := 0xFFFF - added - 4
	whole := challengeOf(infoOf(domain))
	outside := slices.Clone(whole)
	binary.LittleEndian.PutUint16(outside[40:], binary.LittleEndian.Uint16(outside[40:])+1)
	beyond := slices.Clone(whole)
	binary.LittleEndian.PutUint32(beyond[44:], uint32(len(whole))+1)
	withoutEnd := infoOf(domain)
	withoutEnd = withoutEnd[:len(withoutEnd)-4]
	longer := infoOf(domain)
	longer[2] += 5
	for name, c := range map[string]struct {
		challenge []byte
		ok        bool
	}{
		"whole":                        {whole, true},
		"empty":                        {nil, false},
		"another message":              {append([]byte("NTLMSSP\x00\x03"), whole[9:]...), false},
		"shorter than its head":        {whole[:challengeHead-1], false},
		"its information is cut off":   {outside, false},
		"its information is elsewhere": {beyond, false},
		"no information":               {challengeOf(nil), false},
		"no end":                       {challengeOf(withoutEnd), false},
		"an attribute is cut off":      {challengeOf(longer), false},
		"three bytes of flags":         {challengeOf(infoOf(pair{6, []byte{1, 2, 3}})), false},
		"five bytes of flags":          {challengeOf(infoOf(pair{6, []byte{1, 2, 3, 4, 5}})), false},
		"four bytes of time":           {challengeOf(infoOf(pair{7, []byte{1, 2, 3, 4}})), false},
		"as long as it may be":         {challengeOf(infoOf(pair{2, make([]byte, most)})), true},
		"a byte longer":                {challengeOf(infoOf(pair{2, make([]byte, most+1)})), false},
	} {
		bound, _, err := bind(c.challenge, "ex01", boundTo)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, errChallenge) {
			t.Errorf("%s: %d bytes, %v", name, len(bound), err)
		}
	}
}

func TestAFieldLiesWithinItsMessage(t *testing.T) {
	message := append(make([]byte, 8), "content"...)
	for name, c := range map[string]struct {
		size uint16
		from uint32
		want string
		ok   bool
	}{
		"all of it":            {7, 8, "content", true},
		"a part":               {3, 10, "nte", true},
		"nothing, at the end":  {0, 15, "", true},
		"a byte too much":      {8, 8, "", false},
		"nothing, behind it":   {0, 16, "", false},
		"far away":             {1, 0xFFFFFFFF, "", false},
		"as much as there can": {0xFFFF, 8, "", false},
	} {
		binary.LittleEndian.PutUint16(message, c.size)
		binary.LittleEndian.PutUint32(message[4:], c.from)
		if got, ok := fieldOf(message, 0); ok != c.ok || string(got) != c.want {
			t.Errorf("%s: %q, %t", name, got, ok)
		}
	}
}

// A name is text in Unicode, also beyond its first plane.
func TestTextIsUTF16(t *testing.T) {
	for s, want := range map[string]string{"": "", "aß": "a\x00\xdf\x00", "𝄞": "\x34\xd8\x1e\xdd"} {
		if got := string(utf16le(s)); got != want {
			t.Errorf("%q is % x", s, got)
		}
	}
}
