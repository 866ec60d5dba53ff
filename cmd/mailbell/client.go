package main

// A client of the service that runs with a configuration, for the commands that ask it.

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
)

const (
	// askTimeout bounds a request to the service; a test notification has a minute.
	askTimeout = time.Minute
	maxAnswer  = 4 << 20 // bytes; a mailbox with its devices and decisions has some ten kilobytes
)

// client makes requests to the service that runs with a configuration, as one of its clients; without a token, as nobody.
type client struct {
	base  string
	token string
	http  *http.Client
}

// errNoClient says that no client of the configuration may make the request.
var errNoClient = errors.New("no client in api.clients has a token, and a role that may do this")

// newClient returns a client with one of these roles. It uses the address on which the service listens.
func newClient(c *config.Config, roles ...string) (*client, error) {
	i := slices.IndexFunc(c.API.Clients, func(p config.Client) bool { return p.Token != "" && slices.Contains(roles, p.Role) })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", errNoClient, alternatives(roles))
	}
	at, err := reached(c.Listen)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{MaxIdleConnsPerHost: portalClients}
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
		pair, err := tls.X509KeyPair(c.TLS.CertPEM, []byte(c.TLS.KeyPEM))
		if err != nil {
			return nil, err
		}
		// The certificate has to be the one of the configuration, whatever name and authority it has.
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // compared below, byte by byte
			VerifyConnection: func(s tls.ConnectionState) error {
				if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(pair.Leaf) {
					return errors.New("the certificate is not the one of the configuration")
				}
				return nil
			}}
	}
	return &client{base: scheme + "://" + at, token: string(c.API.Clients[i].Token), http: &http.Client{Transport: t, Timeout: askTimeout}}, nil
}

// reached is the host and port at which who listens on an address is reached: loopback, if that is every address.
func reached(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// asking returns a client of the service that runs with a configuration file.
func asking(file string, roles ...string) (*client, error) {
	c, err := config.Load(file)
	if err != nil {
		return nil, configError{err}
	}
	ask, err := newClient(c, roles...)
	if err != nil {
		return nil, configError{fmt.Errorf("%s: %w", file, err)}
	}
	return ask, nil
}

// alternatives are words with "or" before the last one.
func alternatives(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// call makes a request and decodes the JSON into answer. An error of the API is an *api.Problem.
func (c *client) call(ctx context.Context, method, path string, body, answer any) error {
	data, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the server at %s is not mailbell: %w", c.base, err)
	}
	return nil
}

// gauges are figures that the service tells of itself, by name; one with a label state has that behind its name.
type gauges map[string]float64

// metrics asks for the service's metrics.
func (c *client) metrics(ctx context.Context) (gauges, error) {
	data, err := c.request(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the server at %s is not mailbell: %w", c.base, err)
	}
	all := gauges{}
	for name, f := range families {
		for _, m := range f.Metric {
			full := name
			if i := slices.IndexFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == "state" }); i >= 0 {
				full += " " + m.Label[i].GetValue()
			}
			all[full] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all, nil
}

// listening is how many mailboxes are listened to.
func (c *client) listening(ctx context.Context) (int, error) {
	all, err := c.metrics(ctx)
	return int(all["mailbell_mailboxes listening"]), err
}

// request makes a request and returns the answer.
func (c *client) request(ctx context.Context, method, path string, body any) ([]byte, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	resp, err := c.send(ctx, c.http, method, path, "application/json", r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

// stream makes a request of lines and returns the answer while both go on, however long that takes. The caller closes it.
func (c *client) stream(ctx context.Context, method, path string, lines io.Reader) (io.ReadCloser, error) {
	long := *c.http
	long.Timeout = 0
	resp, err := c.send(ctx, &long, method, path, "application/x-ndjson", lines)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// send makes a request. Its answer is a good one.
func (c *client) send(ctx context.Context, by *http.Client, method, path, kind string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body) //nolint:gosec // the configuration says where the service is
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := by.Do(req) //nolint:gosec // as above
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("the service at %s does not answer: is it running, and with this configuration? (%w)", c.base, err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	p := &api.Problem{Status: resp.StatusCode, Title: resp.Status}
	_ = json.Unmarshal(data, p) // the page of a proxy is not JSON; the status is enough then
	p.Status = resp.StatusCode
	return nil, p
}
