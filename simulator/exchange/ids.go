package exchange

// Identifiers that look as Exchange's do: long, opaque, case-sensitive base64 over the same layout, so that a test
// notices a client that cuts, folds or unescapes one.

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// Lengths of the entry ids inside a store id ([MS-OXCDATA] 2.2.4).
const (
	folderEntry = 46
	itemEntry   = 70
	idHead      = 2 + 2 + 36 // kind, length and text of the mailbox's GUID
)

func appendCounter(b []byte, n uint64) []byte {
	var be [8]byte
	binary.BigEndian.PutUint64(be[:], n)
	return append(b, be[2:]...)
}

func appendIDHead(b []byte, box guid.GUID, entry byte) []byte {
	b = append(b, 0, 3, 36, 0)
	b = append(b, box.String()...)
	b = append(b, entry, 0, 0, 0, 0, 0)
	return append(b, box[:]...)
}

// folderID is the id of a folder of a mailbox.
func folderID(box guid.GUID, f folderKind) string {
	b := make([]byte, 0, idHead+2+folderEntry+1)
	b = appendIDHead(b, box, folderEntry)
	b = append(b, 1, 0)
	b = append(b, box[:]...)
	b = appendCounter(b, 0x0100+uint64(f))
	b = append(b, 0, 0, 0)
	return base64.StdEncoding.EncodeToString(b)
}

// itemID is the id of an item; number is never used twice in a mailbox.
func itemID(box guid.GUID, f folderKind, number uint64) string {
	b := make([]byte, 0, idHead+2+itemEntry+1)
	b = appendIDHead(b, box, itemEntry)
	b = append(b, 7, 0)
	b = append(b, box[:]...)
	b = appendCounter(b, 0x0100+uint64(f))
	b = append(b, 0, 0)
	b = append(b, box[:]...)
	b = appendCounter(b, number)
	b = append(b, 0, 0, 0)
	return base64.StdEncoding.EncodeToString(b)
}

// attachmentID is that of an item, and which of its attachments it is.
func attachmentID(item string, n int) string {
	b, err := base64.StdEncoding.DecodeString(item)
	if err != nil {
		return ""
	}
	b = append(b, 1, 18, 0, 16, 0)
	return base64.StdEncoding.EncodeToString(append(appendCounter(b, uint64(n)), make([]byte, 10)...))
}

// parseItemID reads what itemID wrote; ok is false for anything else, down to the case of a letter.
func parseItemID(id string) (box guid.GUID, number uint64, ok bool) {
	b, err := base64.StdEncoding.DecodeString(id)
	if err != nil || len(b) != idHead+2+itemEntry+1 {
		return box, 0, false
	}
	at := idHead + 2 + 4
	copy(box[:], b[at:])
	f := folderKind(b[at+16+2+16+5])
	var be [8]byte
	copy(be[2:], b[len(b)-9:])
	number = binary.BigEndian.Uint64(be[:])
	return box, number, itemID(box, f, number) == id
}

// parseFolderID reads what folderID wrote.
func parseFolderID(id string) (box guid.GUID, f folderKind, ok bool) {
	b, err := base64.StdEncoding.DecodeString(id)
	if err != nil || len(b) != idHead+2+folderEntry+1 {
		return box, 0, false
	}
	copy(box[:], b[idHead+2+4:])
	f = folderKind(b[len(b)-4])
	return box, f, f < folderKinds && folderID(box, f) == id
}

// changeKey of the n-th change of a mailbox.
func changeKey(box guid.GUID, n uint64) string {
	b := append(make([]byte, 0, 30), 9, 0, 0, 0, 22, 0, 0, 0)
	b = append(b, box[:]...)
	return base64.StdEncoding.EncodeToString(appendCounter(b, n))
}

// subscriptionID names the mailbox server, as Exchange's ids do.
func subscriptionID(server string, at time.Time) string {
	b := append(make([]byte, 0, 2+len(server)+2+16+8), byte(len(server)), 0)
	b = append(b, server...)
	b = append(b, 16, 0, 0, 0)
	g := guid.New()
	b = append(b, g[:]...)
	const from1601 = 11_644_473_600 // seconds from the epoch of FILETIME to that of Unix
	b = binary.LittleEndian.AppendUint64(b, uint64(at.Unix()+from1601)*1e7+uint64(at.Nanosecond()/100))
	return base64.StdEncoding.EncodeToString(b)
}
