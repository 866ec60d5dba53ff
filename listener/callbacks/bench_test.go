package callbacks

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/mail"
)

// A callback from its request to its mark and answer, HTTP itself left out.
func BenchmarkPost(b *testing.B) {
	r := NewReceiver([32]byte{1}, nil)
	k := NewKeeper(Options{Receiver: r})
	m := &mailbox{}
	m.Member = k.Member(nil, m)
	m.group = &group{}
	m.now = &subscription{id: "sub-1", secret: "secret", made: time.Now()}
	r.add("secret", m.Member)
	body := notification("sub-1", 0, 1, "AAMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1ZTc1YwBGAAAAAA")
	b.ReportAllocs()
	for b.Loop() {
		m.now.watermark, m.hints = "w0", m.hints[:0]
		req := httptest.NewRequest(http.MethodPost, Path+"secret", strings.NewReader(body))
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}

// A look at 1,250 mailboxes of which nothing is to be done.
func BenchmarkDue(b *testing.B) {
	r := NewReceiver([32]byte{1}, nil)
	k := NewKeeper(Options{Receiver: r})
	now := time.Now()
	for range 1250 {
		m := k.Member(nil, nil)
		m.group, m.since, m.at = &group{}, now, &mail.Location{Primary: rand.Text()}
		m.now = &subscription{made: now, lastPost: now}
		k.members[m] = struct{}{}
	}
	b.ReportAllocs()
	for b.Loop() {
		k.due(now)
	}
}
