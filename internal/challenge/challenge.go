// Package challenge reads the authentication schemes of a challenge: WWW-Authenticate and Proxy-Authenticate (RFC 9110 section 11.6.1).
package challenge

import (
	"iter"
	"slices"
	"strings"
)

// maxSchemes bounds what is kept of a challenge: a server offers a handful.
const maxSchemes = 8

// Schemes are those of a header's lines, as they are written and in their order, each once. Several may stand in one line, where a comma divides
// them, and their parameters too.
func Schemes(lines []string) (schemes []string) {
	for _, line := range lines {
		for element := range Elements(line) {
			scheme, ok := schemeOf(element)
			if ok && !Has(schemes, scheme) && len(schemes) < maxSchemes {
				schemes = append(schemes, scheme)
			}
		}
	}
	return schemes
}

// Has says whether a scheme is among others; case does not count.
func Has(schemes []string, scheme string) bool {
	return slices.ContainsFunc(schemes, func(s string) bool { return strings.EqualFold(s, scheme) })
}

// Elements are those of a line that is a list (RFC 9110 section 5.6.1): a comma within quotes ends none, so that no realm can contain a scheme.
func Elements(line string) iter.Seq[string] {
	return func(yield func(string) bool) {
		quoted, escaped, from := false, false, 0
		for i := range len(line) {
			switch c := line[i]; {
			case escaped:
				escaped = false
			case c == '\\' && quoted:
				escaped = true
			case c == '"':
				quoted = !quoted
			case c == ',' && !quoted:
				if !yield(line[from:i]) {
					return
				}
				from = i + 1
			}
		}
		yield(line[from:])
	}
}

// schemeOf is the scheme that an element begins with; not ok: it is a further parameter of the one before.
func schemeOf(element string) (scheme string, ok bool) {
	name, rest, _ := strings.Cut(strings.TrimSpace(element), " ")
	parameter := strings.Contains(name, "=") || strings.HasPrefix(strings.TrimSpace(rest), "=")
	if name == "" || parameter || strings.ContainsFunc(name, notOfToken) {
		return "", false
	}
	return name, true
}

// notOfToken says whether a character is none of a token (RFC 9110 section 5.6.2).
func notOfToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}
