// Package storetest is the conformance suite of a subscriptions.Store: what the rest of mailbell relies on, whatever the state is kept in.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Run holds a store to the promises. open opens the same state again and again; every store that it returned before is closed by then.
func Run(t *testing.T, open func(t *testing.T) subscriptions.Store) {
	t.Run("an empty state has a secret, and keeps it", func(t *testing.T) {
		first := load(t, open)
		if first.Secret == (mail.Secret{}) {
			t.Fatal("the secret is empty")
		}
		if again := load(t, open); again.Secret != first.Secret {
			t.Error("the secret changed: every message would ring again")
		}
	})
	t.Run("what was written is there after a restart, whole", func(t *testing.T) {
		r, d := record("r1"), device("d1", "r1")
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}, PutDevices: []*subscriptions.Device{d}})
		got := load(t, open)
		same(t, got.Records, r)
		same(t, got.Devices, d)
	})
	t.Run("a later write replaces the value", func(t *testing.T) {
		r := record("r1")
		r.Listed, r.Outcomes, r.Behind = 99, nil, nil
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}})
		same(t, load(t, open).Records, r)
	})
	t.Run("dropping and putting is one change", func(t *testing.T) {
		r, d := record("r2"), device("d2", "r2")
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}, PutDevices: []*subscriptions.Device{d}, Drop: []string{"r1"}, DropDevices: []*subscriptions.Device{device("d1", "r1")}})
		got := load(t, open)
		same(t, got.Records, r)
		same(t, got.Devices, d)
	})
	t.Run("a whole write leaves no other device of its records", func(t *testing.T) {
		r, other := record("r2"), record("r3")
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r, other}, PutDevices: []*subscriptions.Device{device("d2", "r2"), device("stale", "r2"), device("d3", "r3")}})
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}, PutDevices: []*subscriptions.Device{device("d2", "r2")}, Whole: true})
		got := load(t, open)
		slices.SortFunc(got.Devices, func(a, b *subscriptions.Device) int { return strings.Compare(a.ID, b.ID) })
		same(t, got.Devices, device("d2", "r2"), device("d3", "r3"))
		write(t, open, subscriptions.Change{Drop: []string{"r3"}, DropDevices: []*subscriptions.Device{device("d3", "r3")}})
	})
	t.Run("a device alone leaves its record as it is", func(t *testing.T) {
		r := record("r4")
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}, PutDevices: []*subscriptions.Device{device("d4", "r4")}})
		write(t, open, subscriptions.Change{PutDevices: []*subscriptions.Device{device("d5", "r4")}})
		got := load(t, open)
		got.Records = slices.DeleteFunc(got.Records, func(r *subscriptions.Record) bool { return r.ID != "r4" })
		got.Devices = slices.DeleteFunc(got.Devices, func(d *subscriptions.Device) bool { return d.Record != "r4" })
		slices.SortFunc(got.Devices, func(a, b *subscriptions.Device) int { return strings.Compare(a.ID, b.ID) })
		same(t, got.Records, r)
		same(t, got.Devices, device("d4", "r4"), device("d5", "r4"))
		write(t, open, subscriptions.Change{Drop: []string{"r4"}, DropDevices: []*subscriptions.Device{device("d4", "r4"), device("d5", "r4")}})
	})
	t.Run("dropping what is not there is no error", func(t *testing.T) {
		write(t, open, subscriptions.Change{Drop: []string{"none"}, DropDevices: []*subscriptions.Device{device("none", "none")}})
	})
	t.Run("the last decisions are kept, and go with their record", func(t *testing.T) {
		decided := func(id string, puts ...subscriptions.DecisionPut) subscriptions.Change {
			return subscriptions.Change{Decided: subscriptions.Decided{Record: id, Decisions: puts}}
		}
		add := func(from, to int) (puts []subscriptions.DecisionPut) {
			for i := from; i < to; i++ {
				puts = append(puts, subscriptions.DecisionPut{Is: fmt.Appendf(nil, "decision %d\x00\r\n", i)})
			}
			return puts
		}
		kept := func(id string, from, to int) {
			t.Helper()
			s := open(t)
			defer s.Close()
			list, err := s.Decisions(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			if want := add(from, to); !slices.EqualFunc(list, want, func(is []byte, p subscriptions.DecisionPut) bool { return string(is) == string(p.Is) }) {
				t.Errorf("%q; want number %d to %d", list, from, to-1)
			}
		}
		r := record("r6")
		write(t, open, decided("r6", add(0, 1)...)) // there is no such record
		kept("r6", 0, 0)
		if n := len(load(t, open).Records); n != 1 {
			t.Errorf("%d records: decisions made one", n)
		}
		with := decided("r6", add(0, 3)...)
		with.Put = []*subscriptions.Record{r}
		write(t, open, with)
		kept("r6", 0, 3)
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}})
		write(t, open, decided("r6", add(3, subscriptions.MaxDecisions)...))
		kept("r6", 0, subscriptions.MaxDecisions)
		write(t, open, decided("r6", add(subscriptions.MaxDecisions, subscriptions.MaxDecisions+2)...))
		kept("r6", 2, subscriptions.MaxDecisions+2)
		there, gone := add(30, 31)[0].Is, add(1, 2)[0].Is
		write(t, open, decided("r6", subscriptions.DecisionPut{Was: there, Is: []byte("changed")}, subscriptions.DecisionPut{Was: gone, Is: []byte("not there")}))
		write(t, open, decided("r6", subscriptions.DecisionPut{Was: []byte("changed"), Is: there}))
		kept("r6", 2, subscriptions.MaxDecisions+2)
		write(t, open, decided("r6", add(subscriptions.MaxDecisions-5, subscriptions.MaxDecisions+2)...)) // it is tried again
		kept("r6", 2, subscriptions.MaxDecisions+2)
		kept("r7", 0, 0)
		same(t, slices.DeleteFunc(load(t, open).Records, func(r *subscriptions.Record) bool { return r.ID != "r6" }), r)
		write(t, open, subscriptions.Change{Drop: []string{"r6"}})
		kept("r6", 0, 0)
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{record("r8")}})
		for range 3 { // it is tried again
			write(t, open, decided("r8", subscriptions.DecisionPut{Is: []byte("changed")}, subscriptions.DecisionPut{Was: []byte("changed"), Is: there}))
		}
		kept("r8", 30, 31)
		write(t, open, subscriptions.Change{Drop: []string{"r8"}})
	})
	t.Run("writes at the same time are all there", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				id := fmt.Sprintf("c%03d", i)
				if err := s.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{record(id)}, PutDevices: []*subscriptions.Device{device(id, id)}}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := load(t, open); len(got.Records) != 501 || len(got.Devices) != 501 {
			t.Errorf("%d records and %d devices; want 501 of each", len(got.Records), len(got.Devices))
		}
	})
	t.Run("the writes of one record keep their order", func(t *testing.T) {
		s := open(t)
		r := record("order")
		for i := range 200 {
			r = r.Clone()
			r.Listed = int64(i)
			if err := s.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{r}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, got := range load(t, open).Records {
			if got.ID == "order" && got.Listed != 199 {
				t.Errorf("listed is %d; the last write said 199", got.Listed)
			}
		}
	})
	t.Run("a full log and many devices behind", func(t *testing.T) {
		r := record("full")
		for i := range 600 {
			r.Outcomes = append(r.Outcomes, subscriptions.Entry{Key: uint64(i) << 40, Number: uint32(i + 1), Received: uint32(1 << 30)})
		}
		for i := range 500 {
			r.Behind = append(r.Behind, subscriptions.Behind{Device: fmt.Sprint("d", i), Number: 7, Reason: "throttled", Done: []uint64{1, 1 << 63}})
		}
		write(t, open, subscriptions.Change{Put: []*subscriptions.Record{r}})
		for _, got := range load(t, open).Records {
			if got.ID == r.ID {
				same(t, []*subscriptions.Record{got}, r)
			}
		}
	})
	t.Run("a closed store says so", func(t *testing.T) {
		s := open(t)
		if err := s.Ping(t.Context()); err != nil {
			t.Fatalf("Ping: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{record("x")}}); err == nil {
			t.Error("a write to a closed store was taken")
		}
		if err := s.Ping(t.Context()); err == nil {
			t.Error("a closed store answers Ping")
		}
		if _, err := s.Decisions(t.Context(), "x"); err == nil {
			t.Error("a closed store knows decisions")
		}
	})
	t.Run("a write whose caller went away is written or not, and can be repeated", func(t *testing.T) {
		s := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := subscriptions.Change{Put: []*subscriptions.Record{record("again")}}
		_ = s.Write(ctx, c)
		if err := s.Write(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("of changes with the same precondition one is made", func(t *testing.T) {
		s := open(t)
		defer s.Close()
		b, err := subscriptions.Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		counted(t, b)
	})
}

// counted has many tasks count in the label of a device, each from what it has seen: what is lost would be counted twice.
func counted(t *testing.T, b *subscriptions.Book) {
	t.Helper()
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	errAnother := errors.New("it is another one by now")
	var made atomic.Int64
	var tasks sync.WaitGroup
	for range 8 {
		tasks.Go(func() {
			for range 10 {
				seen, known := b.Device("contended")
				n, _ := strconv.Atoi(seen.Label) // 0 where there is none
				e := subscriptions.Enrolment{ID: "contended", Mailbox: "contended@contoso.example", Token: "0c0d", Topic: "com.contoso.mail",
					Environment: "production", Label: strconv.Itoa(n + 1)}
				_, err := b.EnrolIf(t.Context(), e, func(d subscriptions.Device, is bool) error {
					if is != known || d.Label != seen.Label {
						return errAnother
					}
					return nil
				}, subscriptions.Beginning{Now: at, Since: at})
				switch {
				case err == nil:
					made.Add(1)
				case !errors.Is(err, errAnother):
					t.Error(err)
				}
			}
		})
	}
	tasks.Wait()
	d, _ := b.Device("contended")
	if want := strconv.FormatInt(made.Load(), 10); d.Label != want || want == "0" {
		t.Errorf("%s changes were made, and %s are there", want, d.Label)
	}
}

func write(t *testing.T, open func(t *testing.T) subscriptions.Store, c subscriptions.Change) {
	t.Helper()
	s := open(t)
	if err := s.Write(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, open func(t *testing.T) subscriptions.Store) subscriptions.Contents {
	t.Helper()
	s := open(t)
	all, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

func same[T any](t *testing.T, got []*T, want ...*T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the state differs (-want +got):\n%s", diff)
	}
}

func record(id string) *subscriptions.Record {
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	return &subscriptions.Record{
		ID: id, Addresses: []string{id + "@contoso.example"}, Account: "listener-01", Subscription: "JgBib/+=", Subscribed: at,
		At:     &mail.Location{Entry: "headquarters", URL: "https://mail.contoso.example/EWS/Exchange.asmx", Group: "g1", Primary: id + "@contoso.example", Found: at},
		Listed: at.Unix(), Since: at.Add(-mail.Window).Unix(), End: 2,
		Outcomes: subscriptions.Outcomes{{Key: 1, Number: 1, Received: 5}, {Key: 1<<64 - 1, Number: 2, Received: 1<<32 - 1}},
		Behind:   []subscriptions.Behind{{Device: "d1", Number: 1, Done: []uint64{1<<64 - 1}, Reason: "topic_away", Next: at}},
	}
}

func device(id, record string) *subscriptions.Device {
	at := time.Date(2026, 11, 22, 8, 0, 0, 1, time.UTC)
	return &subscriptions.Device{ID: id, Mailbox: id + "@contoso.example", Record: record, Token: "0a0b", Topic: "com.contoso.mail",
		Environment: "production", Label: "Ann\u2019s iPhone", Created: at, Enrolled: at, Since: at.Add(-time.Minute)}
}
