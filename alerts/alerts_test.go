package alerts

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/mail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key makes a key that can be told from others in a golden text.
func key(n byte) mail.Key { return mail.Key{0: n} }

func message(change func(*mail.Message)) *mail.Message {
	m := &mail.Message{ItemID: "AAMkAD=", InternetID: "<1@contoso.com>", Class: "IPM.Note", Subject: "Lunch on Friday?",
		From: mail.Mailbox{Name: "Megan Bowen", Address: "megan@contoso.com"}, Preview: "Shall we try the new place?", Thread: "AAQkAD="}
	if change != nil {
		change(m)
	}
	return m
}

const (
	end  = `"sound":"default","thread-id":"tHrEaD","category":"MAIL","mutable-content":1}`
	ours = `"mailbell":{"v":1,"k":"mail","m":"AQAAAAAAAAAAAAAAAAAAAA","d":"phone-1","i":"AAMkAD=","s":"ews"}`
)

func TestPayloadIsTheContractWithTheApp(t *testing.T) {
	for name, test := range map[string]struct {
		content Content
		alert   Alert
		want    string
	}{
		"sender and subject": {SenderSubject, Alert{Message: message(nil)},
			`{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"},` + end + `,` + ours + `}`},
		"with the preview the subject moves up": {SenderSubjectPreview, Alert{Message: message(nil)},
			`{"aps":{"alert":{"title":"Megan Bowen","subtitle":"Lunch on Friday?","body":"Shall we try the new place?"},` + end + `,` + ours + `}`},
		"no preview, and the subject is the body": {SenderSubjectPreview, Alert{Message: message(func(m *mail.Message) { m.Preview = " \r\n" })},
			`{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"},` + end + `,` + ours + `}`},
		"sender only": {Sender, Alert{Message: message(nil)},
			`{"aps":{"alert":{"title":"Megan Bowen"},` + end + `,` + ours + `}`},
		"of what is encrypted no preview is shown": {SenderSubjectPreview, Alert{Message: message(func(m *mail.Message) { m.Class = "IPM.Note.SMIME" })},
			`{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"},` + end + `,` + ours + `}`},
		"generic shows nothing": {Generic, Alert{Message: message(nil)},
			`{"aps":{"alert":{"loc-key":"MAILBELL_NEW_MAIL"},` + end + `,` + ours + `}`},
		"a private message shows its sender alone": {SenderSubjectPreview, Alert{Message: message(func(m *mail.Message) { m.Private = true })},
			`{"aps":{"alert":{"title":"Megan Bowen"},` + end + `,` + ours + `}`},
		"without a name the address is the sender": {SenderSubject, Alert{Message: message(func(m *mail.Message) { m.From.Name = "\u200b" })},
			`{"aps":{"alert":{"title":"megan@contoso.com","body":"Lunch on Friday?"},` + end + `,` + ours + `}`},
		"without a sender the subject stands alone": {SenderSubject, Alert{Message: message(func(m *mail.Message) { m.From = mail.Mailbox{} })},
			`{"aps":{"alert":{"body":"Lunch on Friday?"},` + end + `,` + ours + `}`},
		"with neither it is generic": {SenderSubject, Alert{Message: message(func(m *mail.Message) { m.From, m.Subject = mail.Mailbox{}, "" })},
			`{"aps":{"alert":{"loc-key":"MAILBELL_NEW_MAIL"},` + end + `,` + ours + `}`},
		"characters that JSON or apns2 would change are written as they stay": {SenderSubject,
			Alert{Message: message(func(m *mail.Message) { m.Subject = `Q&A "<1>" \ über 🎉` })},
			`{"aps":{"alert":{"title":"Megan Bowen","body":"Q\u0026A \"\u003c1\u003e\" \\ über 🎉"},` + end + `,` + ours + `}`},
		"a meeting says so": {SenderSubject, Alert{Message: message(func(m *mail.Message) { m.Class = "ipm.schedule.Meeting.Request" })},
			`{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"},` + end + `,` + strings.Replace(ours, `"mail"`, `"meeting"`, 1) + `}`},
		"what could not be read leads to a generic alert": {SenderSubject, Alert{},
			`{"aps":{"alert":{"loc-key":"MAILBELL_NEW_MAIL"},` + end + `,"mailbell":{"v":1,"k":"mail","m":"AQAAAAAAAAAAAAAAAAAAAA","d":"phone-1"}}`},
		"a long item id is left out": {SenderSubject, Alert{Message: message(func(m *mail.Message) { m.ItemID = strings.Repeat("A", 300) })},
			`{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"},` + end + `,"mailbell":{"v":1,"k":"mail","m":"AQAAAAAAAAAAAAAAAAAAAA","d":"phone-1"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			test.alert.Keys, test.alert.Device, test.alert.Source, test.alert.Thread = []mail.Key{key(1)}, "phone-1", mail.EWS, "tHrEaD"
			got := Payload(test.alert, test.content)
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestATestIsAboutNoMessageAndShowsTheAppsOwnWords(t *testing.T) {
	const want = `{"aps":{"alert":{"loc-key":"MAILBELL_TEST"},"sound":"default","category":"MAIL","mutable-content":1},"mailbell":{"v":1,"k":"test","d":"phone-1"}}`
	for _, content := range []Content{Generic, SenderSubjectPreview} {
		got := Payload(Alert{Test: true, Device: "phone-1"}, content)
		if string(got) != want {
			t.Errorf("%v: got %s, want %s", content, got, want)
		}
	}
}

func TestSummaryCountsAllAndNamesTheNewestSixteen(t *testing.T) {
	var keys []mail.Key
	var names []string
	for i := range 40 {
		keys = append(keys, key(byte(i+1)))
		if i < 16 {
			names = append(names, `"`+keys[i].String()+`"`)
		}
	}
	got := Payload(Alert{Keys: keys, Summary: true, Device: "phone-1"}, SenderSubject)
	want := `{"aps":{"alert":{"loc-key":"MAILBELL_SUMMARY","loc-args":["40"]},"sound":"default","category":"MAIL","mutable-content":1},` +
		`"mailbell":{"v":1,"k":"summary","n":40,"ms":[` + strings.Join(names, ",") + `],"d":"phone-1"}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestItemIDStaysWithinFiveHundredBytes(t *testing.T) {
	last := 0
	for n := range 400 {
		a := Alert{Message: message(func(m *mail.Message) { m.ItemID = strings.Repeat("A", n+1) }), Keys: []mail.Key{key(1)}, Device: "phone-1", Source: mail.EWS}
		got := Payload(a, SenderSubject)
		if len(got) > maxWithItem {
			t.Fatalf("%d bytes with an item id of %d", len(got), n+1)
		}
		last = max(last, len(got))
	}
	if last != maxWithItem {
		t.Errorf("the item id is left out above %d bytes, not above %d", last, maxWithItem)
	}
}

func TestContentIsReadAsItIsWritten(t *testing.T) {
	for _, c := range []Content{Generic, Sender, SenderSubject, SenderSubjectPreview} {
		if got, err := ParseContent(c.String()); got != c || err != nil {
			t.Errorf("%s: got %s, %v", c, got, err)
		}
	}
	for _, s := range []string{"", "Sender", "everything"} {
		if c, err := ParseContent(s); err == nil || c != Generic {
			t.Errorf("%q: got %s, %v", s, c, err)
		}
	}
}

func TestTextIsFitForALockedScreen(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"plain text stays":                      {"Lunch on Friday?", "Lunch on Friday?"},
		"nothing stays nothing":                 {"", ""},
		"only space is nothing":                 {" \t\r\n\u00a0\u2003", ""},
		"lines and runs of space become one":    {" a\r\n\tb  c\u00a0\u2028d ", "a b c d"},
		"control characters go":                 {"a\x00b\x1b[31mc\x7fd\u0085e\u009bf", "ab[31mcd ef"},
		"what shows nothing goes":               {"pay\u200bpal\ufeff \u00adx\u2060", "paypal x"},
		"invalid UTF-8 is repaired":             {"a\xffb\xc3", "a\ufffdb\ufffd"},
		"overrides go, and their closers":       {"exe\u202egpj.\u202ctxt", "exegpj.txt"},
		"a closer that closes nothing goes":     {"a\u202cb\u2069c", "abc"},
		"an open embedding is closed":           {"\u202bשלום", "\u202bשלום\u202c"},
		"open isolates are closed inside out":   {"\u2067\u202aab", "\u2067\u202aab\u202c\u2069"},
		"right-to-left text stays as it is":     {"\u200fמה שלומך?\u200e 42", "\u200fמה שלומך?\u200e 42"},
		"joiners that shape a word stay":        {"می\u200cخواهم", "می\u200cخواهم"},
		"deep nesting is levelled":              {strings.Repeat("\u202a", 99) + "x", strings.Repeat("\u202a", 4) + "x" + strings.Repeat("\u202c", 4)},
		"as long as it may be":                  {"12345678901234567890", "12345678901234567890"},
		"longer is cut with an ellipsis":        {"123456789012345678901", "1234567890123456789…"},
		"no space before the ellipsis":          {"123456789012345678 901", "123456789012345678…"},
		"wide characters count as one":          {"东京东京东京东京东京东京东京东京东京东京东京", "东京东京东京东京东京东京东京东京东京东…"},
		"an accent is not torn from its letter": {"123456789012345678e\u0301e\u0301", "123456789012345678…"},
		"a family stays together":               {"1234567890123456👨\u200d👩\u200d👧 and more", "1234567890123456…"},
		"a flag stays together":                 {"123456789012345678🇨🇭🇨🇭", "123456789012345678…"},
		"a skin tone stays on its hand":         {"123456789012345678👋🏽👋🏽", "123456789012345678…"},
		"a variation stays with its sign":       {"123456789012345678❤\ufe0f❤\ufe0f", "123456789012345678…"},
		"a heap of accents is levelled":         {"Z" + strings.Repeat("\u0301", 99) + "a\u0301", "Z" + strings.Repeat("\u0301", 8) + "a\u0301"},
		"one chain of joiners is cut":           {"👩" + strings.Repeat("\u200d👩", 99), strings.Repeat("👩\u200d", 9) + "👩…"},
		"joined consonants stay together":       {"123456789012345678क्षत्रिय", "123456789012345678…"},
		"a Thai vowel stays with its consonant": {"123456789012345678น้ำใจ", "123456789012345678…"},
		"a half-width voice mark stays":         {"123456789012345678ｶﾞﾗｽ", "123456789012345678…"},
		"signs around Arabic numbers stay":      {"\u0600١٢", "\u0600١٢"},
		"filler between words goes":             {"Sale\u034f \u200c \u00ad\u034f \u200d up", "Sale up"},
		"what looks like nothing is nothing":    {"\u3164\u115f\uffa0\u034f", ""},
		"a flag of a region stays":              {"🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"},
		"text that is hidden in tags goes":      {"yes\U000e006e\U000e006f!", "yes!"},
		"an empty isolate goes":                 {"a \u2066\u2067\u2069\u2069 b\u202b", "a b"},
		"the space before an isolate stays out": {"ש \u2068Contoso\u2069 ש", "ש \u2068Contoso\u2069 ש"},
		"an isolate that is cut is closed":      {"123456\u2067שלוםשלוםשלוםשלוםשלוםשלום\u2069", "123456\u2067שלוםשלוםשלום…\u2069"},
		"an isolate that ended before is not":   {"\u2067של\u206912345678901234567890", "\u2067של\u20691234567890123456…"},
		"an embedding at the cut is closed":     {"\u2067" + strings.Repeat("ש", 17) + "\u2069\u202a12345", "\u2067" + strings.Repeat("ש", 17) + "\u2069\u202a…\u202c"},
		"marks that show nothing are nothing":   {"\u2066\u200e\u2069\u202a\u200d", ""},
		"a variation of nothing is nothing":     {"\ufe0f\ufe00 \u180b\u180f\U000e0100\U000e01ef", ""},
		"a braille pattern without dots either": {"\u2800 \u2800", ""},
		"space between marks is nothing":        {"\u200f \u200e \u202a", ""},
		"a blank pattern stays between others":  {"⠃\u2800⠃\ufe0f", "⠃\u2800⠃\ufe0f"},
		"noncharacters go":                      {"a\ufdd0\uffffb", "ab"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clean(test.in, 20); got != test.want {
				t.Errorf("got %+q, want %+q", got, test.want)
			}
		})
	}
}

func TestAPreviewThatItsSourceCutEndsWithAWholeCharacter(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"shorter than a source tells": {strings.Repeat("p", 252) + "👩", strings.Repeat("p", 252) + "👩"},
		"cut within a family":         {strings.Repeat("p", 252) + "👨\u200d👩\u200d", strings.Repeat("p", 252) + "…"},
		"cut within a pair":           {strings.Repeat("p", 255) + "\ufffd", strings.Repeat("p", 255) + "…"},
		"cut by UTF-16 units":         {strings.Repeat("🎉", 128), strings.Repeat("🎉", 127) + "…"},
		"cut by characters":           {strings.Repeat("🎉", 256), strings.Repeat("🎉", 255) + "…"},
		"white space alone":           {strings.Repeat(" ", 256), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := previewOf(&mail.Message{Preview: test.in}); got != test.want {
				t.Errorf("got %+q, want %+q", got, test.want)
			}
		})
	}
}

func FuzzPayload(f *testing.F) {
	f.Add("Megan Bowen", "Lunch on Friday?", "Shall we?", "AAMkAD=")
	f.Add("\u202e\xff", "\u2067\u202a\r\n\x00", "Z\u0301\u0301\u200d", "<>&\"\\")
	f.Add(strings.Repeat("<", 500), strings.Repeat("\u2066\u2069", 500), strings.Repeat("🇨🇭", 500), strings.Repeat("A", 152))
	f.Fuzz(func(t *testing.T, from, subject, preview, item string) {
		m := &mail.Message{From: mail.Mailbox{Name: from}, Subject: subject, Preview: preview, ItemID: item}
		a := Alert{Message: m, Keys: []mail.Key{key(1)}, Device: strings.Repeat("d", 128), Source: mail.EWS, Thread: "tHrEaD"}
		got := Payload(a, SenderSubjectPreview)
		if len(got) >= 4096 || !utf8.Valid(got) {
			t.Fatalf("%d bytes, valid %t", len(got), utf8.Valid(got))
		}
		again, err := json.Marshal(json.RawMessage(got))
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(got) {
			t.Fatalf("%q is not left as it is: %q", got, again)
		}
		for _, text := range []string{from, subject, preview} {
			once := clean(text, maxTitle)
			if n := utf8.RuneCountInString(once); n > 2*maxTitle {
				t.Fatalf("%d characters", n)
			}
			if twice := clean(once, 3*maxTitle); twice != once {
				t.Fatalf("%+q is not clean: %+q", once, twice)
			}
		}
	})
}

func BenchmarkPayload(b *testing.B) {
	a := Alert{Message: message(nil), Keys: []mail.Key{key(1)}, Device: "phone-1", Source: mail.EWS, Thread: "tHrEaD"}
	b.ReportAllocs()
	for b.Loop() {
		Payload(a, SenderSubject)
	}
}

func ExamplePayload() {
	m := &mail.Message{ItemID: "AAMkAD=", From: mail.Mailbox{Name: "Megan Bowen"}, Subject: "Lunch?"}
	fmt.Println(string(Payload(Alert{Message: m, Keys: []mail.Key{{1}}, Device: "phone-1", Source: mail.EWS}, SenderSubject)))
	// Output:
	// {"aps":{"alert":{"title":"Megan Bowen","body":"Lunch?"},"sound":"default","category":"MAIL","mutable-content":1},"mailbell":{"v":1,"k":"mail","m":"AQAAAAAAAAAAAAAAAAAAAA","d":"phone-1","i":"AAMkAD=","s":"ews"}}
}

func TestAPayloadAllocatesNoMoreThanItself(t *testing.T) {
	a := Alert{Message: message(nil), Keys: []mail.Key{key(1)}, Device: "phone-1", Source: mail.EWS, Thread: "tHrEaD"}
	p := Payload(a, SenderSubject)
	if n := testing.AllocsPerRun(100, func() { Payload(a, SenderSubject) }); n > 2 { // the key in its written form, too
		t.Errorf("%v allocations", n)
	}
	if cap(p) > len(p)+64 { // what the runtime rounds up
		t.Errorf("%d bytes are kept for %d", cap(p), len(p))
	}
}
