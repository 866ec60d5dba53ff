package config

// Checks of texts: addresses, hosts, URLs, names.

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/internal/pattern"
)

// address checks host:port.
func address(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("not an address: want host:port, as in 127.0.0.1:8080, got %s", quoted(s))
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("not a port: want 0 to 65535, got %s", quoted(port))
	}
	if host != "" && net.ParseIP(host) == nil {
		if _, err := hostName(host); err != nil {
			return "", err
		}
	}
	return s, nil
}

// loopback reports whether an address can be reached from this machine only.
func loopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// hostName checks the name or IP address of a host and returns the form in which hosts are compared.
func hostName(s string) (string, error) {
	host, ok := hostname.Parse(s)
	if !ok {
		return "", fmt.Errorf("not a host name: want one as in mail.contoso.com, without scheme or port, got %s", quoted(s))
	}
	return host, nil
}

// domain checks a mail domain and returns the form in which domains are compared.
func domain(s string) (string, error) {
	name, ok := hostname.ParseDomain(s)
	if !ok {
		return "", fmt.Errorf("not a mail domain: want one as in contoso.com, got %s", quoted(s))
	}
	return name, nil
}

// httpsURL checks a URL to which credentials are sent. Its errors do not show the text, which could have a secret in it.
func httpsURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("not a URL: want https://host/path")
	case u.User != nil:
		return "", fmt.Errorf("a URL must not have a user name or password in it")
	case u.Scheme != "https":
		return "", fmt.Errorf("want a URL that begins with https://")
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("want a URL without ? and #")
	}
	if hostname.Of(u) == "" {
		return "", fmt.Errorf("want a URL with a host name: https://host/path")
	}
	if port := u.Port(); port != "" && !hostname.IsPort(port) {
		return "", fmt.Errorf("a port of a URL is 1 to 65535")
	}
	return s, nil
}

// httpsHost checks the address of a host without a path.
func httpsHost(s string) (string, error) {
	s, err := httpsURL(s)
	if err != nil {
		return "", err
	}
	if u, err := url.Parse(s); err != nil || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("want a URL without a path: https://host")
	}
	return strings.TrimRight(s, "/"), nil
}

// matching checks a text against a pattern.
func matching(p pattern.Pattern) func(string) (string, error) {
	return func(s string) (string, error) {
		if !p.Matches(s) {
			return "", fmt.Errorf("want %s, got %s", p.Words, quoted(s))
		}
		return s, nil
	}
}
