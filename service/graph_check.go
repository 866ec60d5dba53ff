package service

// How a check tries Microsoft Graph: with the calls of the service, and with a subscription of its own, which Microsoft makes only once it
// has reached public_url.

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/mail"
)

const (
	// trialLife is for how long a subscription is made that is only tried: Graph makes 45 minutes of less. It is removed at once.
	trialLife = time.Hour
	// removeAfter bounds its removal, also where the time of the check is over.
	removeAfter = 5 * time.Second
	// maxEcho bounds what is echoed in a handshake. Graph's token has some 150 characters.
	maxEcho = 2048
)

// listensByGraph says whether an entry of a configuration listens by Microsoft Graph, and whether Microsoft can reach it.
func listensByGraph(c *config.Config) bool {
	return strings.HasPrefix(c.PublicURL, "https://") && slices.ContainsFunc(c.Exchange, func(x config.Exchange) bool { return x.ListenBy == config.ByGraph })
}

// graphTrials are what accounts need to try a subscription at Graph.
type graphTrials struct {
	url string // that Microsoft is to call, with its secret; empty: nobody answers there
	not string // why no subscription can be tried here; empty: one can
}

// newGraphTrials returns trials at a URL of their own.
func newGraphTrials(publicURL string) graphTrials {
	if publicURL == "" {
		return graphTrials{not: "public_url is not set: the mailboxes are polled, and nothing is subscribed to."}
	}
	if !strings.HasPrefix(publicURL, "https://") {
		return graphTrials{not: "public_url is not https, which Microsoft Graph calls only: the mailboxes are polled, and nothing is subscribed to."}
	}
	return graphTrials{url: publicURL + changes.Path + rand.Text()}
}

// ServeHTTP answers the handshake of a trial, and nothing else.
func (t graphTrials) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.URL.Query().Get("validationToken")
	own, err := url.Parse(t.url)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != own.Path || token == "" || len(token) > maxEcho {
		http.Error(w, "there is nothing here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, token) //nolint:gosec // as text, to whoever sent it
}

// reach makes a handshake from here.
func (t graphTrials) reach(ctx context.Context) error {
	token := "mailbell check: " + rand.Text()
	status, answer, err := post(ctx, t.url+"?validationToken="+url.QueryEscape(token))
	if err != nil {
		return err
	}
	if status == http.StatusOK && answer == token {
		return nil
	}
	return &fault.Error{Op: opReach, Code: check.CodeElsewhere, Scope: fault.Server, Remedy: fault.Fix,
		Text: fmt.Sprintf("something else than this mailbell answers there, with HTTP %d", status)}
}

// graphPusher tries a subscription at Graph with an account.
type graphPusher struct {
	by listener.Graph
	graphTrials
}

// SubscribePush makes a subscription, for which Microsoft has called when it is made. Where the mailbox has one already, Microsoft called
// for that.
func (p graphPusher) SubscribePush(ctx context.Context, at mail.Location) (check.Called, error) {
	made, err := p.by.Subscribe(ctx, at, graph.Subscription{
		NotificationURL: p.url, LifecycleURL: p.url, ClientState: rand.Text(), Until: time.Now().Add(trialLife),
	})
	if err != nil && fault.Of(err).Code != graph.CodeExists {
		return nil, err
	}
	return func(ctx context.Context, _ time.Duration) error {
		if made.ID == "" {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeAfter)
		defer cancel()
		return p.by.Delete(ctx, made.ID)
	}, nil
}

// walkedGraph makes the calls of a check with Graph, which are those of the service.
type walkedGraph struct {
	reads
	graph listener.Graph
}

var errNoStream = &fault.Error{Op: "Subscribe", Code: "stream", Scope: fault.Account, Remedy: fault.GiveUp, Text: "Microsoft Graph has no streams"}

// Subscribe is not for Graph: a graphPusher does that.
func (w walkedGraph) Subscribe(context.Context, mail.Location, *check.Affinity) (string, error) {
	return "", errNoStream
}

// Unsubscribe removes a subscription.
func (w walkedGraph) Unsubscribe(ctx context.Context, _ mail.Location, _ check.Affinity, id string) error {
	return w.graph.Delete(ctx, id)
}

// Stream is not for Graph.
func (w walkedGraph) Stream(context.Context, mail.Location, check.Affinity, []string) error {
	return errNoStream
}
