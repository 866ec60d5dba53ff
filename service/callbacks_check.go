package service

// How a check tries the callbacks: those of a mailbox, by Exchange, and public_url itself, from here.

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/listener/callbacks"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// trialFrequency is the StatusFrequency of a push subscription that is only tried: one that is not reached ends as soon.
	trialFrequency = time.Minute
	// maxReached bounds the answer of public_url that is read.
	maxReached = 4 << 10
)

// callbackTrials are what accounts need to try a callback.
type callbackTrials struct {
	receiver  *callbacks.Receiver
	publicURL string
	not       string // why no callback can be waited for here; empty: one can
	graph     graphTrials
}

// pusher tries push notifications with an account.
type pusher struct {
	listener.EWS
	*callbackTrials
}

// SubscribePush makes a push subscription that ends with its first callback.
func (p pusher) SubscribePush(ctx context.Context, at mail.Location) (check.Called, error) {
	secret, came, forget := p.receiver.Expect()
	to := ews.Push{URL: p.publicURL + callbacks.Path, Secret: secret, Frequency: trialFrequency}
	if _, err := p.EWS.SubscribePush(ctx, at, callbacks.Affinity{Anchor: at.Primary}, to); err != nil {
		forget()
		return nil, err
	}
	return func(ctx context.Context, within time.Duration) error {
		defer forget()
		late := time.NewTimer(within)
		defer late.Stop()
		select {
		case <-came:
			return nil
		case <-late.C:
			return callbacks.Unreached(p.publicURL)
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

// handler answers what is waited for, and nothing else.
func (p *callbackTrials) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, changes.Path) {
			p.graph.ServeHTTP(w, r)
			return
		}
		p.receiver.Trials().ServeHTTP(w, r)
	})
}

// byPush says whether an entry of a configuration listens by push.
func byPush(c *config.Config) bool {
	return slices.ContainsFunc(c.Exchange, func(x config.Exchange) bool { return x.ListenBy == config.ByPush })
}

// tryCallbacks has the callbacks served for a check, where no mailbell that runs has their address. It returns what to check of them; nil:
// nobody listens by push, and nobody by Microsoft Graph. end ends serving them.
func (s *Service) tryCallbacks(ctx context.Context, c *config.Config, running *check.Running, to *callbackTrials) (out *check.Callbacks, end func()) {
	end = func() {}
	to.graph = newGraphTrials(c.PublicURL)
	if !byPush(c) && !listensByGraph(c) {
		return nil, end
	}
	out = &check.Callbacks{URL: c.PublicURL + callbacks.Path}
	if !byPush(c) {
		out.URL = c.PublicURL + changes.Path
	}
	address, secure := c.Listen, s.certificate.config()
	if c.Callbacks.Listen != "" {
		address, secure = c.Callbacks.Listen, s.callbacks.certificate.config()
	}
	switch socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address); {
	case running != nil:
		if err == nil {
			socket.Close()
		}
		to.not = "The callbacks come to the mailbell that runs at " + running.At + ": mailbell why ADDRESS says whether those of a mailbox do."
		if running.Standby != "" {
			to.not = "The callbacks come to the instance that holds the state: mailbell why ADDRESS says there whether those of a mailbox do."
		}
		to.graph.not = cmp.Or(to.graph.not, to.not)
		out.Reach = func(ctx context.Context) error { return s.reach(ctx, out.URL, rand.Text(), nil) }
	case err != nil:
		to.not = "No callback can be waited for: " + address + " cannot be listened on."
		to.graph.not = cmp.Or(to.graph.not, to.not)
		out.Not = to.not
	default:
		serving, stop := context.WithCancel(ctx)
		served := make(chan error, 1)
		go func() { served <- api.Serve(serving, socket, to.handler(), secure, zap.NewNop()) }()
		end = func() {
			stop()
			<-served //nolint:errcheck // what it could not answer is said by what was waited for
		}
		out.At = address
		if !byPush(c) {
			out.Reach = to.graph.reach
			break
		}
		out.Reach = func(ctx context.Context) error {
			secret, came, forget := to.receiver.Expect()
			defer forget()
			return s.reach(ctx, out.URL, secret, came)
		}
	}
	return out, end
}

// reach posts to public_url from here, past the proxy, as the Exchange servers do. came is closed if it gets here; nil: any mailbell may
// answer.
func (s *Service) reach(ctx context.Context, url, secret string, came <-chan struct{}) error {
	status, answer, err := post(ctx, url+secret)
	if err != nil {
		return err
	}
	wrong := &fault.Error{Op: opReach, Code: check.CodeElsewhere, Scope: fault.Server, Remedy: fault.Fix, Text: fmt.Sprintf("something else than mailbell answers there, with HTTP %d", status)}
	if status != http.StatusOK || answer != ews.ResultUnsubscribe {
		return wrong
	}
	if came == nil {
		return nil
	}
	select {
	case <-came:
		return nil
	default:
		wrong.Err = errors.New("another mailbell")
		return wrong
	}
}

// opReach is the call of public_url, as errors tell it.
const opReach = "call public_url"

// post posts nothing to public_url, past the proxy.
func post(ctx context.Context, url string) (status int, answer string, err error) {
	t := proxy.Settings{}.Transport()
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, "", proxy.Explain(opReach, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReached))
	if err != nil {
		return 0, "", proxy.Explain(opReach, err)
	}
	return resp.StatusCode, string(text), nil
}
