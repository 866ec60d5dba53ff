package subscriptions

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
)

// Outcomes is the log of a record, in the order in which its messages were dealt with. An entry is never changed, so that a record and its
// copy, which a change makes, share what they have in common. With 15,000 mailboxes the logs are most of what is kept in memory.
type Outcomes []Entry

// spare is how many more entries an array has room for when it is made anew, because it was full. append alone would double it.
const spare = 8

// with adds entries: in the same array while it has room, else in one with a little more.
func (o Outcomes) with(entries ...Entry) Outcomes {
	if cap(o)-len(o) < len(entries) {
		o = append(make(Outcomes, 0, len(o)+len(entries)+spare), o...)
	}
	return append(o, entries...)
}

// raised is the log with the received times in later, by the keys of the entries, where those are later.
func (o Outcomes) raised(later map[uint64]uint32) Outcomes {
	if len(later) == 0 {
		return o
	}
	o = slices.Clone(o)
	for i, e := range o {
		o[i].Received = max(e.Received, later[e.Key])
	}
	return o
}

// without is the log without the entries that go.
func (o Outcomes) without(goes func(e Entry) bool) Outcomes {
	if !slices.ContainsFunc(o, goes) {
		return o
	}
	return slices.DeleteFunc(slices.Clone(o), goes)
}

// entrySize is the size of a written entry: the key's 8 bytes, number and received time in 4 each, big-endian.
const entrySize = 16

var encoding = base64.RawStdEncoding

// MarshalBinary packs the entries; encoding/json writes it as base64 by MarshalText.
func (o Outcomes) MarshalBinary() ([]byte, error) {
	return appendEntries(make([]byte, 0, len(o)*entrySize), o), nil
}

func appendEntries(b []byte, entries []Entry) []byte {
	for _, e := range entries {
		b = binary.BigEndian.AppendUint64(b, e.Key)
		b = binary.BigEndian.AppendUint32(b, e.Number)
		b = binary.BigEndian.AppendUint32(b, e.Received)
	}
	return b
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (o *Outcomes) UnmarshalBinary(b []byte) error {
	if len(b)%entrySize != 0 {
		return errors.New("the log of a record is cut off")
	}
	*o = make(Outcomes, 0, len(b)/entrySize)
	for ; len(b) > 0; b = b[entrySize:] {
		*o = append(*o, Entry{
			Key:      binary.BigEndian.Uint64(b),
			Number:   binary.BigEndian.Uint32(b[8:]),
			Received: binary.BigEndian.Uint32(b[12:]),
		})
	}
	return nil
}

// MarshalText writes the entries as base64.
func (o Outcomes) MarshalText() ([]byte, error) {
	text := make([]byte, 0, encoding.EncodedLen(len(o)*entrySize))
	var packed [3 * entrySize]byte // of three entries, which make whole characters
	for entries := range slices.Chunk(o, 3) {
		text = encoding.AppendEncode(text, appendEntries(packed[:0], entries))
	}
	return text, nil
}

// UnmarshalText is the inverse of MarshalText.
func (o *Outcomes) UnmarshalText(text []byte) error {
	b, err := encoding.AppendDecode(nil, text)
	if err != nil {
		return err
	}
	return o.UnmarshalBinary(b)
}
