package alerts

import (
	"strings"
	"testing"

	"github.com/mailbell/mailbell/mail"
)

func TestTheEdgesOfARangeBelongToIt(t *testing.T) {
	const eighteen, seventeen = "123456789012345678", "12345678901234567"
	for name, test := range map[string]struct{ in, want string }{
		"a delete alone":                               {"a\x7fb", "ab"},
		"control characters alone are nothing":         {"\x00\x1b\t\x1f", ""},
		"a space at the end goes":                      {"a ", "a"},
		"an override's closer closes nothing else":     {"\u202aab\u202ecd\u202cef\u202cgh", "\u202aabcdef\u202cgh"},
		"that of the other override neither":           {"\u202aab\u202dcd\u202cef\u202cgh", "\u202aabcdef\u202cgh"},
		"the first isolate":                            {"\u2066a", "\u2066a\u2069"},
		"the last isolate":                             {"\u2068a", "\u2068a\u2069"},
		"a flag after an odd number of characters":     {seventeen + "🇨🇭🇨🇭", seventeen + "🇨🇭…"},
		"the flag with the first indicator":            {seventeen + "🇦🇹🇦🇹", seventeen + "🇦🇹…"},
		"the flag with the last indicator":             {seventeen + "🇿🇲🇿🇲", seventeen + "🇿🇲…"},
		"the first indicator is a flag's second half":  {eighteen + "🇨🇦🇨🇦", eighteen + "…"},
		"the last indicator is a flag's second half":   {eighteen + "🇨🇿🇨🇿", eighteen + "…"},
		"the lightest skin stays on its hand":          {eighteen + "👋🏻👋🏻", eighteen + "…"},
		"the darkest skin stays on its hand":           {eighteen + "👋🏿👋🏿", eighteen + "…"},
		"the last final consonant stays in its block":  {seventeen + "\u1112\u1161\u11ff가나", seventeen + "…"},
		"the first tag behind a flag":                  {"🏴\U000e0020\U000e007f", "🏴\U000e0020\U000e007f"},
		"text that is hidden behind a flag's end goes": {"🏴\U000e0067\U000e007f\U000e006e\U000e006fx", "🏴\U000e0067\U000e007fx"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clean(test.in, 20); got != test.want {
				t.Errorf("got %+q, want %+q", got, test.want)
			}
		})
	}
	if got := previewOf(&mail.Message{Preview: strings.Repeat("p", 255)}); got != strings.Repeat("p", 254)+"…" {
		t.Errorf("a preview that Graph has cut: %d characters", len(got))
	}
	if got := previewOf(&mail.Message{Preview: strings.Repeat("ü", 254)}); got != strings.Repeat("ü", 254) {
		t.Errorf("a preview of 254 characters in more bytes than that: %d", len(got))
	}
}

func TestPlainTextCostsNothing(t *testing.T) {
	for _, s := range []string{"", "a", "Lunch on Friday? ok!", "~!"} {
		if n := testing.AllocsPerRun(100, func() { clean(s, 20) }); n != 0 {
			t.Errorf("%q takes %v allocations: most subjects are such", s, n)
		}
	}
}

func TestAClassIsAMeetingsOnlyWithItsKind(t *testing.T) {
	for class, want := range map[string]Kind{
		"IPM.Schedule.Meeting.": Mail, "IPM.Schedule.Meeting": Mail, "IPM.Schedule.Meeting.X": Meeting, "IPM.Schedule.Meetings.X": Mail,
	} {
		if got := (Alert{Message: &mail.Message{Class: class}}).Kind(); got != want {
			t.Errorf("%s: %v, want %v", class, got, want)
		}
	}
}
