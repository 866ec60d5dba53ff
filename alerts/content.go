package alerts

import (
	"fmt"
	"strings"
)

// Content is how much of a message an alert shows on the lock screen. The zero value shows nothing of it.
type Content uint8

// The levels; the first shows least.
const (
	Generic              Content = iota // "new mail", in the words of the app
	Sender                              // who wrote
	SenderSubject                       // who wrote, and about what
	SenderSubjectPreview                // and how it begins
)

var contents = [...]string{"generic", "sender", "sender_subject", "sender_subject_preview"}

func (c Content) String() string { return contents[c] }

// ParseContent reads a level by its name in the configuration.
func ParseContent(s string) (Content, error) {
	for i, name := range contents {
		if s == name {
			return Content(i), nil
		}
	}
	return Generic, fmt.Errorf("%q is not a level of content; there are %s", s, strings.Join(contents[:], ", "))
}
