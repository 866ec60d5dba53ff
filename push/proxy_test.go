package push

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/subscriptions"
)

// via has alerts sent through the proxy at a URL, whose password is given.
func via(t *testing.T, url, password string) (*proxy.Current, func(*Options)) {
	t.Helper()
	static := new(proxy.Current)
	set(t, static, url, password)
	return static, func(o *Options) { o.Topics[0].Outbound.Proxy = static }
}

func set(t *testing.T, static *proxy.Current, url, password string) {
	t.Helper()
	v, err := proxy.ParseVia(url, proxytest.Username, password, nil)
	if err != nil {
		t.Fatal(err)
	}
	static.Set(v)
}

func TestABurstGoesThroughAProxy(t *testing.T) {
	for name, start := range map[string]func(*testing.T) string{
		"squid":  func(t *testing.T) string { return "http://" + proxytest.Squid(t) },
		"SOCKS5": func(t *testing.T) string { return "socks5://" + proxytest.StartSOCKS(t).Address },
	} {
		t.Run(name, func(t *testing.T) {
			_, through := via(t, start(t), proxytest.Password)
			b := overSockets(t, func(arrived) act { return act{delay: 10 * time.Millisecond} }, through)
			for _, n := range []int{200, 300} { // cold, and warm
				if diff := cmp.Diff(map[string]int{"accepted": n}, count(b.burst(t.Context(), n))); diff != "" {
					t.Error(diff)
				}
			}
			if _, _, connections, refused := b.apns.seen(); connections != 1 || refused != 0 {
				t.Errorf("%d connections and %d refused streams, want 1 and 0", connections, refused)
			}
		})
	}
}

// refusal waits for the first line about a connection that was not had, and returns its error.
func (b *bench) refusal(t *testing.T) error {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		for _, line := range b.logs.FilterMessage("APNs cannot be reached").All() {
			for _, f := range line.Context {
				if err, ok := f.Interface.(error); ok && f.Key == zap.Error(err).Key && f.Type == zapcore.ErrorType {
					return err
				}
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatal("nothing is logged")
		}
	}
}

func TestAProxyThatRefusesIsNamedAndTheAlertsGoOutOnceItIsMended(t *testing.T) {
	squid, socks, nobody := proxytest.Squid(t), proxytest.StartSOCKS(t), tcptest.Quiet(t)
	const wrong = "wrong-password"
	for name, c := range map[string]struct {
		url, address, password string
		remedy                 fault.Remedy
		want                   string
	}{
		"squid":   {"http://", squid, wrong, fault.Fix, "does not accept the user name and password before it connects to"},
		"SOCKS5":  {"socks5://", socks.Address, wrong, fault.Fix, "does not accept the user name and password"},
		"no such": {"http://", nobody, proxytest.Password, fault.Wait, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			static, through := via(t, c.url+c.address, c.password)
			b := overSockets(t, nil, through)
			answer := make(chan subscriptions.Answer, 1)
			go func() { answer <- b.Push(t.Context(), alert(0, 0)) }()
			err := b.refusal(t)
			if e := fault.Of(err); e.Code != proxy.CodeProxy || e.Scope != fault.Server || e.Remedy != c.remedy ||
				!strings.Contains(e.Error(), "the proxy "+c.address+" "+c.want) {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), c.password) {
				t.Errorf("the password is in %q", err)
			}
			set(t, static, "http://"+squid, proxytest.Password) // without a restart
			if a := <-answer; a.Result != subscriptions.Accepted {
				t.Errorf("got %+v, want it accepted through the right proxy", a)
			}
		})
	}
}
