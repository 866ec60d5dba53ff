// Package guid makes identifiers in the form that Exchange, Entra ID and APNs share: 8-4-4-4-12 hexadecimal digits (RFC 9562).
package guid

import (
	"crypto/rand"
	"encoding/hex"
)

// GUID is an identifier.
type GUID [16]byte

// New makes a random one (version 4).
func New() (g GUID) {
	rand.Read(g[:])
	g[6], g[8] = g[6]&0x0f|0x40, g[8]&0x3f|0x80
	return g
}

func (g GUID) String() string {
	s := hex.EncodeToString(g[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// Valid reports whether a text has the canonical form, in either case.
func Valid(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (r == '-') || !dash && !isHex(r) {
			return false
		}
	}
	return true
}

func isHex(r rune) bool { return '0' <= r && r <= '9' || 'a' <= r && r <= 'f' || 'A' <= r && r <= 'F' }
