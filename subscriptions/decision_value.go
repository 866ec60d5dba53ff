package subscriptions

// How a decision is written: in bytes, for a state has fifty of them about each mailbox.

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// decisionFormat is the first byte of a packed decision.
const decisionFormat = 1

var errDecision = errors.New("it is not a decision as this mailbell writes them")

// pack writes a decision: its format, its key, its times in Unix milliseconds, its status and its correlation as varints, and then, each
// with its length, its apns-id and its words.
func (d Decision) pack() []byte {
	b := make([]byte, 0, 1+len(d.Key)+4*6+binary.MaxVarintLen32+5+len(d.PushID)+len(d.Device)+len(d.Outcome)+len(d.Reason)+len(d.Code))
	b = append(append(b, decisionFormat), d.Key[:]...)
	for _, at := range []time.Time{d.At, d.Came, d.Shown} {
		b = binary.AppendUvarint(b, milliseconds(at))
	}
	b = binary.AppendUvarint(b, uint64(max(d.Status, 0)))
	b = binary.AppendUvarint(b, uint64(d.Correlation))
	if d.PushID == (mail.PushID{}) {
		b = append(b, 0)
	} else {
		b = append(append(b, byte(len(d.PushID))), d.PushID[:]...)
	}
	for _, word := range []string{d.Device, string(d.Outcome), string(d.Reason), d.Code} {
		b = append(binary.AppendUvarint(b, uint64(len(word))), word...)
	}
	return b
}

// milliseconds of Unix time, cut to what number reads; 0: the time is not known.
func milliseconds(at time.Time) uint64 {
	if at.IsZero() {
		return 0
	}
	return uint64(min(max(at.UnixMilli(), 1), maxNumber))
}

// unpackDecision is the inverse of pack.
func unpackDecision(b []byte) (d Decision, err error) {
	r := packed{rest: b}
	if format := r.take(1); len(format) == 0 || format[0] != decisionFormat {
		return d, errDecision
	}
	copy(d.Key[:], r.take(len(d.Key)))
	d.At, d.Came, d.Shown = r.time(), r.time(), r.time()
	d.Status, d.Correlation = int(r.number()), Correlation(r.number())
	copy(d.PushID[:], r.take(int(r.number())))
	d.Device, d.Outcome, d.Reason, d.Code = r.word(), outcome.Outcome(r.word()), outcome.Reason(r.word()), r.word()
	if r.broken || len(r.rest) > 0 {
		return Decision{}, errDecision
	}
	return d, nil
}

// packed is what is left to read of a packed decision.
type packed struct {
	rest   []byte
	broken bool // it ended too early
}

func (r *packed) take(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.broken, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// maxNumber bounds what number reads: milliseconds of some thousand years.
const maxNumber = 1<<48 - 1

func (r *packed) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > maxNumber {
		r.broken, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *packed) time() time.Time {
	n := r.number()
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(n))
}

func (r *packed) word() string { return string(r.take(int(r.number()))) }
