package mail

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/mailbell/mailbell/internal/hidden"
	"github.com/mailbell/mailbell/internal/hostname"
)

// ErrAddress is wrapped by every error of ParseAddress.
var ErrAddress = errors.New("not a mail address")

// maxAddress is the longest path of RFC 5321 section 4.5.3.1.3 without its angle brackets.
const maxAddress = 254

// ParseAddress checks a bare SMTP address (local@domain, without a display name) and returns the form in which addresses
// are compared: lower case, the domain in its ASCII form. Exchange compares local parts without case, and so does mailbell.
func ParseAddress(s string) (string, error) {
	s = strings.TrimSpace(s)
	local, domain, ok := strings.Cut(s, "@")
	_, isHidden := hidden.InLine(local)
	switch {
	case !ok || local == "" || domain == "" || strings.Contains(domain, "@"):
		return "", fmt.Errorf("%w: want one as in ann@contoso.com", ErrAddress)
	case len(s) > maxAddress:
		return "", fmt.Errorf("%w: longer than %d characters", ErrAddress, maxAddress)
	case !utf8.ValidString(s):
		return "", fmt.Errorf("%w: it is not UTF-8", ErrAddress)
	case strings.ContainsFunc(local, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`<>()[]\,;:"`, r) }), isHidden:
		return "", fmt.Errorf("%w: its local part has a character that is not allowed", ErrAddress)
	}
	domain, ok = hostname.ParseDomain(domain)
	if !ok {
		return "", fmt.Errorf("%w: its domain is not a domain name", ErrAddress)
	}
	return strings.ToLower(local) + "@" + domain, nil
}

// Domain returns the part of a parsed address after the @.
func Domain(address string) string {
	return address[strings.LastIndexByte(address, '@')+1:]
}
