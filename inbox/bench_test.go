package inbox

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// instant is a server that answers at once, and an APNs that accepts at once.
type instant struct {
	link
	accepted chan struct{}
}

func (i *instant) Read(_ context.Context, ids []string) (Items, error) {
	all := Items{Clock: time.Now()}
	for _, id := range ids {
		m := message{id: id, internetID: "<" + id + "@fabrikam.example>", subject: id, received: time.Now(), sent: time.Now()}
		told := m.tell()
		all.Items = append(all.Items, Item{ID: id, Message: &told})
	}
	return all, nil
}

func (i *instant) List(context.Context, Part) (Page, error) { return Page{Clock: time.Now()}, nil }

func (i *instant) Push(context.Context, *subscriptions.Notification) subscriptions.Answer {
	i.accepted <- struct{}{}
	return subscriptions.Answer{Result: subscriptions.Accepted, Status: 200, At: time.Now()}
}

func (i *instant) Ready(string, string) bool { return true }

// open opens an inbox with some mailboxes of a device each: the log of one alone would grow and grow.
func (i *instant) open(t testing.TB, log *zap.Logger) []*Mailbox {
	book, err := subscriptions.Open(t.Context(), &storetest.Memory{})
	if err != nil {
		t.Fatal(err)
	}
	in := New(Options{Book: book, Sender: i, MaxAge: time.Hour, Log: log})
	t.Cleanup(in.Close)
	boxes := make([]*Mailbox, 256)
	for n := range boxes {
		now := time.Now()
		e := subscriptions.Enrolment{ID: fmt.Sprint("phone-", n), Mailbox: fmt.Sprintf("user-%d@contoso.example", n), Token: fmt.Sprint("token-", n), Topic: topic,
			Environment: "production"}
		done, err := book.Enrol(t.Context(), e, now, now.Add(-mail.Tolerance))
		if err != nil {
			t.Fatal(err)
		}
		boxes[n] = in.Open(done.Mailbox)
		boxes[n].Attach(i)
		boxes[n].List()
		for !boxes[n].Status().Listed {
			<-time.After(time.Millisecond)
		}
	}
	return boxes
}

// What the whole way of a message takes in this room and in the record is 40 allocations today.
func TestAMessageTakesLittleMemory(t *testing.T) {
	const most = 43
	synctest.Test(t, func(t *testing.T) {
		i := &instant{link: link{source: &source{}, poll: time.Hour}, accepted: make(chan struct{})}
		boxes := i.open(t, zap.NewNop())
		n := 0
		allocations := testing.AllocsPerRun(4*len(boxes), func() {
			boxes[n%len(boxes)].Hint(fmt.Sprint("item-", n), mail.EWS, time.Now())
			n++
			<-i.accepted
		})
		if allocations > most {
			t.Errorf("%v allocations", allocations)
		}
	})
}

// BenchmarkMessage is all that this room does for a message of one device, at the levels of the log.
func BenchmarkMessage(b *testing.B) {
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel} {
		b.Run(level.String(), func(b *testing.B) {
			sink := zapcore.AddSync(discard{})
			log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), sink, level))
			i := &instant{link: link{source: &source{}, poll: time.Hour}, accepted: make(chan struct{})}
			boxes := i.open(b, log)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				boxes[n%len(boxes)].Hint(fmt.Sprint("item-", n), mail.EWS, time.Now())
				<-i.accepted
			}
		})
	}
}

// discard is io.Discard, which zap does not know.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
