// Package requestid makes the ids by which a request is found again in Microsoft's logs.
package requestid

import (
	"crypto/rand"
	"encoding/hex"
)

// New returns a random UUID (RFC 9562, version 4).
func New() string {
	var id [16]byte
	rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	text := make([]byte, 0, 36)
	for i, part := range [...][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text)
}
