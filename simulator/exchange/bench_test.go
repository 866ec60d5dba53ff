package exchange

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"
)

// BenchmarkMessage is what a message costs the simulator in EWS: delivery, its events, and one GetItem, without sockets.
func BenchmarkMessage(b *testing.B) {
	x := bareHost(b, Options{Password: "secret"})
	const box = "user0001@contoso.example"
	if err := x.addMailbox(box); err != nil {
		b.Fatal(err)
	}
	sub := &subscription{id: "x", box: x.boxes[box], folders: 1 << inbox, kinds: 1 << newMailEvent}
	x.boxes[box].subs = []*subscription{sub}
	c := &ewsClient{user: ListenerName, password: "secret", mailbox: box, sid: "SmtpAddress"}
	raw := testMail("benchmark")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id, err := x.deliver(box, time.Time{}, raw)
		if err != nil {
			b.Fatal(err)
		}
		x.streamEnvelope([]notification{{sub.id, sub.box.guid, sub.queue}}, nil, "")
		sub.queue = nil
		w := httptest.NewRecorder()
		x.ServeHTTP(w, c.request(b.Context(), getItem(id)))
		if w.Code != 200 {
			b.Fatal(fmt.Sprint(w.Code, w.Body))
		}
	}
}
