package simulator

// The files of Options.Dir: the CA's certificate, the secrets, and a mailbell.yaml with which the service works against this
// simulator as it is. And the line by which `mailbell simulate` announces itself.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Names of the files.
const (
	caFile       = "ca.pem"
	configFile   = "mailbell.yaml"
	passwordFile = "password"
	pushKeyFile  = "apns.p8"
	enrolFile    = "mdm.token"
	adminFile    = "operator.token"
)

// configuration is the part of mailbell.yaml that is written.
type configuration struct {
	Listen   string          `yaml:"listen"`
	State    stateConfig     `yaml:"state"`
	Exchange []exchangeEntry `yaml:"exchange"`
	APNs     []apnsEntry     `yaml:"apns"`
	Portal   portalConfig    `yaml:"portal"`
}

type stateConfig struct {
	Path string `yaml:"path"`
}

type exchangeEntry struct {
	Name              string            `yaml:"name"`
	Type              string            `yaml:"type"`
	ListenBy          string            `yaml:"listen_by"`
	Domains           []string          `yaml:"domains"`
	AutodiscoverURL   string            `yaml:"autodiscover_url"`
	TrustedHosts      []string          `yaml:"trusted_hosts"`
	CAFile            string            `yaml:"ca_file"`
	RequestsPerSecond int               `yaml:"requests_per_second"`
	PerConnection     int               `yaml:"subscriptions_per_connection,omitempty"`
	ListenerAccounts  []listenerAccount `yaml:"listener_accounts"`
}

type listenerAccount struct {
	Name  string `yaml:"name"`
	Basic struct {
		Username     string `yaml:"username"`
		PasswordFile string `yaml:"password_file"`
	} `yaml:"basic"`
}

type apnsEntry struct {
	Topic       string `yaml:"topic"`
	Environment string `yaml:"environment"`
	URL         string `yaml:"url"`
	CAFile      string `yaml:"ca_file"`
	Token       struct {
		KeyFile string `yaml:"key_file"`
		KeyID   string `yaml:"key_id"`
		TeamID  string `yaml:"team_id"`
	} `yaml:"token"`
}

type portalConfig struct {
	Clients []portalClient `yaml:"clients"`
}

type portalClient struct {
	Name      string `yaml:"name"`
	Role      string `yaml:"role"`
	TokenFile string `yaml:"token_file"`
}

// perAccount is how many mailboxes the service gives an account.
const perAccount = 1250

// manyRequests is what the service may ask this server: it is not there to be spared.
const manyRequests = 10_000

// writeFiles fills dir, and the fields of s that name its files.
func (s *Server) writeFiles(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	listen, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	config := configuration{
		Listen: listen,
		State:  stateConfig{Path: "mailbell.db"},
		Portal: portalConfig{Clients: []portalClient{{"mdm", "enrol", enrolFile}, {"operator", "admin", adminFile}}},
	}
	entry := exchangeEntry{
		Name: "simulator", Type: "exchange", ListenBy: "streaming", Domains: s.domains(), AutodiscoverURL: s.AutodiscoverURL,
		TrustedHosts: []string{"127.0.0.1"}, CAFile: caFile, RequestsPerSecond: manyRequests,
	}
	if s.store.gromox {
		entry.PerConnection = 1
	}
	for n := range max(1, (len(s.Mailboxes())+perAccount-1)/perAccount) {
		account := listenerAccount{Name: fmt.Sprintf("listener-%02d", n+1)} // one here, as many to the service as it wants for them
		account.Basic.Username, account.Basic.PasswordFile = s.Username, passwordFile
		entry.ListenerAccounts = append(entry.ListenerAccounts, account)
	}
	config.Exchange = []exchangeEntry{entry}
	push := apnsEntry{Topic: s.Topic, Environment: "production", URL: s.APNsURL, CAFile: caFile}
	push.Token.KeyFile, push.Token.KeyID, push.Token.TeamID = pushKeyFile, s.KeyID, s.TeamID
	config.APNs = []apnsEntry{push}
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("%s: %w", configFile, err)
	}
	text = append([]byte("# Written by the mailbell simulator at its start; ports and secrets are new each time.\n"), text...)
	var errs []error
	for _, f := range []struct {
		name string
		text []byte
	}{
		{caFile, s.CAPEM},
		{passwordFile, []byte(s.Password + "\n")},
		{pushKeyFile, s.APNsKeyPEM},
		{enrolFile, []byte(rand.Text() + "\n")},
		{adminFile, []byte(rand.Text() + "\n")},
		{configFile, text},
	} {
		errs = append(errs, writeFile(filepath.Join(dir, f.name), f.text))
	}
	s.CAFile = filepath.Join(dir, caFile)
	s.ConfigFile = filepath.Join(dir, configFile)
	s.APITokenFile = filepath.Join(dir, adminFile)
	s.APIURL = "http://" + listen
	return errors.Join(errs...)
}

// writeFile writes for the owner only, also where the file was there with other rights.
func writeFile(name string, text []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, text) {
		return os.Chmod(name, 0o600)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(name, text, 0o600)
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

// freeAddress is one on loopback that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Announcement is the line of JSON by which `mailbell simulate` says where everything is.
type Announcement struct {
	EWSURL          string   `json:"ews_url"`
	AutodiscoverURL string   `json:"autodiscover_url"`
	APNsURL         string   `json:"apns_url"`
	TokenURL        string   `json:"token_url"`
	SMTP            string   `json:"smtp"`
	CAFile          string   `json:"ca_file"`
	Username        string   `json:"username"`
	Password        string   `json:"password"`
	Mailboxes       []string `json:"mailboxes"`
	Config          string   `json:"config"`
	ControlURL      string   `json:"control_url"`
	APIURL          string   `json:"api_url"`
	APITokenFile    string   `json:"api_token_file"`
	Topic           string   `json:"topic"`
}

// Announce says where everything is.
func (s *Server) Announce() Announcement {
	return Announcement{s.EWSURL, s.AutodiscoverURL, s.APNsURL, s.TokenURL, s.SMTPAddr, s.CAFile, s.Username, s.Password,
		s.Mailboxes(), s.ConfigFile, s.ControlURL, s.APIURL, s.APITokenFile, s.Topic}
}
