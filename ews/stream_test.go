package ews

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

const (
	heartbeat = `<m:ConnectionStatus>OK</m:ConnectionStatus>`
	ended     = `<m:ConnectionStatus>Closed</m:ConnectionStatus>`
)

// newMail is a notification of one NewMailEvent, with its element in the namespace that prefix names.
func newMail(prefix, subscription string, items ...string) string {
	s := `<` + prefix + `:Notification><t:SubscriptionId>` + subscription + `</t:SubscriptionId><t:MoreEvents>false</t:MoreEvents>`
	for _, id := range items {
		s += `<t:CreatedEvent><t:ItemId Id="not this"/></t:CreatedEvent><t:NewMailEvent><t:Watermark>w</t:Watermark><t:TimeStamp>2026-11-22T10:00:00Z</t:TimeStamp><t:ItemId Id="` + id +
			`" ChangeKey="CQ"/><t:ParentFolderId Id="not this"/></t:NewMailEvent><t:StatusEvent><t:Watermark>w</t:Watermark></t:StatusEvent>`
	}
	return `<m:Notifications>` + s + `</` + prefix + `:Notification></m:Notifications>`
}

func event1(subscription, item string) Event {
	return Event{Subscription: subscription, ItemID: item, Time: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
}

func streaming(payload string) string {
	return response("GetStreamingEvents", success("GetStreamingEvents", payload))
}

func streamFault(code, more string) string {
	return response("GetStreamingEvents", failure("GetStreamingEvents", code, "text of the server", more))
}

// play opens a stream of the body and reads it to its end.
func play(t *testing.T, body string, ids ...string) (events []Event, beats int, errs []error) {
	t.Helper()
	s, err := answers(200, body).GetStreamingEvents(t.Context(), target, ids, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 100 {
		n, err := s.Next()
		events = append(events, n.Events...)
		if err == nil && len(n.Events) == 0 {
			beats++
		}
		if err != nil {
			errs = append(errs, err)
			if e, ok := errors.AsType[*Error](err); !ok || len(e.Fault.Subscriptions) == 0 && e.Fault.Code != "ErrorServerBusy" {
				return events, beats, errs
			}
		}
	}
	t.Fatal("the stream does not end")
	return
}

func TestAnOfficialCaptureOfAStreamIsUnderstood(t *testing.T) {
	events, beats, errs := play(t, sample(t, "04")+sample(t, "33"), "a", "b")
	want := Event{
		Subscription: "JgBibjFwcjAzbWIyMDIubmFtcHJkMDMucHJvZC5vdXRsb29rLmNvbRAAAADwXxVesOnHS5BxUHKwAW88SHjwd1iB0Ag=",
		ItemID:       "AAMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwBGAAAAAABSSWVKrmGUTJE+MVIvofglBwDZGACZQpSgSpyNkexYe2b7AAAAAAENAADZGACZQpSgSpyNkexYe2b7AAANGFYwAAA=",
		Time:         time.Date(2013, 9, 16, 4, 31, 29, 0, time.UTC),
	}
	if !slices.Equal(events, []Event{want}) || beats != 1 || len(errs) != 1 || errs[0] != io.EOF {
		t.Errorf("%+v, %d, %v", events, beats, errs)
	}
	_, _, errs = play(t, sample(t, "05"), "a")
	if e, ok := errors.AsType[*Error](errs[0]); !ok || e.Fault.Code != "ErrorInvalidSubscription" || !slices.Equal(e.Fault.Subscriptions, []string{"a"}) || errs[1] != io.EOF {
		t.Errorf("%v", errs)
	}
}

func TestEventsAreReadInBothNamespaces(t *testing.T) {
	for _, prefix := range []string{"m", "t"} {
		body := streaming(heartbeat) + streaming(newMail(prefix, "s1", "i1", "i2")+newMail(prefix, "s2", "i3")+heartbeat) + streaming(newMail(prefix, "s1", "i4")+ended)
		events, beats, errs := play(t, body, "s1", "s2")
		if diff := cmp.Diff([]Event{event1("s1", "i1"), event1("s1", "i2"), event1("s2", "i3"), event1("s1", "i4")}, events); diff != "" || beats != 1 || len(errs) != 1 || errs[0] != io.EOF {
			t.Errorf("%s: %d beats, %v (-want +got):\n%s", prefix, beats, errs, diff)
		}
	}
}

func TestHeartbeatsOfEveryShape(t *testing.T) {
	for _, payload := range []string{
		heartbeat, heartbeat + `<m:Notifications/>`, `<m:Notifications><m:Notification><t:SubscriptionId>s1</t:SubscriptionId><t:StatusEvent/></m:Notification></m:Notifications>`, ``,
		`<m:Notifications><t:Notification/></m:Notifications>`,
	} {
		events, beats, errs := play(t, streaming(payload)+streaming(ended), "s1")
		if len(events) != 0 || beats != 2 || len(errs) != 1 || errs[0] != io.EOF {
			t.Errorf("%s: %v, %d, %v", payload, events, beats, errs)
		}
	}
	if _, beats, errs := play(t, soap(`<m:GetStreamingEventsResponse/>`)+streaming(ended), "s1"); beats != 2 || errs[0] != io.EOF {
		t.Errorf("without response messages: %d, %v", beats, errs)
	}
}

func TestALostSubscriptionIsReportedWithItsIDAndTheStreamMayGoOn(t *testing.T) {
	for _, prefix := range []string{"m", "t"} {
		ids := `<m:ErrorSubscriptionIds><` + prefix + `:SubscriptionId>s1</` + prefix + `:SubscriptionId><` + prefix + `:SubscriptionId> s2 </` + prefix + `:SubscriptionId></m:ErrorSubscriptionIds>`
		events, _, errs := play(t, streamFault("ErrorSubscriptionNotFound", ids+heartbeat)+streaming(newMail("m", "s3", "i1")+ended), "s1", "s2", "s3")
		if len(errs) != 2 || errs[1] != io.EOF || !slices.Equal(events, []Event{event1("s3", "i1")}) {
			t.Fatalf("%v, %v", events, errs)
		}
		e, ok := errors.AsType[*Error](errs[0])
		if !ok || !slices.Equal(e.Fault.Subscriptions, []string{"s1", "s2"}) || e.Fault.Scope != fault.Mailbox || !e.Fault.Unsubscribed || !e.Fault.Missed || e.RequestID == "" {
			t.Errorf("%+v", e)
		}
	}
}

func TestEventsThatComeWithAnErrorAreNotLost(t *testing.T) {
	both := response("GetStreamingEvents", success("GetStreamingEvents", newMail("m", "s1", "i1"))+
		failure("GetStreamingEvents", "ErrorMissedNotificationEvents", "", `<m:ErrorSubscriptionIds><m:SubscriptionId>s2</m:SubscriptionId></m:ErrorSubscriptionIds>`)+
		failure("GetStreamingEvents", "ErrorReadEventsFailed", "", `<m:ErrorSubscriptionIds><m:SubscriptionId>s3</m:SubscriptionId></m:ErrorSubscriptionIds>`+ended))
	events, beats, errs := play(t, both, "s1", "s2", "s3")
	if !slices.Equal(events, []Event{event1("s1", "i1")}) || beats != 0 || len(errs) != 3 || errs[2] != io.EOF {
		t.Fatalf("%v, %d, %v", events, beats, errs)
	}
	for i, want := range []string{"ErrorMissedNotificationEvents", "ErrorReadEventsFailed"} {
		if fault.Of(errs[i]).Code != want {
			t.Errorf("%d: %v", i, errs[i])
		}
	}
}

func TestAnErrorThatNamesNoSubscriptionConcernsTheGroup(t *testing.T) {
	_, _, errs := play(t, streamFault("ErrorInvalidSubscription", ended), "s1", "s2")
	if e, ok := errors.AsType[*Error](errs[0]); !ok || len(e.Fault.Subscriptions) != 0 || e.Fault.Scope != fault.Group {
		t.Errorf("%+v", errs[0])
	}
	_, _, errs = play(t, sample(t, "34")+streaming(ended), "s1", "s2")
	if e, ok := errors.AsType[*Error](errs[0]); !ok || e.Fault.Code != "ErrorServerBusy" || e.Fault.After != 297749*time.Millisecond || e.Fault.Scope != fault.Group || errs[1] != io.EOF {
		t.Errorf("a fault with status 200, then the success: %v", errs)
	}
}

func TestWhatIsNoMarkupInAStreamHarmsNoOtherEvent(t *testing.T) {
	body := streaming(newMail("m", "s1", "a&b", "c")) + streamFault("ErrorSubscriptionNotFound", `<m:ErrorSubscriptionIds><t:SubscriptionId>s&2</t:SubscriptionId></m:ErrorSubscriptionIds>`) +
		strings.ReplaceAll(streaming(newMail("t", "s1", "d")), "<t:Watermark>w<", "<t:Watermark>1 < 2 & 3<") + streaming(ended)
	events, _, errs := play(t, body, "s1", "s&2")
	if !slices.Equal(events, []Event{event1("s1", "a&b"), event1("s1", "c"), event1("s1", "d")}) {
		t.Errorf("%+v, %v", events, errs)
	}
	if e, ok := errors.AsType[*Error](errs[0]); !ok || !slices.Equal(e.Fault.Subscriptions, []string{"s&2"}) {
		t.Errorf("%v", errs)
	}
}

func TestAStreamThatEndsWithoutClosedMayHaveLostEvents(t *testing.T) {
	for name, c := range map[string]struct{ body, code string }{
		"between envelopes": {streaming(heartbeat), CodeCut},
		"within":            {streaming(heartbeat) + streaming(heartbeat)[:500], CodeCut},
		"at once":           {"", CodeCut},
		"garbage":           {streaming(heartbeat) + "\x00\x00\x00", CodeForeign},
		"a login page":      {"<html><body/></html>", CodeForeign},
		"a DTD":             {streaming(heartbeat) + `<!DOCTYPE a [<!ENTITY b "c">]>` + streaming(ended), CodeForeign},
		"a page":            {"<!DOCTYPE html><html>", CodeForeign},
		"bad tags":          {soap("<a><b></a></b>"), CodeUnparseableStream},
	} {
		_, _, errs := play(t, c.body, "s1")
		e, ok := errors.AsType[*Error](errs[len(errs)-1])
		if !ok || e.Fault.Code != c.code || !e.Fault.Missed || e.Fault.Scope < fault.Group {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

func TestAStreamOverTLSDeliversEachEnvelopeAsItComes(t *testing.T) {
	step := make(chan string)
	c, url := exchange(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for part := range step {
			io.WriteString(w, part)
			w.(http.Flusher).Flush()
		}
	})
	s, err := open(t, c, url, step)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	next := func() Notifications {
		t.Helper()
		n, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	next()
	go func() { // byte by byte, each in a chunk of its own
		for _, b := range []byte(streaming(newMail("m", "s1", "i1"))) {
			step <- string(b)
		}
	}()
	if n := next(); !slices.Equal(n.Events, []Event{event1("s1", "i1")}) || n.At.IsZero() {
		t.Errorf("%+v", n)
	}
	step <- streaming(newMail("m", "s1", "i2")) + streaming(newMail("m", "s1", "i3")) + streaming(newMail("m", "s1", "i4"))[:700]
	if a, b := next(), next(); a.Events[0].ItemID != "i2" || b.Events[0].ItemID != "i3" {
		t.Errorf("%+v %+v", a, b)
	}
	step <- streaming(newMail("m", "s1", "i4"))[700:] + streaming(ended)
	if n := next(); n.Events[0].ItemID != "i4" {
		t.Errorf("%+v", n)
	}
	if n := next(); !n.Closed {
		t.Errorf("%+v", n)
	}
	close(step)
	for range 2 {
		if _, err := s.Next(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	}
}

// open opens a stream of a server that waits for its parts, and gives it a heartbeat.
func open(t *testing.T, c *Client, url string, step chan<- string) (*Stream, error) {
	t.Helper()
	go func() { step <- streaming(heartbeat) }()
	return c.GetStreamingEvents(t.Context(), Target{URL: url}, []string{"s1"}, time.Minute)
}

func TestASilentStreamIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := streams(Options{}, func(w *io.PipeWriter) {
			io.WriteString(w, streaming(heartbeat))
			half := streaming(heartbeat)
			<-time.After(80 * time.Second)
			io.WriteString(w, half[:50]) // each byte counts
			<-time.After(80 * time.Second)
			io.WriteString(w, half[50:])
		})
		began := time.Now()
		s, err := c.GetStreamingEvents(t.Context(), target, []string{"s1"}, 30*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Minute) // what takes us long is no silence of the server
		waiting := time.Now()
		_, err = s.Next()
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Fault.Code != CodeSilent || e.Fault.Scope != fault.Group || !e.Fault.Missed || time.Since(waiting) != 90*time.Second {
			t.Errorf("after %v and %v: %v", waiting.Sub(began), time.Since(waiting), err)
		}
		if _, again := s.Next(); again != err {
			t.Errorf("then %v", again)
		}
	})
}

func TestAStreamThatTheServerDoesNotEndIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := streams(Options{}, func(w *io.PipeWriter) {
			for {
				if _, err := io.WriteString(w, streaming(heartbeat)); err != nil {
					return
				}
				<-time.After(45 * time.Second)
			}
		})
		began := time.Now()
		s, err := c.GetStreamingEvents(t.Context(), target, []string{"s1"}, 10*time.Minute)
		for err == nil {
			_, err = s.Next()
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != CodeOverdue || time.Since(began) != 11*time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		s.Close()
		<-time.After(time.Minute) // the server notices
	})
}

func TestAStreamEndsWithItsContextOrClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := streams(Options{}, func(w *io.PipeWriter) { io.WriteString(w, streaming(heartbeat)) })
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.GetStreamingEvents(ctx, target, []string{"s1"}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		s.Next()
		time.AfterFunc(time.Second, cancel)
		_, err = s.Next()
		if _, ok := errors.AsType[*Error](err); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		s.Close()
		s, err = c.GetStreamingEvents(t.Context(), target, []string{"s1"}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		s.Close()
		if _, err := s.Next(); err == nil {
			t.Error("a closed stream brought something")
		}
	})
}

func TestAStreamThatDoesNotBeginIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Timeout: 20 * time.Second, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		})})
		began := time.Now()
		_, err := c.GetStreamingEvents(t.Context(), target, []string{"s1"}, time.Minute)
		if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != CodeHeldBack || time.Since(began) != opening {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
	_, err := answers(500, sample(t, "34")).GetStreamingEvents(t.Context(), target, []string{"s1"}, time.Minute)
	if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != "ErrorServerBusy" || e.Fault.After != 297749*time.Millisecond || e.RequestID == "" {
		t.Errorf("%v", err)
	}
	_, err = answers(401, "").GetStreamingEvents(t.Context(), target, []string{"s1"}, time.Minute)
	if e := fault.Of(err); e.Code != "HTTP 401" || e.Scope != fault.Account || e.Remedy != fault.Fix {
		t.Errorf("%v", err)
	}
}

// FuzzStream holds that no stream makes the client panic or go on for ever.
func FuzzStream(f *testing.F) {
	f.Add([]byte(sample(f, "04") + sample(f, "33")))
	f.Add([]byte(sample(f, "05")))
	f.Add([]byte(streaming(newMail("t", "s1", "i1")+ended) + streaming(heartbeat)))
	f.Add([]byte(sample(f, "34")))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := answers(200, string(body)).GetStreamingEvents(t.Context(), target, []string{"s1", "s2"}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range len(body) + 2 { // no envelope is shorter than a byte
			if _, err = s.Next(); err == io.EOF {
				return
			}
			if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Fault.Code == "") {
				t.Fatalf("%#v", err)
			}
		}
		if err == nil || s.end == nil {
			t.Fatalf("no end: %v", err)
		}
	})
}

func BenchmarkEventEnvelope(b *testing.B) {
	doc := sample(b, "04")
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	s := &Stream{own: context.Background(), ctx: context.Background()}
	s.parser.framer.reset(&endless{doc: doc})
	for b.Loop() {
		n, err := s.Next()
		if err != nil || len(n.Events) != 1 {
			b.Fatal(err)
		}
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	doc := streaming(heartbeat)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	s := &Stream{own: context.Background(), ctx: context.Background()}
	s.parser.framer.reset(&endless{doc: doc})
	for b.Loop() {
		if n, err := s.Next(); err != nil || len(n.Events) != 0 {
			b.Fatal(err)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var body bytes.Buffer
		envelope(&body, version2013, target, getItem([]string{strings.Repeat("A", 150)}))
		if !bytes.Contains(body.Bytes(), []byte("GetItem")) {
			b.Fatal("no request")
		}
	}
}

func TestAStreamHasOneToTwoHundredSubscriptions(t *testing.T) {
	c := answers(200, streaming(heartbeat))
	for n, ok := range map[int]bool{0: false, 1: true, 200: true, 201: false} {
		s, err := c.GetStreamingEvents(t.Context(), target, make([]string, n), time.Minute)
		if (err == nil) != ok {
			t.Errorf("%d: %v", n, err)
		}
		if s != nil {
			s.Close()
		}
	}
}

func TestAnErrorComesWithoutAHeartbeatBeforeItAndEndsNothingByItself(t *testing.T) {
	lost := `<m:ErrorSubscriptionIds><m:SubscriptionId>s1</m:SubscriptionId></m:ErrorSubscriptionIds>`
	for name, c := range map[string]struct {
		body   string
		events int
	}{
		"alone":       {streamFault("ErrorSubscriptionNotFound", lost+ended), 0},
		"with events": {response("GetStreamingEvents", success("GetStreamingEvents", newMail("m", "s2", "i1"))+failure("GetStreamingEvents", "ErrorSubscriptionNotFound", "", lost+ended)), 1},
	} {
		s, err := answers(200, c.body).GetStreamingEvents(t.Context(), target, []string{"s1", "s2"}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if c.events > 0 {
			if n, err := s.Next(); err != nil || len(n.Events) != c.events || n.Closed {
				t.Errorf("%s: %+v, %v: it was not the server that ended it as it should", name, n, err)
			}
		}
		if n, err := s.Next(); fault.Of(err).Code != "ErrorSubscriptionNotFound" || len(n.Events) != 0 {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
		if _, err := s.Next(); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := answers(200, streaming(heartbeat)+streaming(ended)).GetStreamingEvents(t.Context(), target, []string{"s1"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, closed := range []bool{false, true} {
		if n, err := s.Next(); err != nil || n.Closed != closed {
			t.Errorf("%+v, %v", n, err)
		}
	}
}

func TestAStreamIsNotSilentWhileNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := streams(Options{Timeout: time.Minute, Silence: time.Minute}, func(w *io.PipeWriter) {
			for range 3 {
				io.WriteString(w, streaming(heartbeat))
			}
			io.WriteString(w, streaming(ended))
		})
		s, err := c.GetStreamingEvents(t.Context(), target, []string{"a"}, 30*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 4 {
			<-time.After(5 * time.Minute) // events are being dealt with
			if _, err := s.Next(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestAStreamThatCouldNotBeOpenedHoldsNothing(t *testing.T) {
	var own context.Context
	c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		own = r.Context()
		return nil, io.ErrUnexpectedEOF
	})})
	if _, err := c.GetStreamingEvents(t.Context(), target, []string{"a"}, time.Minute); fault.Of(err).Code != proxy.CodeNetwork || own.Err() == nil {
		t.Errorf("%v, and its context goes on: %v", err, own.Err())
	}
}

func TestAStreamThatWasClosedIsNobodysFault(t *testing.T) {
	s, err := streams(Options{}, func(w *io.PipeWriter) { io.WriteString(w, streaming(heartbeat)) }).GetStreamingEvents(t.Context(), target, []string{"a"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Close()
	}
	for range 2 {
		if _, err := s.Next(); err == nil || errors.As(err, new(*Error)) {
			t.Errorf("%v", err)
		}
	}
}
