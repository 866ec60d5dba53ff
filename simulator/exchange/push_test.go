package exchange

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// retries is the first wait of these tests before a post is repeated.
const retries = 20 * time.Millisecond

// subscriber takes posts.
type subscriber struct {
	*httptest.Server
	mu     sync.Mutex
	posts  []string
	at     []time.Time
	status string // SubscriptionStatus of its answers
	code   int    // of HTTP
}

func newSubscriber(t *testing.T) *subscriber {
	t.Helper()
	s := &subscriber{status: "OK", code: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.posts, s.at = append(s.posts, string(body)), append(s.at, time.Now())
		w.WriteHeader(s.code)
		fmt.Fprintf(w, `<s:Envelope xmlns:s="%s"><s:Body><m:SendNotificationResult xmlns:m="%s"><m:SubscriptionStatus>%s</m:SubscriptionStatus></m:SendNotificationResult></s:Body></s:Envelope>`, nsSOAP, nsMessages, s.status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *subscriber) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *subscriber) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.posts)
}

// await waits for so many posts.
func (s *subscriber) await(t *testing.T, n int) []string {
	t.Helper()
	end := time.NewTimer(soon)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(s.got()) < n {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("%d posts, want %d", len(s.got()), n)
		}
	}
	return s.got()
}

func (c *ewsClient) subscribePush(to string) (id, watermark string) {
	c.t.Helper()
	answer := c.must(`<m:Subscribe><m:PushSubscriptionRequest><t:FolderIds><t:DistinguishedFolderId Id="inbox"/></t:FolderIds>`+
		`<t:EventTypes><t:EventType>NewMailEvent</t:EventType></t:EventTypes><t:StatusFrequency>1</t:StatusFrequency><t:URL>`+to+`</t:URL>`+
		`</m:PushSubscriptionRequest></m:Subscribe>`, `ResponseClass="Success"`)
	return between(c.t, answer, "<m:SubscriptionId>", "</m:SubscriptionId>"), between(c.t, answer, "<m:Watermark>", "</m:Watermark>")
}

var (
	previousForm = regexp.MustCompile(`<t:PreviousWatermark>([^<]+)<`)
	markForm     = regexp.MustCompile(`<t:Watermark>([^<]+)<`)
)

// marks are where a post begins, and where it ends.
func marks(t *testing.T, post string) (previous, last string) {
	t.Helper()
	p, m := previousForm.FindStringSubmatch(post), markForm.FindAllStringSubmatch(post, -1)
	if p == nil || m == nil {
		t.Fatalf("a post without watermarks: %s", post)
	}
	return p[1], m[len(m)-1][1]
}

func TestAPushSubscriptionPostsAStatusAtOnceAndNewMailWithWatermarksThatFollowEachOther(t *testing.T) {
	s := start(t, 1, Options{PushRetry: retries})
	c, to := newClient(t, s, "user0001@"+Domain), newSubscriber(t)
	id, watermark := c.subscribePush(to.URL + "/a?b=c")
	first := to.await(t, 1)[0]
	if !strings.Contains(first, "<t:StatusEvent>") || !strings.Contains(first, "<t:SubscriptionId>"+id+"<") || !strings.Contains(first, `Version="Exchange2016"`) {
		t.Errorf("%s", first)
	}
	var want []string
	for i := range 3 {
		want = append(want, deliver(t, s, c.mailbox, fmt.Sprint("mail ", i)))
		to.await(t, 2+i)
	}
	at := watermark
	for i, post := range to.got() {
		previous, last := marks(t, post)
		if previous != at || last == at {
			t.Errorf("post %d goes from %s to %s, want from %s", i, previous, last, at)
		}
		at = last
		if i > 0 && (!strings.Contains(post, "<t:NewMailEvent>") || !strings.Contains(post, `Id="`+want[i-1]+`"`)) {
			t.Errorf("post %d does not tell of %s:\n%s", i, want[i-1], post)
		}
	}
}

func TestAPostThatIsNotAcceptedIsRepeatedWithLongerAndLongerWaits(t *testing.T) {
	s := start(t, 1, Options{PushRetry: retries})
	c, to := newClient(t, s, "user0001@"+Domain), newSubscriber(t)
	to.code = http.StatusServiceUnavailable
	c.subscribePush(to.URL)
	posts := to.await(t, 4)
	to.set(func() { to.code = http.StatusOK })
	for i, post := range posts[1:] {
		if post != posts[0] {
			t.Errorf("the repeat %d is another:\n%s", i, post)
		}
		if wait := to.at[i+1].Sub(to.at[i]); wait < retries<<i {
			t.Errorf("repeated after %v, want %v at least", wait, retries<<i)
		}
	}
	n := len(to.await(t, 5))
	deliver(t, s, c.mailbox, "later")
	if last := to.await(t, n+1)[n]; !strings.Contains(last, "NewMailEvent") {
		t.Errorf("%s", last)
	}
}

func TestAPushSubscriptionEndsByTheAnswerAndHasNoUnsubscribe(t *testing.T) {
	s := start(t, 1, Options{PushRetry: retries})
	c, to := newClient(t, s, "user0001@"+Domain), newSubscriber(t)
	id, _ := c.subscribePush(to.URL)
	to.await(t, 1)
	c.must(`<m:Unsubscribe><m:SubscriptionId>`+id+`</m:SubscriptionId></m:Unsubscribe>`, "ErrorInvalidPullSubscriptionId")
	to.set(func() { to.status = "Unsubscribe" })
	deliver(t, s, c.mailbox, "one")
	to.await(t, 2)
	end := time.NewTimer(soon)
	defer end.Stop()
	for s.Counts().Subscriptions > 0 {
		select {
		case <-end.C:
			t.Fatal("the subscription goes on")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestAGapAndASilenceLoseWhatWasThereAndShowInTheWatermarks(t *testing.T) {
	for name, f := range map[string]faults.Fault{pushGap: {Count: 1}, pushSilent: {}} {
		t.Run(name, func(t *testing.T) {
			s := start(t, 1, Options{PushRetry: retries})
			c, to := newClient(t, s, "user0001@"+Domain), newSubscriber(t)
			c.subscribePush(to.URL)
			_, at := marks(t, to.await(t, 1)[0])
			set(t, s, name, f)
			id := deliver(t, s, c.mailbox, "lost")
			waitFor(t, "the event is lost", func() bool {
				h := s.hosts[0]
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.boxes[c.mailbox].subs[0].push.count > 1
			})
			s.ClearFault(name)
			deliver(t, s, c.mailbox, "told")
			if previous, _ := marks(t, to.await(t, 2)[1]); previous == at {
				t.Error("no gap shows")
			}
			if posts := strings.Join(to.got(), ""); strings.Contains(posts, id) {
				t.Error("what was lost is told")
			}
		})
	}
}

func TestAPushSubscriptionThatIsWrongIsRefused(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, "user0001@"+Domain)
	for _, test := range []struct{ frequency, url, want string }{
		{"0", "http://bell.example", "ErrorSchemaValidation"}, {"1441", "http://bell.example", "ErrorSchemaValidation"},
		{"1", "ftp://bell.example", "ErrorInvalidPushSubscriptionUrl"}, {"1", "bell", "ErrorInvalidPushSubscriptionUrl"},
		{"1", "http://bell.example/" + strings.Repeat("x", maxPushURL), "ErrorInvalidPushSubscriptionUrl"},
	} {
		c.must(`<m:Subscribe><m:PushSubscriptionRequest><t:FolderIds><t:DistinguishedFolderId Id="inbox"/></t:FolderIds>`+
			`<t:EventTypes><t:EventType>NewMailEvent</t:EventType></t:EventTypes><t:StatusFrequency>`+test.frequency+`</t:StatusFrequency><t:URL>`+test.url+`</t:URL>`+
			`</m:PushSubscriptionRequest></m:Subscribe>`, test.want)
	}
	if err := s.SetFault(streamingRefused, faults.Fault{}); err != nil {
		t.Fatal(err)
	}
	c.must(subscribeNewMail, "ErrorSchemaValidation")
}
