package mail

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"time"
	"unicode/utf8"
)

// Key identifies a message (rule 1 of the log): it is the same over EWS and Graph, in listings and reads, before and after a move.
type Key [16]byte

// String is the written form: 22 characters of base64url. It is the collapse id of the message's alerts.
func (k Key) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// Short is the part of the key that a record keeps.
func (k Key) Short() uint64 { return binary.BigEndian.Uint64(k[:8]) }

// Secret of an installation: it makes keys unguessable, so that a key reveals nothing about its message.
type Secret [32]byte

// maxSubject is how much of a subject enters a key: a listing may have only its first 255 characters.
const maxSubject = 128

// Key of a message of the mailbox whose record has the given id. Exchange's own duplicate key is message id and submit time. Without a
// message id the subject stands for it. A program that sends mail with neither id nor submit time repeats its subjects: there the received
// time stands for the submit time, and where that is missing too, the item id.
func (s Secret) Key(record string, m *Message) Key {
	if m.InternetID != "" {
		return s.sum("id", record, m.InternetID, seconds(m.Sent))
	}
	subject := m.Subject
	if utf8.RuneCountInString(subject) > maxSubject {
		subject = string([]rune(subject)[:maxSubject])
	}
	switch {
	case !m.Sent.IsZero():
		return s.sum("subject", record, subject, seconds(m.Sent))
	case !m.Received.IsZero():
		return s.sum("received", record, subject, seconds(m.Received))
	}
	return s.sum("subject item", record, subject, m.ItemID)
}

// seconds is a time as it enters a key, without its fraction, which a listing may not have.
func seconds(t time.Time) string {
	var b [8]byte
	if !t.IsZero() {
		binary.BigEndian.PutUint64(b[:], uint64(t.Unix()))
	}
	return string(b[:])
}

// ItemKey stands for a message that could not be read (rule 9): only the id of its item is known.
func (s Secret) ItemKey(record, item string) Key { return s.sum("item", record, item) }

// SummaryKey is the one key of all summaries of a mailbox (rule 8): a newer summary replaces the older.
func (s Secret) SummaryKey(record string) Key { return s.sum("summary", record) }

// Callback is the secret, of 128 bits, in the URL at which Exchange calls back for a push subscription of a mailbox. The nonce is stored,
// the secret is not.
func (s Secret) Callback(record, nonce string) string {
	return s.sum("callback", record, nonce).String()
}

// GraphPath is the end of the URL to which Microsoft Graph posts: one secret for all mailboxes, so that it can post for several at once.
// Each public URL has its own.
func (s Secret) GraphPath(publicURL string) string { return s.sum("graph", publicURL).String() }

// ClientState is the secret of a subscription of a mailbox at Microsoft Graph, which comes back with each notification.
func (s Secret) ClientState(record, nonce string) string {
	return s.sum("client state", record, nonce).String()
}

// PushID is an apns-id.
type PushID [16]byte

// String is the canonical form of RFC 9562. It is empty where there is no id.
func (p PushID) String() string {
	if p == (PushID{}) {
		return ""
	}
	h := hex.EncodeToString(p[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// PushID is the apns-id of the alert for this key on this phone. It is always the same, so that a repeat differs from another push.
// It has the form of a UUID (version 8 of RFC 9562: the bits are ours).
func (s Secret) PushID(k Key, phone string, extra ...string) PushID {
	var parts [8]string // nearly always enough: then they are on the stack
	id := PushID(s.sum(append(append(parts[:0], "push", string(k[:]), phone), extra...)...))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Thread is the thread-id of a conversation: it groups alerts on the screen, and reveals nothing. Empty: there is no conversation.
func (s Secret) Thread(record, conversation string) string {
	if conversation == "" {
		return ""
	}
	k := s.sum("thread", record, conversation)
	return base64.RawURLEncoding.EncodeToString(k[:12])
}

// sum is the HMAC-SHA-256 (RFC 2104) over the parts, each with its length before it, so that no two lists of parts are the same bytes.
// A message takes four; crypto/hmac would allocate half a kilobyte for each.
func (s Secret) sum(parts ...string) (k Key) {
	inner := make([]byte, sha256.BlockSize, 512) // nearly always enough: then it is on the stack
	var outer [sha256.BlockSize + sha256.Size]byte
	copy(inner, s[:])
	copy(outer[:], s[:])
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	for _, p := range parts {
		inner = binary.BigEndian.AppendUint32(inner, uint32(len(p)))
		inner = append(inner, p...)
	}
	sum := sha256.Sum256(inner)
	copy(outer[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(outer[:])
	copy(k[:], sum[:])
	return k
}
