package callbacks

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/listener/marks"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// Anybody may post anything anywhere. Whoever does not know the secret marks nobody, and whoever does marks no more than is allowed.
func FuzzPost(f *testing.F) {
	for _, body := range []string{notification("sub-1", 0, 1), notification("sub-1", 0, 1, "AAMk1", "AAMk2"), notification("sub-2", 0, 1), "", "<Envelope/>", "<!DOCTYPE a>"} {
		f.Add(http.MethodPost, "secret", []byte(body), true)
		f.Add(http.MethodGet, "a/b", []byte(body), false)
	}
	f.Fuzz(func(t *testing.T, method, secret string, body []byte, known bool) {
		book, err := subscriptions.Open(context.Background(), &storetest.Memory{})
		if err != nil {
			t.Fatal(err)
		}
		e := subscriptions.Enrolment{ID: "phone", Mailbox: alice, Token: strings.Repeat("ab", 32), Topic: "com.contoso.mail", Environment: "production"}
		if _, err := book.Enrol(context.Background(), e, time.Now(), time.Time{}); err != nil {
			t.Fatal(err)
		}
		r := NewReceiver(book.Secret(), nil)
		k := NewKeeper(Options{Receiver: r, Log: zap.NewNop()})
		m := &mailbox{box: book.Mailbox(alice)}
		m.Member = k.Member(m.box, m)
		m.group = &group{}
		m.now = m.newSubscription()
		m.now.id, m.now.made = "sub-1", time.Now()
		r.add(m.now.secret, m.Member)
		if known {
			method, secret = http.MethodPost, m.now.secret
		} else if secret == m.now.secret {
			return
		}
		req, err := http.NewRequest(method, "http://bell.example/", strings.NewReader(string(body)))
		if err != nil {
			return
		}
		req.URL.Path = Path + secret
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		switch answer := w.Body.String(); {
		case w.Code == http.StatusOK && answer != ews.ResultOK && answer != ews.ResultUnsubscribe:
			t.Errorf("answered %q", answer)
		case w.Code == http.StatusOK && answer == ews.ResultOK && !known:
			t.Error("a stranger's subscription goes on")
		case w.Code != http.StatusOK && w.Code != http.StatusBadRequest && w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed:
			t.Errorf("answered %d", w.Code)
		}
		if strings.Contains(w.Body.String(), m.now.secret) {
			t.Error("the secret is in the answer")
		}
		told := m.told()
		if !known && (len(told) > 0 || m.listings() > 0 || !m.since.IsZero() || !m.listBy.IsZero()) {
			t.Errorf("a stranger marked the mailbox: %v", told)
		}
		if len(told)+m.listings() > marks.Most+1 {
			t.Errorf("%d hints and %d listings by one post", len(told), m.listings())
		}
		for _, item := range told {
			if !plausible(item) {
				t.Errorf("told of %q", item)
			}
		}
	})
}
