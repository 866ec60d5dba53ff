package subscriptions

// How a record, a device and the secret are written: a version, a checksum, and JSON.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"

	"github.com/mailbell/mailbell/internal/buffers"
	"github.com/mailbell/mailbell/mail"
)

// schema is the version of everything that a store holds. A state of an older one is migrated when it is opened, a newer one is
// refused. 1 had values without a checksum.
const schema = 2

// ErrDamaged is wrapped by the error of a state that is not what mailbell wrote. Nothing was changed.
var ErrDamaged = errors.New("the state is damaged")

// ErrNewer is wrapped by the error of a state that a newer mailbell has written. Nothing was changed.
var ErrNewer = errors.New("the state was written by a newer mailbell")

// schemaOf reads the version that a state says it has.
func schemaOf(text []byte) (int, error) {
	n, err := strconv.Atoi(string(text))
	switch {
	case err != nil || n < 1:
		return 0, fmt.Errorf("%w: its version is %q, which is no number", ErrDamaged, text)
	case n > schema:
		return 0, fmt.Errorf("%w: it has version %d, and this one knows up to %d: start the mailbell that wrote it, or restore a copy",
			ErrNewer, n, schema)
	}
	return n, nil
}

// Damaged is a value that a store could not read. It was set aside, and everything else goes on.
type Damaged struct {
	What string // names the value: record "…", device "…"
	Kept string // where it is kept now; empty where nothing is left of it
	Err  error
}

// kind is what a value is.
type kind string

const (
	kindRecord kind = "record"
	kindDevice kind = "device"
	kindSecret kind = "secret"
)

// A written value is sealMark, 8 hexadecimal digits of a checksum, a space, and JSON.
const (
	sealMark = "2 "
	sealSize = len(sealMark) + 9
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is of a value and its name, so that it is wrong for a value that stands under the name of another.
func checksum(k kind, id string, data []byte) string {
	name := append(append([]byte(k), 0), id...)
	sum := crc32.Update(crc32.Checksum(append(name, 0), castagnoli), castagnoli, data)
	return hex.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// keptValue is how large a buffer may be that is used again: a record with a full log has 16 KiB. One with a thousand devices behind has
// megabytes, and is rare.
const keptValue = 16 << 10

// sealer writes values. Its buffers are used again.
type sealer struct{ buffers buffers.Pool }

func newSealer() sealer { return sealer{buffers.Pool{Most: keptValue}} }

// fill writes a value into a buffer, which is given back when nobody looks at it any more.
func (s *sealer) fill(k kind, id string, v any) (*bytes.Buffer, error) {
	b := s.buffers.Take()
	b.WriteString(sealMark + "00000000 ")
	if err := json.NewEncoder(b).Encode(v); err != nil {
		s.buffers.GiveBack(b)
		return nil, err
	}
	b.Truncate(b.Len() - 1) // the end of line
	copy(b.Bytes()[len(sealMark):], checksum(k, id, b.Bytes()[sealSize:]))
	return b, nil
}

// seal writes a value that may be kept.
func (s *sealer) seal(k kind, id string, v any) ([]byte, error) {
	b, err := s.fill(k, id, v)
	if err != nil {
		return nil, err
	}
	defer s.buffers.GiveBack(b)
	return bytes.Clone(b.Bytes()), nil
}

// seal writes one value. Who writes many has a sealer.
func seal(k kind, id string, v any) ([]byte, error) { return new(sealer).seal(k, id, v) }

// unseal reads what seal wrote; of version 1 it takes the JSON as it is.
func unseal(version int, k kind, id string, sealed []byte, v any) error {
	data := sealed
	if version > 1 {
		if len(sealed) < sealSize || string(sealed[:len(sealMark)]) != sealMark {
			return errors.New("it is cut off, or not a value of mailbell")
		}
		data = sealed[sealSize:]
		if string(sealed[len(sealMark):sealSize]) != checksum(k, id, data)+" " {
			return errors.New("its checksum is wrong: it was changed, or is the value of another")
		}
	}
	return json.Unmarshal(data, v)
}

// readRecord reads the record that stands under an id.
func readRecord(version int, id string, sealed []byte) (*Record, error) {
	r := new(Record)
	switch err := unseal(version, kindRecord, id, sealed, r); {
	case err != nil:
		return nil, err
	case r.ID != id:
		return nil, fmt.Errorf("it is the record %q", r.ID)
	case len(r.Addresses) == 0 || slices.Contains(r.Addresses, ""):
		return nil, errors.New("it has no address")
	}
	return r, nil
}

// readDevice reads the device that stands under an id.
func readDevice(version int, id string, sealed []byte) (*Device, error) {
	d := new(Device)
	switch err := unseal(version, kindDevice, id, sealed, d); {
	case err != nil:
		return nil, err
	case d.ID != id:
		return nil, fmt.Errorf("it is the device %q", d.ID)
	case d.Mailbox == "" || d.Record == "" || d.Token == "":
		return nil, errors.New("it has no mailbox, no record or no token")
	}
	return d, nil
}

// readSecret reads the secret of the installation. Without it every message of the last day would be alerted again.
func readSecret(version int, written []byte) (s mail.Secret, err error) {
	secret := written
	if version > 1 {
		if err := unseal(version, kindSecret, "", written, &secret); err != nil {
			return s, fmt.Errorf("%w: the secret of the installation cannot be read: %w", ErrDamaged, err)
		}
	}
	if len(secret) != len(s) {
		return s, fmt.Errorf("%w: the secret of the installation has %d bytes, and not %d", ErrDamaged, len(secret), len(s))
	}
	copy(s[:], secret)
	return s, nil
}
