// Package pattern has the patterns of names that several rooms check.
package pattern

import (
	"errors"
	"regexp"
)

// Pattern is what a name looks like.
type Pattern struct {
	expression *regexp.Regexp
	Words      string // that follow "want"
}

// New returns a pattern of a regular expression, with its description. It panics if the expression is invalid.
func New(expression, words string) Pattern { return Pattern{regexp.MustCompile(expression), words} }

// Matches reports whether a text matches the pattern.
func (p Pattern) Matches(s string) bool { return p.expression.MatchString(s) }

// Check returns the text if it matches the pattern. Its error does not show the text.
func (p Pattern) Check(s string) (string, error) {
	if !p.Matches(s) {
		return "", errors.New("want " + p.Words)
	}
	return s, nil
}

// The patterns.
var (
	// Name of an exchange entry, a listener account or a client of the API: metrics, logs and answers show it.
	Name = New(`^[A-Za-z0-9._:@-]{1,64}$`, "a name of 1 to 64 characters of A-Z a-z 0-9 . _ : @ -")
	// Device is the id of an enrolment. The MDM portal chooses it, and it is part of paths.
	Device = New(`^[A-Za-z0-9._:@-]{1,128}$`, "1 to 128 characters of A-Z a-z 0-9 . _ : @ -")
	// Topic of APNs. The configuration has the ones that exist.
	Topic = New(`^[A-Za-z0-9._-]{1,255}$`, "the app's bundle id, as in com.contoso.mail")
	// GUID of an app, or of a tenant, as Entra ID writes it.
	GUID = New(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`, "a GUID, as Entra ID shows it as the application (client) id")
)
