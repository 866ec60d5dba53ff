package config

// The webhooks: who is told of events.

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/internal/webhookconfig"
)

// maxWebhooks bounds the receivers: each has a queue, a worker and metrics of its own.
const maxWebhooks = 16

// Webhook is a receiver of events.
type Webhook struct {
	Name       string
	URL        string
	CA         *x509.CertPool // nil: the system's roots
	Secret     Secret
	NextSecret Secret   // that signs too, while the receiver goes over to it; empty: none
	Events     []string // that are sent to it; empty: all
}

func (o *object) webhook() Webhook {
	o.require("name", "url")
	w := Webhook{
		Name:   o.text("name", "", matching(pattern.Name)),
		URL:    o.text("url", "", webhookURL),
		CA:     o.authorities("ca_file"),
		Events: o.texts("events", webhookEvent),
	}
	var v value
	w.Secret, v = o.word("secret")
	v.webhookSecret(w.Secret)
	w.NextSecret, v = o.optionalWord("next_secret")
	v.webhookSecret(w.NextSecret)
	if w.NextSecret == w.Secret { // at the end of a change, before the next one is taken out
		w.NextSecret = ""
	}
	o.end()
	return w
}

// webhookSecret reports a secret that cannot sign. An empty one is left out, or already reported.
func (v value) webhookSecret(s Secret) {
	if s == "" {
		return
	}
	if _, err := webhookconfig.ParseSecret(string(s)); err != nil {
		v.fail("%v", err)
	}
}

func webhookEvent(s string) (string, error) {
	if all := webhookconfig.Events(); !slices.Contains(all, s) {
		return "", fmt.Errorf("want %s; got %s", strings.Join(all, ", "), quoted(s))
	}
	return s, nil
}

// webhookURL checks the URL of a receiver: https, or http to this machine. Its errors do not show the text.
func webhookURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err == nil && u.Scheme == "http" && onLoopback(s) {
		u.Scheme = "https"
		_, err := httpsURL(u.String())
		return s, err
	}
	if _, err := httpsURL(s); err != nil {
		return "", fmt.Errorf("%w; http:// is for a receiver on this machine only", err)
	}
	return s, nil
}
