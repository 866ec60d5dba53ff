package callbacks

// Real HTTP clients, over TCP: who sends nothing, slowly, too much or too often harms nobody else.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/ews"
)

// served serves the callbacks of one mailbox that is listened to, over TCP.
func served(t *testing.T) (*mailbox, *httptest.Server, *server) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	t.Parallel()
	s := newServer()
	a := newAccount(t, s)
	m := a.join(alice)[0]
	web := httptest.NewServer(s.receiver)
	t.Cleanup(web.Close)
	waitFor(t, "alice is listened to", func() bool { return m.listens() && m.listings() > 0 })
	return m, web, s
}

func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(20 * time.Second)
	defer end.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// dial sends the beginning of a request.
func dial(t *testing.T, web *httptest.Server, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func head(path string, length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bell\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n", path, length)
}

// live posts a message, which is taken in at once.
func live(t *testing.T, web *httptest.Server, s *server, item string) {
	t.Helper()
	sub := s.sub(alice)
	s.mu.Lock()
	body := notification(sub.id, sub.mark, sub.mark+1, item)
	sub.mark++
	s.mu.Unlock()
	resp, err := web.Client().Post(web.URL+strings.TrimPrefix(sub.url, publicURL), "text/xml", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || string(answer) != ews.ResultOK {
		t.Fatalf("%d %s, %v", resp.StatusCode, answer, err)
	}
}

func TestWhoPostsNothingOrSlowlyKeepsNobodyWaitingAndIsCutOff(t *testing.T) {
	m, web, s := served(t)
	known := strings.TrimPrefix(s.sub(alice).url, publicURL)
	var slow []net.Conn
	for i := range 100 {
		path := Path + fmt.Sprintf("%022d", i)
		if i < maxOfOne-1 {
			path = known
		}
		slow = append(slow, dial(t, web, head(path, 1000)+"<Envel"))
	}
	for i := range 5 {
		live(t, web, s, fmt.Sprintf("AAMk%d", i))
	}
	if told := m.told(); len(told) != 5 {
		t.Errorf("told of %v", told)
	}
	late := time.Now().Add(2 * readTimeout) // for all: they came at once
	for _, c := range slow {
		if err := c.SetReadDeadline(late); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("not cut off: %v", err)
		}
	}
}

func TestOfAPostThatIsTooLargeNoMoreIsReadThanIsAllowed(t *testing.T) {
	m, web, s := served(t)
	c := dial(t, web, head(strings.TrimPrefix(s.sub(alice).url, publicURL), 1<<30))
	blank := strings.Repeat(" ", 64<<10)
	sent := 0
	for range 1 << 30 / len(blank) {
		n, err := io.WriteString(c, blank)
		sent += n
		if err != nil {
			break
		}
	}
	if most := 16 << 20; sent > most { // what buffers of both ends hold
		t.Errorf("%d bytes were taken", sent)
	}
	live(t, web, s, "AAMk1")
	if told := m.told(); !slices.Equal(told, []string{"AAMk1"}) {
		t.Errorf("told of %v", told)
	}
}

func TestWhoKnowsASecretTakesNoMorePlacesThanItsOwn(t *testing.T) {
	m, web, s := served(t)
	known := strings.TrimPrefix(s.sub(alice).url, publicURL)
	var held time.Time // since when slow posts have the places
	waitFor(t, "the next is refused", func() bool {
		if time.Since(held) > readTimeout { // on a busy machine they may have had their time
			held = time.Now()
			for range maxOfOne {
				dial(t, web, head(known, 1000))
			}
		}
		if m.reading.Load() < maxOfOne {
			return false
		}
		c := dial(t, web, head(known, 4)+"<a/>")
		defer c.Close()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
	})
}

// Forged callbacks, as many as can be posted, mark nobody, and whatever they are answered, live ones are taken in at once.
func TestForgedCallbacksCostLiveMailNothing(t *testing.T) {
	m, web, s := served(t)
	listed := m.listings()
	const at, between, lives = 8, 500, 16
	var attack sync.WaitGroup
	stop := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		attack.Wait()
	})
	defer end()
	var answered, limited atomic.Int64
	for a := range at {
		attack.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			for n := a; ; n += at {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Post(fmt.Sprintf("%s%sforged%016d", web.URL, Path, n), "text/xml", strings.NewReader(notification("sub-1", 1, 2, "AAMkForged")))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusServiceUnavailable {
					limited.Add(1)
				}
				answered.Add(1)
			}
		})
	}
	for i := range lives {
		began := answered.Load()
		waitFor(t, "more forged ones are answered", func() bool { return answered.Load() > began+between })
		live(t, web, s, fmt.Sprintf("live%d", i))
	}
	end()
	t.Logf("%d forged ones were answered, %d of them with 503", answered.Load(), limited.Load())
	for _, item := range m.told() {
		if strings.Contains(item, "Forged") {
			t.Fatalf("told of %s", item)
		}
	}
	if n := len(m.told()); n != lives || m.listings() != listed {
		t.Errorf("told of %d messages, want %d; %d listings more", n, lives, m.listings()-listed)
	}
	if s.sub(alice).ended || !m.listens() {
		t.Error("alice is not listened to any more")
	}
}
