package simulator

// The files of Options.Dir: the CA's certificate, the secrets, and a mailbell.yaml with which the service works against this
// simulator without a change. Also the line of JSON that `mailbell simulate` prints at its start.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/mailbell/mailbell/simulator/internal/authority"
)

// Names of the files.
const (
	caFile       = "ca.pem"
	configFile   = "mailbell.yaml"
	passwordFile = "password"
	secretFile   = "client-secret"
	pushKeyFile  = "apns.p8"
	callbackFile = "callbacks.pem"
	callbackKey  = "callbacks.key"
	enrolFile    = "mdm.token"
	adminFile    = "operator.token"
)

// configuration is the part of mailbell.yaml that is written.
type configuration struct {
	Listen    string          `yaml:"listen"`
	PublicURL string          `yaml:"public_url,omitempty"`
	Callbacks *callbackConfig `yaml:"callbacks,omitempty"`
	State     stateConfig     `yaml:"state"`
	Exchange  []exchangeEntry `yaml:"exchange"`
	APNs      []apnsEntry     `yaml:"apns"`
	API       apiConfig       `yaml:"api"`
}

// callbackConfig is an address of its own for callbacks, because Graph posts over TLS only.
type callbackConfig struct {
	Listen string    `yaml:"listen"`
	TLS    tlsConfig `yaml:"tls"`
}

type tlsConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

type stateConfig struct {
	Path  string       `yaml:"path,omitempty"`
	Redis *redisConfig `yaml:"redis,omitempty"`
}

type redisConfig struct {
	Addresses []string `yaml:"addresses"`
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

type apiConfig struct {
	Clients []apiClient `yaml:"clients"`
}

type apiClient struct {
	Name      string `yaml:"name"`
	Role      string `yaml:"role"`
	TokenFile string `yaml:"token_file"`
}

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
		API:    apiConfig{Clients: []apiClient{{"mdm", "enrol", enrolFile}, {"operator", "admin", adminFile}}},
	}
	if s.options.Redis != "" {
		config.State = stateConfig{Redis: &redisConfig{[]string{s.options.Redis}}}
	}
	if s.options.ListenBy == ByPush {
		config.PublicURL = "http://" + listen
	}
	if s.options.Graph {
		if s.CallbackAddr, err = freeAddress(ctx); err != nil {
			return err
		}
		config.PublicURL = "https://" + s.CallbackAddr
		config.Callbacks = &callbackConfig{s.CallbackAddr, tlsConfig{callbackFile, callbackKey}}
	}
	config.Exchange = s.exchangeEntries()
	push := apnsEntry{Topic: s.Topic, Environment: "production", URL: s.APNsURL, CAFile: caFile}
	push.Token.KeyFile, push.Token.KeyID, push.Token.TeamID = pushKeyFile, s.KeyID, s.TeamID
	config.APNs = []apnsEntry{push}
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("%s: %w", configFile, err)
	}
	text = append([]byte("# Written by the mailbell simulator at its start; ports and secrets are new each time.\n"), text...)
	type file struct {
		name string
		text []byte
	}
	files := []file{
		{caFile, s.CAPEM},
		{passwordFile, []byte(s.Password + "\n")},
		{pushKeyFile, s.APNsKeyPEM},
		{enrolFile, []byte(rand.Text() + "\n")},
		{adminFile, []byte(rand.Text() + "\n")},
		{configFile, text},
	}
	if s.options.Hybrid {
		files = append(files, file{secretFile, []byte(s.ClientSecret + "\n")})
	}
	if s.options.Graph {
		chain, key, err := authority.Encode(s.callbacks)
		if err != nil {
			return fmt.Errorf("%s: %w", callbackFile, err)
		}
		files = append(files, file{callbackFile, chain}, file{callbackKey, key})
	}
	var errs []error
	for _, f := range files {
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

// freeAddress is one on loopback that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Announcement is the line of JSON with the addresses and secrets that `mailbell simulate` prints.
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
	OnlineURL       string   `json:"online_url,omitempty"` // of a hybrid organisation
	OtherURL        string   `json:"other_url,omitempty"`
	GraphURL        string   `json:"graph_url,omitempty"`
}

// Announce returns the addresses and secrets of the simulator.
func (s *Server) Announce() Announcement {
	return Announcement{s.EWSURL, s.AutodiscoverURL, s.APNsURL, s.TokenURL, s.SMTPAddr, s.CAFile, s.Username, s.Password,
		s.Mailboxes(), s.ConfigFile, s.ControlURL, s.APIURL, s.APITokenFile, s.Topic, s.OnlineURL, s.OtherURL, s.GraphURL}
}
