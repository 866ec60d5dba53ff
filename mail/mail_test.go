package mail

import (
	"errors"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"Alice@Contoso.Example":                       "alice@contoso.example",
		" alice@contoso.example ":                     "alice@contoso.example",
		"o'brien+x@contoso.example.":                  "o'brien+x@contoso.example",
		"jürgen@bücher.example":                       "jürgen@xn--bcher-kva.example",
		"user@localhost":                              "user@localhost",
		"":                                            "",
		"alice":                                       "",
		"@contoso.example":                            "",
		"alice@":                                      "",
		"a@b@contoso.example":                         "",
		"alice@contoso":                               "",
		"Alice <alice@contoso.ex>":                    "",
		"al ice@contoso.example":                      "",
		"alice\r\n@contoso.example":                   "",
		"alice\x7f@contoso.example":                   "",
		"al\u009bice@contoso.example":                 "",
		"\u202eecila@contoso.example":                 "",
		"al\u200bice@contoso.example":                 "",
		"\u0645\u06cc\u200c\u062e@contoso.example":    "\u0645\u06cc\u200c\u062e@contoso.example",
		"\u0915\u094d\u200d\u0937@contoso.example":    "\u0915\u094d\u200d\u0937@contoso.example",
		"\ufeffalice@contoso.example":                 "",
		"alice@contoso_.example":                      "",
		"alice@[127.0.0.1]":                           "",
		"alice@127.0.0.1":                             "",
		"alice@127.0.0.1.":                            "",
		"alice@127.0.0.1..":                           "",
		strings.Repeat("a", 250) + "@contoso.example": "",
	} {
		got, err := ParseAddress(in)
		if got != want || (want == "") != errors.Is(err, ErrAddress) {
			t.Errorf("ParseAddress(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("Alice@Contoso.Example")
	f.Add("jürgen@bücher.example")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a); err != nil || again != a {
			t.Errorf("%q became %q, and that %q, %v: an address has to have one form", s, a, again, err)
		}
		if Domain(a) == "" || strings.ContainsAny(a, " \r\n<>") {
			t.Errorf("%q was taken as %q", s, a)
		}
	})
}

func TestAKeyIsTheSameHoweverTheMessageIsTold(t *testing.T) { // rule 1
	sent := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var s Secret
	m := Message{ItemID: "AAMk1", InternetID: "<1@fabrikam.example>", Subject: "Minutes", Sent: sent}
	k := s.Key("record", &m)
	same := m
	same.ItemID, same.Subject, same.Received = "AAMk2", "another", sent.Add(time.Hour) // moved, edited
	same.Sent = sent.Add(999 * time.Millisecond).In(time.FixedZone("", 3600))          // a fraction, another zone
	if s.Key("record", &same) != k {
		t.Error("the key depends on what another source tells otherwise")
	}
	for name, change := range map[string]func(m *Message){
		"another id":   func(m *Message) { m.InternetID = "<2@fabrikam.example>" },
		"another case": func(m *Message) { m.InternetID = "<1@Fabrikam.example>" },
		"another time": func(m *Message) { m.Sent = sent.Add(time.Second) },
		"no time":      func(m *Message) { m.Sent = time.Time{} },
		"no id":        func(m *Message) { m.InternetID = "" },
	} {
		other := m
		change(&other)
		if s.Key("record", &other) == k {
			t.Errorf("%s: the same key", name)
		}
	}
	if s.Key("another record", &m) == k || (Secret{1}).Key("record", &m) == k {
		t.Error("the key of another mailbox or installation is the same")
	}
}

func TestWithoutAnIDTheSubjectTellsMessagesApartAsFarAsAListingTellsIt(t *testing.T) {
	var s Secret
	long := Message{Subject: strings.Repeat("ä", 300)}
	cut := Message{Subject: strings.Repeat("ä", 255)} // as FindItem tells it
	if s.Key("r", &long) != s.Key("r", &cut) {
		t.Error("a listing and a read know the message by two keys")
	}
	if s.Key("r", &Message{Subject: "a"}) == s.Key("r", &Message{Subject: "b"}) {
		t.Error("two messages have one key")
	}
	first := Message{ItemID: "1", Subject: "backup done"}
	second := first
	second.ItemID = "2"
	if s.Key("r", &first) == s.Key("r", &second) {
		t.Error("two messages without any time and id are the same for their subject")
	}
	first.Received = time.Date(2026, 11, 28, 12, 0, 0, 5e8, time.UTC)
	second.Received = first.Received.Truncate(time.Second) // moved, or listed
	if s.Key("r", &first) != s.Key("r", &second) {
		t.Error("a message without id and submit time is another one after it was moved")
	}
	second.Received = second.Received.Add(time.Second)
	if s.Key("r", &first) == s.Key("r", &second) {
		t.Error("two messages without id and submit time are the same for their subject")
	}
	if s.Key("r", &Message{Subject: "x"}) == s.Key("r", &Message{InternetID: "x"}) {
		t.Error("a subject is taken for an id")
	}
}

func TestAKeyIsWrittenIn22Characters(t *testing.T) {
	if got := (Key{0: 0xff, 15: 1}).String(); got != "_wAAAAAAAAAAAAAAAAAAAQ" || len(got) != 22 {
		t.Errorf("%q", got)
	}
}

func TestAPushIDIsAUUIDAndStable(t *testing.T) {
	var s Secret
	id := s.PushID(Key{1}, "phone")
	if id != s.PushID(Key{1}, "phone") || id == s.PushID(Key{1}, "tablet") || id == s.PushID(Key{2}, "phone") || id == s.PushID(Key{1}, "phone", "x") {
		t.Error("it is not stable, or not of this push")
	}
	if id[6]>>4 != 8 || id[8]>>6 != 2 {
		t.Errorf("%x has not the version and variant of RFC 9562", id)
	}
}

func TestLocationsShareWhatTheyHaveInCommon(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // what nobody has any more is forgotten
	made := func(primary string) Location {          // from an answer of its own
		c := strings.Clone
		return Location{Entry: c("hq"), Source: EWS, URL: c("https://mail.contoso.example/EWS"), Group: c("site-1"), Primary: primary,
			Server: c("mbx1"), How: c("Autodiscover"), Found: time.Unix(1, 0)}
	}
	a, b := made("alice@contoso.example").Shared(), made("bob@contoso.example").Shared()
	if a != made("alice@contoso.example") || b != made("bob@contoso.example") {
		t.Errorf("%+v and %+v are other locations", a, b)
	}
	for name, s := range map[string][2]string{"entry": {a.Entry, b.Entry}, "url": {a.URL, b.URL}, "group": {a.Group, b.Group}, "server": {a.Server, b.Server}, "how": {a.How, b.How}} {
		if unsafe.StringData(s[0]) != unsafe.StringData(s[1]) {
			t.Errorf("%s: there are two copies", name)
		}
	}
}
