package service

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/proxy"
)

// A provider in the cloud is reached as everything else is: through the proxy of the configuration.
func TestASignInProviderIsAskedThroughTheProxy(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Service{log: zap.NewNop(), calendar: expiry.New(zap.NewNop()), proxy: &proxy.Current{}}
	through, err := proxy.ParseVia("http://"+l.Addr().String(), "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.proxy.Set(through)
	by := s.signInBy(config.Admin{URL: "https://mailbell.contoso.com", OIDC: &config.OIDC{Issuer: "https://login.contoso.com/x", ClientID: "a", ClientSecret: "b",
		Groups: map[string]string{"g": "admin"}}})
	ctx, end := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { by.Provider.Run(ctx) })
	defer running.Wait()
	defer end()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || strings.TrimSpace(line) != "CONNECT login.contoso.com:443 HTTP/1.1" {
		t.Errorf("%q %v", line, err)
	}
}

func TestASignInIsTheSameAsLongAsAllOfItIs(t *testing.T) {
	one := func() config.Admin {
		return config.Admin{URL: "u", OIDC: &config.OIDC{Issuer: "i", ClientID: "c", ClientSecret: "s", GroupsClaim: "g", Groups: map[string]string{"a": "read"}, Addresses: map[string]string{"b": "test"}}}
	}
	if !sameSignIn(one(), one()) || !sameSignIn(config.Admin{}, config.Admin{URL: "v"}) || sameSignIn(one(), config.Admin{URL: "u"}) || sameSignIn(config.Admin{URL: "u"}, one()) {
		t.Error("the same is another, or the other way round")
	}
	for what, change := range map[string]func(a *config.Admin){
		"url": func(a *config.Admin) { a.URL = "v" }, "issuer": func(a *config.Admin) { a.OIDC.Issuer = "x" }, "client": func(a *config.Admin) { a.OIDC.ClientID = "x" },
		"secret": func(a *config.Admin) { a.OIDC.ClientSecret = "x" }, "claim": func(a *config.Admin) { a.OIDC.GroupsClaim = "x" },
		"a group": func(a *config.Admin) { a.OIDC.Groups["a"] = "admin" }, "an address": func(a *config.Admin) { a.OIDC.Addresses["c"] = "read" },
	} {
		changed := one()
		change(&changed)
		if sameSignIn(one(), changed) {
			t.Errorf("%s: a change is not seen", what)
		}
	}
}
