package service

// The accounts of Exchange Online at Microsoft Graph.

import (
	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/listener"
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

// graphOptions are what the accounts of a configuration have in common at Graph.
type graphOptions struct {
	inFlight int
	pace     *pace.Pace
	agent    string
	preview  bool // messages are read with their preview
	tried    func(error)
}

// atGraph is what an account has at Graph.
type atGraph struct {
	by     listener.Graph
	finder listener.GraphFinder
}

// addGraph gives an account its client of Graph. Its tokens are others than those for EWS.
func (l *links) addGraph(a *account, to *listener.Account, o graphOptions) error {
	signIn, err := newCredential(a.entry, *a.described.Load(), a.outbound, graphScope(a.entry))
	if err != nil {
		return err
	}
	a.graph = auth.NewRotating(signIn, o.tried)
	authorised := a.graph.RoundTripper(graphHosts(a.entry), a.outbound, o.inFlight)
	if c, ok := authorised.(interface{ CloseIdleConnections() }); ok {
		l.idle = append(l.idle, c)
	}
	base := a.entry.Cloud.Graph
	by := listener.Graph{Client: graph.New(graph.Options{HTTP: authorised, Base: base, UserAgent: o.agent, Pace: o.pace, Preview: o.preview})}
	to.Graph, to.Changes = by, by
	finder := listener.GraphFinder{Client: by.Client, Entry: a.entry.Name, Base: base}
	to.GraphFinder, a.atGraph = finder, &atGraph{by, finder}
	return nil
}
