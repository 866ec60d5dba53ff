package simulator

// The exchange entries of the mailbell.yaml: one, or in a hybrid organisation one for each host, all with the same mail domain.

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

type exchangeEntry struct {
	Name              string            `yaml:"name"`
	Type              string            `yaml:"type"`
	ListenBy          string            `yaml:"listen_by"`
	Domains           []string          `yaml:"domains"`
	EWSURL            string            `yaml:"ews_url,omitempty"`
	AutodiscoverURL   string            `yaml:"autodiscover_url,omitempty"`
	Cloud             string            `yaml:"cloud,omitempty"`
	CloudURLs         *cloudURLs        `yaml:"cloud_urls,omitempty"`
	TrustedHosts      []string          `yaml:"trusted_hosts"`
	CAFile            string            `yaml:"ca_file"`
	RequestsPerSecond int               `yaml:"requests_per_second"`
	ListenerAccounts  []listenerAccount `yaml:"listener_accounts"`
}

// cloudURLs say where the simulated cloud is.
type cloudURLs struct {
	EWS          string `yaml:"ews"`
	Autodiscover string `yaml:"autodiscover"`
	Authority    string `yaml:"authority"`
	Graph        string `yaml:"graph"`
}

// listenerAccount has one of the credentials.
type listenerAccount struct {
	Name         string        `yaml:"name"`
	Basic        *passwordOf   `yaml:"basic,omitempty"`
	NTLM         *passwordOf   `yaml:"ntlm,omitempty"`
	ClientSecret *clientSecret `yaml:"client_secret,omitempty"`
}

type passwordOf struct {
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
}

type clientSecret struct {
	TenantID   string `yaml:"tenant_id"`
	ClientID   string `yaml:"client_id"`
	SecretFile string `yaml:"secret_file"`
	Expires    string `yaml:"expires"`
}

// perAccount is how many mailboxes the service gives an account.
const perAccount = 1250

// manyRequests is how many requests a second the service may make: the simulator needs no throttling.
const manyRequests = 10_000

// exchangeEntries describes the hosts.
func (s *Server) exchangeEntries() []exchangeEntry {
	password := &passwordOf{s.Username, passwordFile}
	account := listenerAccount{Name: "listener", Basic: password}
	if auth := s.options.Auth; len(auth) > 0 && !slices.Contains(auth, AuthBasic) {
		account = listenerAccount{Name: "listener", NTLM: password}
	}
	here := s.entry("simulator", account)
	here.AutodiscoverURL = s.AutodiscoverURL
	if !s.options.Hybrid {
		return []exchangeEntry{here}
	}
	here.Name = OnPremises
	cloud := s.entry(Online, listenerAccount{Name: Online, ClientSecret: &clientSecret{s.TenantID, s.ClientID, secretFile, s.secretEnds.Format(time.DateOnly)}})
	cloud.Type, cloud.Cloud = "online", "custom"
	cloud.CloudURLs = &cloudURLs{s.OnlineURL, s.OnlineAutodiscoverURL, s.Authority, s.GraphURL}
	cloud.Domains = append(cloud.Domains, RoutingDomain)
	if s.options.Graph {
		cloud.ListenBy = ByGraph
	}
	other := s.entry(Other, listenerAccount{Name: Other, Basic: &passwordOf{s.OtherUsername, passwordFile}})
	other.EWSURL = s.OtherURL
	return []exchangeEntry{here, cloud, other}
}

// entry describes a host, with as many listener accounts as the service needs for all mailboxes. All have the same credential.
func (s *Server) entry(name string, account listenerAccount) exchangeEntry {
	e := exchangeEntry{Name: name, Type: "exchange", ListenBy: cmp.Or(s.options.ListenBy, ByStreaming), Domains: s.domains(), CAFile: caFile, RequestsPerSecond: manyRequests}
	if u, err := url.Parse(s.EWSURL); err == nil {
		e.TrustedHosts = []string{u.Hostname()} // all hosts are on loopback
	}
	for n := range max(1, (len(s.Mailboxes())+perAccount-1)/perAccount) {
		a := account
		a.Name = fmt.Sprintf("%s-%02d", account.Name, n+1)
		e.ListenerAccounts = append(e.ListenerAccounts, a)
	}
	return e
}

// domains of the mailboxes, at least Domain.
func (s *Server) domains() []string {
	list := []string{Domain}
	for _, address := range s.Mailboxes() {
		_, domain, _ := strings.Cut(address, "@")
		list = append(list, domain)
	}
	slices.Sort(list)
	return slices.Compact(list)
}
