package graph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/proxy"
)

func TestEveryCallAsksForImmutableIDsAndSaysWhoAsks(t *testing.T) {
	calls := map[string]func(c *Client) error{
		"look":          func(c *Client) error { _, err := c.Look(t.Context(), mara); return err },
		"list":          func(c *Client) error { _, err := c.Messages(t.Context(), mara, time.Time{}, 1); return err },
		"more":          func(c *Client) error { _, err := c.More(t.Context(), mara, base+"/v1.0/x?$skip=1"); return err },
		"read":          func(c *Client) error { _, _, err := c.Read(t.Context(), mara, []string{"1"}); return err },
		"batch":         func(c *Client) error { _, _, err := c.Read(t.Context(), mara, []string{"1", "2"}); return err },
		"subscribe":     func(c *Client) error { _, err := c.Subscribe(t.Context(), mara, Subscription{}); return err },
		"renew":         func(c *Client) error { _, err := c.Renew(t.Context(), "1", time.Now()); return err },
		"delete":        func(c *Client) error { return c.Delete(t.Context(), "1") },
		"subscriptions": func(c *Client) error { _, err := c.Subscriptions(t.Context()); return err },
	}
	for name, call := range calls {
		n := 0
		ids := map[string]bool{}
		c := client(func(r *http.Request, body string) *http.Response {
			n++
			id := r.Header.Get("Client-Request-Id")
			if r.Header.Get("Prefer") != `IdType="ImmutableId"` || r.Header.Get("User-Agent") != "mailbell/test" || len(id) != 36 || ids[id] {
				t.Errorf("%s: %v", name, r.Header)
			}
			if strings.Count(body, `IdType=\"ImmutableId\"`) != strings.Count(body, `"GET"`) {
				t.Errorf("%s: %s", name, body)
			}
			if !strings.HasPrefix(r.URL.String(), base+"/v1.0/") {
				t.Errorf("%s: %s", name, r.URL)
			}
			ids[id] = true
			return reply(r, http.StatusOK, `{"id":"1"}`)
		})
		if err := call(c); err != nil || n != 1 {
			t.Errorf("%s: %d requests, %v", name, n, err)
		}
	}
}

func TestAnAddressAndAnIDStayWithinTheirPartOfThePath(t *testing.T) {
	c := client(func(r *http.Request, _ string) *http.Response {
		if r.URL.EscapedPath() != "/v1.0/users/o%27brien%2F%3F%23+x@contoso.com/messages/a%2Fb=%3F" && r.URL.EscapedPath() != "/v1.0/users/o'brien%2F%3F%23+x@contoso.com/messages/a%2Fb=%3F" {
			t.Error(r.URL.EscapedPath())
		}
		return reply(r, http.StatusOK, `{"id":"a/b=?"}`)
	})
	if _, _, err := c.Read(t.Context(), "o'brien/?#+x@contoso.com", []string{"a/b=?"}); err != nil {
		t.Error(err)
	}
}

func TestTheNextPageIsAskedForOnlyOnTheSameGraph(t *testing.T) {
	asked := 0
	c := client(func(r *http.Request, _ string) *http.Response { asked++; return reply(r, http.StatusOK, `{}`) })
	for _, link := range []string{
		"https://evil.example/v1.0/x", "http://graph.microsoft.com/v1.0/x", "https://graph.microsoft.com:8443/v1.0/x", "https://graph.microsoft.com@evil.example/x",
		"https://graph.microsoft.com.evil.example/x", "//evil.example/x", "/v1.0/x", "https://user@graph.microsoft.com/x", "::", "https://",
	} {
		if _, err := c.More(t.Context(), mara, link); fault.Of(err).Code != CodeAway {
			t.Errorf("%s: %v", link, err)
		}
	}
	if asked != 0 {
		t.Errorf("%d requests", asked)
	}
	for _, link := range []string{"https://graph.microsoft.com/v1.0/x?$skip=10", "https://GRAPH.microsoft.com:443/v1.0/x"} {
		if _, err := c.More(t.Context(), mara, link); err != nil {
			t.Errorf("%s: %v", link, err)
		}
	}
	away := answers(http.StatusOK, `{"value":[],"@odata.nextLink":"https://evil.example/"}`)
	if _, err := away.Subscriptions(t.Context()); fault.Of(err).Code != CodeAway {
		t.Errorf("the list of subscriptions goes on elsewhere: %v", err)
	}
}

func TestAnAnswerTellsTheServersClock(t *testing.T) {
	a, err := answers(http.StatusOK, `{"id":"inbox"}`, "Date", "Sat, 28 Nov 2026 14:00:00 GMT").Look(t.Context(), mara)
	if err != nil || !a.ServerTime.Equal(time.Date(2026, 11, 28, 14, 0, 0, 0, time.UTC)) || a.Began.IsZero() || a.Ended.Before(a.Began) || len(a.RequestID) != 36 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWhatCannotBeReadIsAnErrorOfItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		client *Client
		code   string
	}{
		"no JSON":       {answers(http.StatusOK, `{"value":`), CodeUnparseable},
		"another shape": {answers(http.StatusOK, `{"value":"secret subject"}`), CodeUnparseable},
		"a web page":    {answers(http.StatusOK, `<html>`, "Content-Type", "text/html; charset=utf-8"), CodeForeign},
		"too large":     {answers(http.StatusOK, `{"x":"`+strings.Repeat("x", maxAnswer)+`"}`), CodeUnparseable},
		"a redirect":    {answers(http.StatusFound, ``, "Location", "https://login.contoso.com/?token=secret"), CodeRedirect},
	} {
		_, err := c.client.Messages(t.Context(), mara, time.Time{}, 50)
		if f := fault.Of(err); f.Code != c.code || f.Peer != fault.Graph || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACallEndsInTimeAndWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Base: base, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		began := time.Now()
		_, err := c.Look(t.Context(), mara)
		if f := fault.Of(err); f.Code != proxy.CodeTimeout || f.Peer != fault.Graph || f.After == 0 || time.Since(began) != defaultTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Look(ctx, mara); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestABodyThatBreaksOffIsAnErrorOfTheConnection(t *testing.T) {
	c := client(func(r *http.Request, _ string) *http.Response {
		resp := reply(r, http.StatusOK, "")
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"value":[`), broken{}))
		return resp
	})
	if _, err := c.Messages(t.Context(), mara, time.Time{}, 50); fault.Of(err).Code != proxy.CodeNetwork {
		t.Error(err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestWhatHangsOfOnePurposeLeavesTheOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := ""
		calls := map[string]func(ctx context.Context, c *Client, mailbox string) error{
			"/inbox": func(ctx context.Context, c *Client, mailbox string) error { _, err := c.Look(ctx, mailbox); return err },
			"/messages": func(ctx context.Context, c *Client, mailbox string) error {
				_, err := c.Messages(ctx, mailbox, time.Time{}, 1)
				return err
			},
			"/messages/1": func(ctx context.Context, c *Client, mailbox string) error {
				_, _, err := c.Read(ctx, mailbox, []string{"1"})
				return err
			},
			"/subscriptions": func(ctx context.Context, c *Client, mailbox string) error {
				_, err := c.Subscribe(ctx, mailbox, Subscription{})
				return err
			},
		}
		for path, sick := range calls {
			hang = path
			c := New(Options{Base: base, Pace: pace.New(0, 16), HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, hang) {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				return reply(r, http.StatusOK, `{"id":"1"}`), nil
			})})
			ctx, cancel := context.WithCancel(t.Context())
			var hanging sync.WaitGroup
			for i := range 40 {
				hanging.Go(func() { _ = sick(ctx, c, fmt.Sprint(i)) })
			}
			synctest.Wait()
			for other, well := range calls {
				began := time.Now()
				if other != path {
					if err := well(t.Context(), c, mara); err != nil || time.Since(began) > companyFor {
						t.Errorf("%s waits for what hangs at %s: %v after %v", other, path, err, time.Since(began))
					}
				}
			}
			cancel()
			hanging.Wait()
		}
	})
}
