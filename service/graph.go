package service

// The accounts of Exchange Online at Microsoft Graph.

import (
	"context"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/mail"
)

// byGraph reports whether an account can use Microsoft Graph: as an app, in a cloud that has it.
func byGraph(x config.Exchange, d credential.Description) bool {
	return x.Type == config.Online && x.Cloud.Graph != "" && (d.Method == credential.ClientSecret || d.Method == credential.Certificate)
}

// graphHosts are the hosts to which tokens for Microsoft Graph may be sent.
func graphHosts(x config.Exchange) auth.Hosts {
	return auth.Hosts{URLs: []string{x.Cloud.Graph}, Online: true}
}

// graphScope is the scope of tokens for Microsoft Graph: all permissions of the app there.
func graphScope(x config.Exchange) string { return x.Cloud.Graph + "/.default" }

// atGraph is what an account has at Graph.
type atGraph struct {
	by     listener.Graph
	finder listener.GraphFinder
}

// content opens what comes encrypted in notifications.
type content struct {
	graph.Keys
	tokens *graph.Tokens
}

// Open decrypts a message, where the validation tokens show that it is Graph's.
func (c *content) Open(ctx context.Context, e *graph.Encrypted, tokens []string) (mail.Message, error) {
	if err := c.tokens.Check(ctx, tokens); err != nil {
		return mail.Message{}, err
	}
	return c.Keys.Open(e)
}

// addGraph gives an account its client of Graph. Its tokens are others than those for EWS; tried is told whether a changed credential works.
func (l *links) addGraph(a *account, to *listener.Account, e *entryParts, tried func(error)) error {
	d := *a.described.Load()
	signIn, err := newCredential(e.Exchange, d, e.outbound, graphScope(e.Exchange))
	if err != nil {
		return err
	}
	a.graph = auth.NewRotating(signIn, tried)
	authorised := a.graph.RoundTripper(graphHosts(e.Exchange), e.outbound, e.inFlight)
	l.closeLater(authorised)
	base := e.Cloud.Graph
	by := listener.Graph{Client: graph.New(graph.Options{HTTP: authorised, Base: base, UserAgent: e.agent, Pace: e.graphPace, Preview: e.preview})}
	to.Graph, to.Changes = by, by
	if e.Graph.Rich {
		plain := forTokens(e.Exchange, e.outbound).Transport()
		l.closeLater(plain)
		to.Content = &content{tokens: graph.NewTokens(graph.TokenOptions{HTTP: plain, Authority: e.Cloud.Authority, Tenant: d.Tenant, ClientID: d.ClientID})}
	}
	finder := listener.GraphFinder{Client: by.Client, Entry: e.Name, Base: base}
	to.GraphFinder, a.atGraph = finder, &atGraph{by, finder}
	return nil
}
