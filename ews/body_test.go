package ews

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// itemResponse is the answer of GetItem for one item.
func itemResponse(id string) string {
	return response("GetItem", success("GetItem", `<m:Items><t:Message><t:ItemId Id="`+id+`"/></t:Message></m:Items>`))
}

func answer(r *http.Request, body string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/xml"}}, Request: r, Body: io.NopCloser(strings.NewReader(body))}
}

func TestARequestThatIsStillReadIsNotWrittenOver(t *testing.T) {
	var bodies []io.ReadCloser
	repeating := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		bodies = append(bodies, r.Body) // net/http may do so: the server has answered before it had read all
		again, err := r.GetBody()
		bodies = append(bodies, again)
		httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{})
		return answer(r, itemResponse("x")), err
	})})
	later := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		bodies = append(bodies, r.Body)
		httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{Err: io.ErrClosedPipe}) // it is sent again
		return answer(r, itemResponse("x")), nil
	})})
	for _, c := range []*Client{repeating, later} {
		bodies = nil
		const calls = 20
		for i := range calls {
			if _, _, err := c.GetItem(t.Context(), target, []string{fmt.Sprintf("item-%02d", i)}); err != nil {
				t.Fatal(err)
			}
		}
		for n, body := range bodies {
			id := fmt.Sprintf(`"item-%02d"`, n*calls/len(bodies))
			if sent, err := io.ReadAll(body); err != nil || !strings.Contains(string(sent), id) {
				t.Errorf("%s is not in its request: %q, %v", id, sent, err)
			}
		}
	}
}

func TestEveryRequestHasItsOwnBodyThoughTheMemoryIsUsedAgain(t *testing.T) {
	var requests atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mailbox := r.Header.Get("X-AnchorMailbox")
		w.Header().Set("Content-Type", "text/xml")
		switch requests.Add(1) % 14 {
		case 0: // it hangs up, and the request is sent again
			panic(http.ErrAbortHandler)
		case 7: // it answers before it has read
			fmt.Fprint(w, itemResponse(mailbox))
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || strings.Count(string(body), mailbox) != 2 {
			t.Errorf("%s asks %q, %v", mailbox, body, err)
		}
		fmt.Fprint(w, itemResponse(mailbox))
	}))
	defer s.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	c := New(Options{HTTP: transport})
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 25 {
				id := fmt.Sprintf("%d-%02d@contoso.com", n, i)
				items, _, err := c.GetItem(t.Context(), Target{URL: s.URL, Mailbox: id}, []string{id})
				if err == nil && (len(items) != 1 || items[0].ID != id) { // an error is that of a connection that was cut twice
					t.Errorf("%s: %+v", id, items)
				}
			}
		})
	}
	all.Wait()
}

func TestALargeRequestIsNotKept(t *testing.T) {
	for size, kept := range map[int]bool{keptBody: true, keptBody + 1: false} {
		var bodies requestBodies
		b := bodies.take()
		b.Buffer = *bytes.NewBuffer(make([]byte, 0, size))
		b.trace.WroteRequest(httptrace.WroteRequestInfo{})
		bodies.giveBack(b)
		if (b.Cap() > 0) != kept {
			t.Errorf("%d bytes: %d are kept", size, b.Cap())
		}
	}
}

// The answer of a stream is open for half an hour, and knows its request: 20 KiB with 200 subscriptions.
func TestAnOpenStreamKeepsNothingOfItsRequest(t *testing.T) {
	var req *http.Request
	c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		req = r
		if sent, err := io.ReadAll(r.Body); err != nil || len(sent) <= keptBody {
			t.Errorf("%d bytes were sent, %v", len(sent), err)
		}
		httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{})
		return answer(r, ""), nil
	})})
	ids := make([]string, MaxSubscriptions)
	for i := range ids {
		ids[i] = strings.Repeat("A", 100)
	}
	s, err := c.GetStreamingEvents(t.Context(), target, ids, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	body, err := req.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := io.ReadAll(body); err != nil || len(kept) > 0 {
		t.Errorf("%d bytes are kept, %v", len(kept), err)
	}
}

// What it takes today is 24 allocations, without those of net/http. Were the memory of a request not used again, it would be five more.
func TestReadingAMessageTakesLittleMemory(t *testing.T) {
	const most = 28 // the race detector has one in four of what a sync.Pool is given thrown away
	id := strings.Repeat("A", 150)
	doc := itemResponse(id)
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/xml"}, "Date": {"Thu, 29 Aug 2013 15:22:10 GMT"}}}
	c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, r.Body)
		httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{})
		resp.Body = io.NopCloser(strings.NewReader(doc))
		return resp, nil
	})})
	ids := []string{id}
	n := testing.AllocsPerRun(2000, func() {
		if items, _, err := c.GetItem(t.Context(), target, ids); err != nil || items[0].Message.ItemID != id {
			t.Fatal(err)
		}
	})
	if n > most {
		t.Errorf("%v allocations", n)
	}
}
