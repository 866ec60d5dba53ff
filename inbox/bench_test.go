package inbox

import (
	"context"
	"fmt"
	"testing"
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

func (i *instant) Push(context.Context, subscriptions.Notification) subscriptions.Answer {
	i.accepted <- struct{}{}
	return subscriptions.Answer{Result: subscriptions.Accepted, Status: 200, At: time.Now()}
}

func (i *instant) Ready(string, string) bool { return true }

// BenchmarkMessage is all that this room does for a message of one device, at the levels of the log.
func BenchmarkMessage(b *testing.B) {
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel} {
		b.Run(level.String(), func(b *testing.B) {
			sink := zapcore.AddSync(discard{})
			log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), sink, level))
			book, err := subscriptions.Open(b.Context(), &storetest.Memory{})
			if err != nil {
				b.Fatal(err)
			}
			i := &instant{link: link{source: &source{}, poll: time.Hour}, accepted: make(chan struct{})}
			in := New(Options{Book: book, Sender: i, MaxAge: time.Hour, Log: log})
			defer in.Close()
			boxes := make([]*Mailbox, 256) // the log of a mailbox alone would grow and grow
			for n := range boxes {
				now := time.Now()
				e := subscriptions.Enrolment{ID: fmt.Sprint("phone-", n), Mailbox: fmt.Sprintf("user-%d@contoso.example", n), Token: fmt.Sprint("token-", n), Topic: topic,
					Environment: "production"}
				done, err := book.Enrol(b.Context(), e, now, now.Add(-mail.Tolerance))
				if err != nil {
					b.Fatal(err)
				}
				boxes[n] = in.Open(done.Mailbox)
				boxes[n].Attach(i)
				boxes[n].List()
				for !boxes[n].Status().Listed {
					<-time.After(time.Millisecond)
				}
			}
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
