package config

// How Exchange reaches mailbell: public_url, and the address at which callbacks are served.

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/mailbell/mailbell/internal/hostname"
)

// Callbacks is the address that serves the callbacks and nothing else.
type Callbacks struct {
	Listen string // host:port; empty: callbacks are served where the API is
	TLS    *TLS   // nil: plain HTTP
}

func (o *object) callbacks() (c Callbacks) {
	t, overTLS := o.optional("tls")
	c = Callbacks{Listen: o.text("listen", "", address), TLS: t.tls()}
	if overTLS && c.Listen == "" && !o.has("listen") {
		o.get("tls").fail("goes with callbacks.listen, which is empty: callbacks are served on listen, with its tls")
	}
	o.end()
	return c
}

// publicURL checks where Exchange reaches mailbell.
func publicURL(s string) (string, error) { return baseURL(s, "/callbacks/…") }

// baseURL checks a URL to which mailbell appends a path: scheme and host. Its errors do not show the text.
func baseURL(s, appended string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("not a URL: want https://host")
	case u.User != nil:
		return "", fmt.Errorf("a URL must not have a user name or password in it")
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("want a URL that begins with https:// or http://")
	case hostname.Of(u) == "":
		return "", fmt.Errorf("want a URL with a host name: https://host")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Trim(u.Path, "/") != "" || strings.Contains(s, "#"):
		return "", fmt.Errorf("want a URL without a path, ? and #: mailbell appends %s", appended)
	}
	if port := u.Port(); port != "" && !hostname.IsPort(port) {
		return "", fmt.Errorf("a port of a URL is 1 to 65535")
	}
	return strings.TrimRight(s, "/"), nil
}

// reachable reports a public_url that is missing, or that an Exchange cannot reach. by has the value of listen_by of each exchange entry.
func (c *Config) reachable(public, listen value, by []value) {
	if public.node == nil && c.Callbacks.Listen != "" {
		listen.fail("needs public_url: the URL at which Exchange reaches it")
	}
	if strings.HasPrefix(c.PublicURL, "http://") && !onLoopback(c.PublicURL) {
		public.warn("callbacks cross the network in clear text, with the secrets of their URLs: https:// is better where the mailbox servers " +
			"trust the certificate")
	}
	for i, x := range c.Exchange {
		switch {
		case x.ListenBy == ByGraph:
			c.reachableByGraph(public, x)
		case x.ListenBy != ByPush:
		case public.node == nil:
			by[i].fail("push needs public_url: the URL at which Exchange reaches mailbell")
		case c.PublicURL == "": // wrong, which is reported
		case x.Type == Online && !strings.HasPrefix(c.PublicURL, "https://"):
			public.fail("must begin with https:// for the exchange entry %s: Exchange Online calls back over the internet", x.Name)
		case onLoopback(c.PublicURL) && !onLoopback(x.EWSURL) && !onLoopback(x.AutodiscoverURL):
			public.fail("leads to this machine only, where the Exchange of the entry %s is not: want a name that its mailbox servers reach", x.Name)
		}
	}
}

// reachableByGraph reports a public_url to which Microsoft Graph does not post. Without one its mailboxes are polled.
func (c *Config) reachableByGraph(public value, x Exchange) {
	switch {
	case public.node == nil && x.Graph.Rich:
		public.fail("is required with graph.rich of the exchange entry %s: without it Microsoft Graph posts nothing", x.Name)
	case c.PublicURL == "": // none, or wrong, which is reported
	case !strings.HasPrefix(c.PublicURL, "https://"):
		public.fail("must begin with https:// for the exchange entry %s: Microsoft Graph calls back over the internet", x.Name)
	case onLoopback(c.PublicURL) && !onLoopback(x.Cloud.Graph):
		public.fail("leads to this machine only, where the Microsoft Graph of the entry %s is not: want a name that the internet reaches", x.Name)
	case x.Cloud == clouds["china"]:
		public.warn("Microsoft does not document notifications of mail for the cloud of the exchange entry %s: where Microsoft Graph refuses "+
			"them, its mailboxes are polled", x.Name)
	}
}

// onLoopback reports whether a URL leads to the machine itself.
func onLoopback(s string) bool {
	u, err := url.Parse(s)
	if err != nil || s == "" {
		return false
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host).IsLoopback() || net.ParseIP(host).IsUnspecified()
}
