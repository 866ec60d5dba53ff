package ews

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// oldServer answers as an Exchange does that knows versions up to some: a SOAP fault with status 500 to any newer.
type oldServer struct {
	knows  []string
	sick   bool // anything else than a refusal of the version fails
	mu     sync.Mutex
	asked  []string // the version of each request
	bodies []string
	heads  []http.Header
}

func (o *oldServer) RoundTrip(r *http.Request) (*http.Response, error) {
	b, _ := io.ReadAll(r.Body)
	_, version, _ := strings.Cut(string(b), `Version="`)
	version, _, _ = strings.Cut(version, `"`)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked, o.bodies, o.heads = append(o.asked, version), append(o.bodies, string(b)), append(o.heads, r.Header)
	status, body := http.StatusOK, response("Unsubscribe", success("Unsubscribe", ""))
	known := strings.Contains(strings.Join(o.knows, " "), version)
	switch {
	case !known:
		status, body = http.StatusInternalServerError, soapFaultOf("a:"+codeVersion, "The specified server version is invalid.", "<e:ResponseCode xmlns:e=\"u\">"+codeVersion+"</e:ResponseCode>")
	case o.sick:
		status, body = http.StatusServiceUnavailable, ""
	case bytes.Contains(b, []byte("<m:Subscribe>")):
		body = response("Subscribe", success("Subscribe", "<m:SubscriptionId>s1</m:SubscriptionId>"))
	case bytes.Contains(b, []byte("<m:GetItem>")):
		body = response("GetItem", success("GetItem", `<m:Items><t:Message><t:ItemId Id="a"/></t:Message></m:Items>`))
	case bytes.Contains(b, []byte("<m:GetStreamingEvents>")):
		body = response("GetStreamingEvents", success("GetStreamingEvents", "<m:ConnectionStatus>Closed</m:ConnectionStatus>"))
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/xml"}}, Request: r, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func TestA2010IsAskedInItsOwnVersionAndThatIsRememberedForItsEntry(t *testing.T) {
	for name, call := range map[string]func(c *Client) error{
		"a call":  func(c *Client) error { return c.Unsubscribe(t.Context(), target, "s") },
		"a batch": func(c *Client) error { _, _, err := c.GetItem(t.Context(), target, []string{"a"}); return err },
		"a stream": func(c *Client) error {
			s, err := c.GetStreamingEvents(t.Context(), target, []string{"s"}, time.Minute)
			if err == nil {
				err = s.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, d := &oldServer{knows: []string{version2010}}, &Dialect{}
			first, second := New(Options{HTTP: server, Dialect: d}), New(Options{HTTP: server, Dialect: d})
			if d.Version() != version2013 {
				t.Errorf("it begins with %s", d.Version())
			}
			for _, c := range []*Client{first, first, second} {
				if err := call(c); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := strings.Join(server.asked, " "), version2013+" "+version2010+" "+version2010+" "+version2010; got != want || d.Version() != version2010 {
				t.Errorf("asked for %s, and now %s", got, d.Version())
			}
		})
	}
}

func TestA2010IsAskedForNothingThatItDoesNotKnow(t *testing.T) {
	server := &oldServer{knows: []string{version2010}}
	c := New(Options{HTTP: server})
	if _, _, err := c.GetItem(t.Context(), target, []string{"a"}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(server.bodies[1], "item:Preview") {
		t.Error("the second try asks for a preview")
	}
	group := target
	group.Affinity, group.Cookie = true, "EX01~1"
	if _, _, err := c.Subscribe(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	if h := server.heads[2]; h.Get("X-PreferServerAffinity") != "" || h.Get("Cookie") != "" {
		t.Errorf("affinity by override cookie: %v", h)
	}
}

func TestAServerOlderThan2010SP1IsNamedAsOneWithoutStreaming(t *testing.T) {
	server, d := &oldServer{}, &Dialect{}
	c := New(Options{HTTP: server, Dialect: d})
	err := c.Unsubscribe(t.Context(), target, "s")
	if f := fault.Of(err); f.Code != codeVersion || f.Scope != fault.Server || f.Remedy != fault.Fix || !strings.Contains(f.Text, "older than Exchange 2010 SP1") || !strings.Contains(f.Text, "streaming") {
		t.Errorf("%v", err)
	}
	if d.Version() != version2013 {
		t.Error("a version that was refused is remembered")
	}
	server.knows = []string{version2013} // it was replaced
	if err := c.Unsubscribe(t.Context(), target, "s"); err != nil {
		t.Error(err)
	}
}

func TestAFailureOnTheWayDecidesNothingAboutTheVersion(t *testing.T) {
	server, d := &oldServer{knows: []string{version2010}, sick: true}, &Dialect{}
	c := New(Options{HTTP: server, Dialect: d})
	if err := c.Unsubscribe(t.Context(), target, "s"); fault.Of(err).Code != "HTTP 503" {
		t.Errorf("%v", err)
	}
	if d.Version() != version2013 {
		t.Error("decided by a load balancer's 503")
	}
}

func TestA2010HasTenCallsInFlightAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Dialect{}
		d.older(nil)
		var mu sync.Mutex
		now, most := 0, 0
		c := New(Options{Dialect: d, HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return nil, errors.New("done")
		})})
		var calls sync.WaitGroup
		for range 40 {
			calls.Go(func() { _ = c.Unsubscribe(t.Context(), target, "s") })
		}
		calls.Wait()
		if most != inFlight2010 {
			t.Errorf("%d at once", most)
		}
	})
}
