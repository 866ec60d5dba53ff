package subscriptions

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"
)

func TestAChangedValueIsNotRead(t *testing.T) {
	r := &Record{ID: "r1", Addresses: []string{"ann@contoso.example"}, Listed: 7}
	sealed, err := seal(kindRecord, r.ID, r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readRecord(schema, "r1", sealed); err != nil || got.Listed != 7 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range sealed {
		for bit := range 8 {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1 << bit
			if _, err := readRecord(schema, "r1", changed); err == nil {
				t.Errorf("byte %d, bit %d: it was read", i, bit)
			}
		}
		if _, err := readRecord(schema, "r1", sealed[:i]); err == nil {
			t.Errorf("cut off after %d bytes: it was read", i)
		}
	}
	if _, err := readRecord(schema, "r2", sealed); err == nil {
		t.Error("the value of another record was read")
	}
	if _, err := readDevice(schema, "r1", sealed); err == nil {
		t.Error("a record was read as a device")
	}
}

func TestAValueThatWouldNotWorkIsNotRead(t *testing.T) {
	for text, says := range map[string]string{
		`{"id":"r2","addresses":["a@b.example"]}`: `the record "r2"`,
		`{"id":"r1"}`:                   "no address",
		`{"id":"r1","addresses":[]}`:    "no address",
		`{"id":"r1","addresses":[""]}`:  "no address",
		`{"id":"r1","addresses":"a@b"}`: "unmarshal",
		`null`:                          `the record ""`,
		strings.Repeat("[", 1<<20):      "depth",
		`{"id":"r1","addresses":["a@b.example"],"outcomes":"AAAA"}`: "cut off",
	} {
		if _, err := readRecord(1, "r1", []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: error %v; want one that says %q", text, err, says)
		}
	}
	for text, says := range map[string]string{
		`{"id":"d2","mailbox":"a@b.example","record":"r1","token":"aa"}`: `the device "d2"`,
		`{"id":"d1","record":"r1","token":"aa"}`:                         "no mailbox",
		`{"id":"d1","mailbox":"a@b.example","token":"aa"}`:               "no record",
		`{"id":"d1","mailbox":"a@b.example","record":"r1"}`:              "no token",
	} {
		if _, err := readDevice(1, "d1", []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error %v; want one that says %q", text, err, says)
		}
	}
}

func FuzzReadRecord(f *testing.F) {
	sealed, _ := seal(kindRecord, "r1", &Record{ID: "r1", Addresses: []string{"ann@contoso.example"}, Outcomes: Outcomes{{Key: 1, Number: 1, Received: 1}}})
	f.Add(2, sealed)
	f.Add(1, sealed[sealSize:])
	f.Add(1, []byte(`{"id":"r1","addresses":[""],"behind":[{}]}`))
	f.Fuzz(func(t *testing.T, version int, data []byte) {
		r, err := readRecord(version, "r1", data)
		if err == nil && (r.ID != "r1" || len(r.Addresses) == 0) {
			t.Errorf("%+v", r)
		}
		if d, err := readDevice(version, "r1", data); err == nil && (d.ID != "r1" || d.Mailbox == "") {
			t.Errorf("%+v", d)
		}
	})
}

func TestAVersionIsANumberFromOneToOurs(t *testing.T) {
	for text, want := range map[string]error{
		"1": nil, "2": nil, "": ErrDamaged, "x": ErrDamaged, "0": ErrDamaged, "-1": ErrDamaged, "1.0": ErrDamaged, "999": ErrNewer,
	} {
		if n, err := schemaOf([]byte(text)); !errors.Is(err, want) || err == nil && strconv.Itoa(n) != text {
			t.Errorf("%q is version %d, %v; want %v", text, n, err, want)
		}
	}
}

func TestTheBufferOfAHugeValueIsNotKept(t *testing.T) {
	s := newSealer()
	for size, kept := range map[int]bool{keptValue: true, keptValue + 1: false} {
		if s.buffers.GiveBack(bytes.NewBuffer(make([]byte, size))) != kept {
			t.Errorf("of %d bytes: kept %t", size, !kept)
		}
	}
}

// A sealer uses its buffers again, and a store keeps what it was given until it is written.
func TestASealedValueStaysAsItIs(t *testing.T) {
	s := newSealer()
	first, err := s.seal(kindRecord, "r1", &Record{ID: "r1", Addresses: []string{"ann@contoso.example"}, Listed: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // the race detector has a pool forget
		if _, err := s.seal(kindRecord, "r2", &Record{ID: "r2", Addresses: []string{"bob@contoso.example"}, Listed: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := readRecord(schema, "r1", first); err != nil || r.Listed != 1 {
		t.Errorf("it is %+v by now: %v", r, err)
	}
}

func TestALogOfAnyLengthIsWrittenAsOneText(t *testing.T) {
	for n := range 10 {
		var o Outcomes
		for i := range n {
			o = append(o, Entry{Key: uint64(i)<<40 | 1, Number: uint32(i), Received: 1 << 30})
		}
		packed, _ := o.MarshalBinary()
		text, _ := o.MarshalText()
		if want := encoding.EncodeToString(packed); string(text) != want {
			t.Errorf("%d entries: %s, want %s", n, text, want)
		}
	}
}
