package check

import (
	"bufio"
	stdcmp "cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/subscriptions"
)

// exchange asks an Exchange with what a test gives it, and returns what comes back.
func exchange(t *testing.T, out proxy.Settings, url string) error {
	t.Helper()
	signed := auth.Basic{Username: "svc-bell", Password: "secret"}.RoundTripper(auth.Hosts{URLs: []string{url}}, out, 0)
	defer signed.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	_, err := ews.New(ews.Options{HTTP: signed, UserAgent: "mailbell/test", Timeout: 20 * time.Second}).GetFolder(t.Context(), ews.Target{URL: url, Mailbox: ann})
	return err
}

// shown is a server that shows a certificate for the given names, valid until then, and the authority that issued it.
func shown(t *testing.T, name string, until time.Time) (url string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: until.AddDate(-1, 0, 0), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots = x509.NewCertPool()
	roots.AddCert(leaf)
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/EWS/Exchange.asmx", roots
}

// through is the way through a proxy that answers CONNECT with a status.
func through(t *testing.T, address string) proxy.Settings {
	t.Helper()
	via, err := proxy.ParseVia(address, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	current := new(proxy.Current)
	current.Set(via)
	return proxy.Settings{Proxy: current}
}

func refusingProxy(t *testing.T, status int) proxy.Settings {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(s.Close)
	return through(t, s.URL)
}

const ewsPath = "/EWS/Exchange.asmx"

// token asks an Entra ID that refuses with a code.
func token(t *testing.T, code string) error {
	t.Helper()
	s := simulate(t, "")
	s.fault(t, "token_refused", simulator.Fault{Reason: code})
	c, err := auth.NewApp(auth.App{Authority: s.sim.Authority, Tenant: s.sim.TenantID, ClientID: s.sim.ClientID, Scope: "https://outlook.office365.com/.default",
		Secret: auth.Secret(s.sim.ClientSecret), Outbound: s.out})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Prepare(t.Context())
}

// apns asks an APNs that answers with a reason.
func apns(t *testing.T, f simulator.Fault) error {
	t.Helper()
	s := simulate(t, "")
	s.fault(t, "apns_answer", f)
	return s.sender.Probe(t.Context(), s.sim.Topic, "production")
}

// refusingRedis answers each command with an error, as a Redis does that wants a password.
func refusingRedis(t *testing.T, said string) string {
	t.Helper()
	l := tcptest.Listen(t)
	tcptest.Serve(t, l, func(c net.Conn) {
		commands := bufio.NewScanner(c)
		for commands.Scan() {
			if strings.HasPrefix(commands.Text(), "*") { // each begins with the number of its words
				io.WriteString(c, "-"+said+"\r\n")
			}
		}
	})
	return l.Addr().String()
}

func redis(ctx context.Context, o subscriptions.RedisOptions) error {
	s, _, err := subscriptions.OpenRedis(ctx, o)
	if err == nil {
		s.Close()
	}
	return err
}

// TestEachBreakageIsNamedAndHasItsRemedy breaks what can be broken, for each as it shows.
func TestEachBreakageIsNamedAndHasItsRemedy(t *testing.T) {
	online := Circumstances{Step: StepSignIn, Online: true, Method: credential.ClientSecret}
	signIn := Circumstances{Step: StepSignIn, Method: credential.Basic}
	for _, c := range []struct {
		name string
		at   Circumstances
		err  func(t *testing.T) error
		want string
		do   string // a word of the remedy
	}{
		{"an expired client secret", online, func(t *testing.T) error { return token(t, "AADSTS7000222") }, "the client secret has expired", "Create a new client secret"},
		{"a wrong client secret", online, func(t *testing.T) error { return token(t, "AADSTS7000215") }, "the client secret is wrong", "not its id"},
		{"a wrong tenant", online, func(t *testing.T) error { return token(t, "AADSTS90002") }, "the tenant is unknown", "tenant_id"},
		{"an unknown app", online, func(t *testing.T) error { return token(t, "AADSTS700016") }, "the app is unknown in this tenant", "client_id"},
		{"a certificate that is not registered", online, func(t *testing.T) error { return token(t, "AADSTS700027") }, "the certificate is not registered for the app", "Upload"},
		{"EWS blocked at Exchange Online", online, func(t *testing.T) error {
			s := simulate(t, "")
			s.fault(t, "ews_blocked", simulator.Fault{})
			_, err := s.client.GetFolder(t.Context(), ews.Target{URL: s.sim.EWSURL, Mailbox: ann})
			return err
		}, "Exchange Online blocks EWS for this app", "EwsAllowedAppIDs"},
		{"a listener account at Exchange Online", Circumstances{Step: StepImpersonation, Online: true, Method: credential.ListenerAccount}, func(t *testing.T) error {
			s := simulate(t, "")
			s.fault(t, "impersonation_refused", simulator.Fault{})
			_, err := s.client.GetFolder(t.Context(), ews.Target{URL: s.sim.EWSURL, Mailbox: ann})
			return err
		}, "a listener account cannot impersonate at Exchange Online", "client_secret or certificate"},
		{"a proxy that wants a password", signIn, func(t *testing.T) error {
			return exchange(t, refusingProxy(t, 407), "https://ex.contoso.example"+ewsPath)
		},
			"the proxy wants a user name and password, or does not accept them", "proxy.username"},
		{"a proxy that wants one with tinyproxy's 401", signIn, func(t *testing.T) error {
			return exchange(t, refusingProxy(t, 401), "https://ex.contoso.example"+ewsPath)
		},
			"the proxy wants a user name and password, or does not accept them", "proxy.username"},
		{"a proxy that refuses", signIn, func(t *testing.T) error {
			return exchange(t, refusingProxy(t, 403), "https://ex.contoso.example"+ewsPath)
		},
			"the proxy does not let mailbell through", "CONNECT"},
		{"a proxy that does not get through", signIn, func(t *testing.T) error {
			return exchange(t, refusingProxy(t, 503), "https://ex.contoso.example"+ewsPath)
		},
			"the proxy cannot connect to the server", "log of the proxy"},
		{"a proxy that is not there", signIn, func(t *testing.T) error {
			return exchange(t, through(t, "http://"+tcptest.Quiet(t)), "https://ex.contoso.example"+ewsPath)
		},
			"the proxy cannot be reached", "proxy.url"},
		{"a certificate for another name", signIn, func(t *testing.T) error {
			url, roots := shown(t, "mail.contoso.example", time.Now().AddDate(0, 6, 0))
			return exchange(t, proxy.Settings{Roots: roots}, url)
		}, "the server's certificate is for other names", "ews_url"},
		{"a certificate that has expired", signIn, func(t *testing.T) error {
			url, roots := shown(t, "localhost", time.Now().AddDate(0, -1, 0))
			return exchange(t, proxy.Settings{Roots: roots}, url)
		}, "the server's certificate, or one of its chain, has expired", "Renew"},
		{"a certificate of an unknown issuer", signIn, func(t *testing.T) error {
			url, _ := shown(t, "localhost", time.Now().AddDate(0, 6, 0))
			return exchange(t, proxy.Settings{Roots: x509.NewCertPool()}, url)
		}, "the server's certificate is of an unknown issuer", "ca_file"},
		{"a certificate of public_url that this machine does not trust", Circumstances{Step: stepCallbacks}, func(t *testing.T) error {
			url, _ := shown(t, "localhost", time.Now().AddDate(0, 6, 0))
			return exchange(t, proxy.Settings{Roots: x509.NewCertPool()}, url)
		}, "public_url is not reached from here", "no ca_file"},
		{"a name that DNS has not", signIn, func(t *testing.T) error { return exchange(t, proxy.Settings{}, "https://ex.invalid"+ewsPath) }, "the host name is not in DNS", "nslookup"},
		{"nothing that listens", signIn, func(t *testing.T) error { return exchange(t, proxy.Settings{}, "https://"+tcptest.Quiet(t)+ewsPath) }, "the connection is refused", "firewall"},
		{"a wrong password", signIn, func(t *testing.T) error {
			s := simulate(t, "not the password")
			_, err := s.client.GetFolder(t.Context(), ews.Target{URL: s.sim.EWSURL, Mailbox: ann})
			return err
		}, "the user name or password is wrong", "password_file"},
		{"Extended Protection behind what ends TLS", Circumstances{Step: StepSignIn, Method: credential.NTLM}, func(t *testing.T) error {
			s := simulate(t, "not the password")
			_, err := s.client.GetFolder(t.Context(), ews.Target{URL: s.sim.EWSURL, Mailbox: ann})
			return err
		}, "NTLM is refused: a wrong password, or Extended Protection behind something that ends TLS", "Extended Protection"},
		{"a server without streaming", Circumstances{Step: StepSubscription}, func(*testing.T) error {
			return &fault.Error{Op: "Subscribe", Code: "ErrorInvalidServerVersion", Remedy: fault.Fix}
		},
			"the server has no streaming notifications", "2010 SP1"},
		{"no Autodiscover", Circumstances{Step: StepLocation, Method: credential.Basic}, func(t *testing.T) error {
			s := simulate(t, "")
			s.fault(t, "autodiscover_away", simulator.Fault{})
			_, err := s.finder.Find(t.Context(), ann)
			return err
		}, "there is no Autodiscover", "autodiscover_url"},
		{"a redirect to a host that is not trusted", Circumstances{Step: StepLocation, Method: credential.Basic}, func(t *testing.T) error {
			s := simulate(t, "")
			s.sim.SetRedirect(ann, simulator.Redirect{URL: "https://autodiscover.evil.example/autodiscover/autodiscover.xml"})
			_, err := s.finder.Find(t.Context(), ann)
			return err
		}, "Autodiscover leads to a host that is not trusted", "trusted_hosts"},
		{"Autodiscover behind a proxy that DNS has not", Circumstances{Step: StepLocation, Method: credential.Basic}, func(t *testing.T) error {
			const at = "https://ex.contoso.example/autodiscover/autodiscover.xml"
			plain := through(t, "http://proxy.invalid:3128").Transport()
			defer plain.CloseIdleConnections()
			_, err := autodiscover.New(autodiscover.Options{HTTP: plain, Plain: plain, URL: at, Hosts: auth.Hosts{URLs: []string{at}}}).Find(t.Context(), ann)
			return err
		}, "the proxy cannot be reached", "proxy.url"},
		{"a proxy that is a web server", signIn, func(t *testing.T) error {
			return exchange(t, refusingProxy(t, http.StatusNotImplemented), "https://ex.contoso.example"+ewsPath)
		}, "the proxy is one of another kind, or its own TLS is not trusted", "web server"},
		{"a mailbox that Autodiscover does not know", Circumstances{Step: StepLocation, Method: credential.Basic}, func(t *testing.T) error {
			s := simulate(t, "")
			_, err := s.finder.Find(t.Context(), "nobody@contoso.example")
			return err
		}, "the mailbox is unknown there", "Get-Recipient"},
		{"a wrong APNs key", Circumstances{Step: StepAPNs}, func(t *testing.T) error { return apns(t, simulator.Fault{Reason: "InvalidProviderToken"}) }, "the APNs key is wrong", "key_id"},
		{"a sandbox key at production", Circumstances{Step: StepAPNs}, func(t *testing.T) error {
			return apns(t, simulator.Fault{Status: 403, Reason: "BadEnvironmentKeyInToken"})
		},
			"the APNs key or certificate is for the other environment", "sandbox"},
		{"a clock that is wrong, at APNs", Circumstances{Step: StepAPNs}, func(t *testing.T) error { return apns(t, simulator.Fault{Reason: "ExpiredProviderToken"}) }, "the clock of this machine is wrong", "NTP"},
		{"something else in APNs' place", Circumstances{Step: StepAPNs}, func(t *testing.T) error {
			return &fault.Error{Op: "APNs", Code: "HTTP 403", Remedy: fault.Fix, Evidence: fault.Evidence{Peer: fault.APNs}}
		},
			"something between mailbell and APNs answers instead of APNs, or refuses", "ends TLS"},
		{"a state file that is locked", Circumstances{Step: StepState}, func(t *testing.T) error {
			file := filepath.Join(t.TempDir(), "mailbell.db")
			first, err := subscriptions.OpenEmbedded(file)
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			_, err = subscriptions.OpenEmbedded(file)
			return err
		}, "a running mailbell holds the state file", "POST /v1/test-notifications"},
		{"an empty state file", Circumstances{Step: StepState}, func(t *testing.T) error {
			file := filepath.Join(t.TempDir(), "mailbell.db")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := subscriptions.ReadEmbedded(file)
			return err
		}, "the state is damaged", "delete the file"},
		{"a state file of a newer version", Circumstances{Step: StepState}, func(*testing.T) error {
			return fmt.Errorf("state file: %w", subscriptions.ErrNewer)
		}, "the state is of a newer mailbell", "restore the copy"},
		{"a full disk", Circumstances{Step: StepState}, func(*testing.T) error {
			return fmt.Errorf("state file: %w", &os.PathError{Op: "write", Err: syscall.ENOSPC})
		}, "the disk of the state is full", "Make room"},
		{"a limit of open files, at APNs", Circumstances{Step: StepAPNs}, func(*testing.T) error {
			return &fault.Error{Op: "connect to APNs", Code: proxy.CodeConnect, Remedy: fault.Wait, Evidence: fault.Evidence{Peer: fault.APNs},
				Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}}
		}, "mailbell may open no more files", "LimitNOFILE"},
		{"a limit of the size of files", Circumstances{Step: StepState}, func(*testing.T) error {
			return fmt.Errorf("state file: %w", &os.PathError{Op: "write", Err: syscall.EFBIG})
		}, "the state file has reached a limit of the operating system", "ulimit"},
		{"a state file without its folder", Circumstances{Step: StepState}, func(t *testing.T) error {
			_, err := subscriptions.OpenEmbedded(filepath.Join(t.TempDir(), "none", "mailbell.db"))
			return err
		}, "the state cannot be opened", "state.path"},
		{"a state file that another user made", Circumstances{Step: StepState}, func(*testing.T) error {
			return fmt.Errorf("state file: %w", &os.PathError{Op: "open", Err: syscall.EACCES})
		}, "the state cannot be opened", "state.path"},
		{"a name to listen on that nobody knows", Circumstances{Step: StepListen}, func(t *testing.T) error {
			_, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "mailbell.invalid:0")
			return err
		}, "the name to listen on leads nowhere", "hosts file"},
		{"a wrong password for Redis", Circumstances{Step: StepState}, func(t *testing.T) error {
			address := refusingRedis(t, "WRONGPASS invalid username-password pair or user is disabled.")
			return redis(t.Context(), subscriptions.RedisOptions{Address: address, Login: func() (string, string) { return "", "wrong" }, Prefix: "mailbell"})
		}, "Redis does not accept the password", "password_file"},
		{"no password for Redis", Circumstances{Step: StepState}, func(t *testing.T) error {
			return redis(t.Context(), subscriptions.RedisOptions{Address: refusingRedis(t, "NOAUTH Authentication required."), Prefix: "mailbell"})
		}, "Redis does not accept the password", "password_file"},
		{"a Redis that is not there", Circumstances{Step: StepState}, func(t *testing.T) error {
			return redis(t.Context(), subscriptions.RedisOptions{Address: tcptest.Quiet(t), Prefix: "mailbell"})
		}, "Redis cannot be reached", "state.redis"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.err(t)
			if err == nil {
				t.Fatal("nothing broke")
			}
			if b := Advise(err, c.at); b.Name != c.want || !strings.Contains(b.Do, c.do) {
				t.Errorf("%v\nis named %q, want %q; the remedy is %q, want %q in it", err, b.Name, c.want, b.Do, c.do)
			}
		})
	}
}

// TestOneStatusHasAsManyMeaningsAsThereIsEvidenceFor asks servers that answer with the same status for another reason each.
func TestOneStatusHasAsManyMeaningsAsThereIsEvidenceFor(t *testing.T) {
	basic := []string{"Negotiate", "NTLM", `Basic realm="mail.contoso.example"`}
	for name, c := range map[string]struct {
		status int
		header http.Header
		page   string
		want   string
	}{
		"401: the password is wrong":       {401, http.Header{"Www-Authenticate": basic}, "", "the user name or password is wrong"},
		"401: Basic is off":                {401, http.Header{"Www-Authenticate": {"Negotiate, NTLM"}}, "", "the server does not offer Basic"},
		"401: a gate that names no way in": {401, nil, "", "a server answers 401 and offers no way to sign in"},
		"403: a client certificate":        {403, http.Header{"Server": {"Microsoft-IIS/10.0"}}, "<h2>HTTP Error 403.7 - Forbidden</h2>", "the server wants a client certificate"},
		"403: a policy":                    {403, http.Header{"X-Feserver": {"EX01"}}, "", "EWS is blocked for the account or the mailbox"},
		"403: a WAF":                       {403, http.Header{"Server": {"nginx"}}, "<h1>Request blocked</h1>", "something before Exchange refuses"},
		"400: nginx wants a certificate":   {400, http.Header{"Server": {"nginx"}}, "<center>No required SSL certificate was sent</center>", "the server wants a client certificate"},
		"302: a sign-in page":              {302, http.Header{"Location": {"/owa/auth/logon.aspx?url=secret"}}, "", "a page for people to sign in at answers instead of EWS"},
		"302: somewhere else":              {302, http.Header{"Location": {"/new"}}, "", "there is no EWS at this URL"},
		"200: a page":                      {200, http.Header{"Content-Type": {"text/html"}}, "<html>", "a page for people to sign in at answers instead of EWS"},
	} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), c.header)
			w.WriteHeader(c.status)
			io.WriteString(w, c.page)
		}))
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		err := exchange(t, proxy.Settings{Roots: roots}, s.URL+ewsPath)
		s.Close()
		b := Advise(err, Circumstances{Step: StepSignIn, Method: credential.Basic})
		if b.Name != c.want {
			t.Errorf("%s: %v\nis named %q, want %q", name, err, b.Name, c.want)
		}
		if c.status == 302 && (!strings.Contains(err.Error(), strings.Split(c.header.Get("Location"), "?")[0]) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: it does not show the path, or more: %v", name, err)
		}
	}
}

func TestTheSameCodeOfAnotherPeerHasAnotherAdvice(t *testing.T) {
	for _, c := range []struct {
		code   string
		peer   fault.Peer
		detail fault.Detail
		want   string
	}{
		{"HTTP 403", fault.TokenService, fault.None, "something on the way to the token service refuses"},
		{"HTTP 403", fault.APNs, fault.None, "something between mailbell and APNs answers instead of APNs, or refuses"},
		{"HTTP 401", fault.Autodiscover, fault.None, "Autodiscover does not accept the user name or password"},
		{proxy.CodeCertificate, fault.APNs, fault.UnknownIssuer, "TLS is inspected on the way to Apple"},
		{proxy.CodeCertificate, fault.TokenService, fault.UnknownIssuer, "TLS is inspected on the way to the token service"},
		{proxy.CodeCertificate, fault.Exchange, fault.UnknownIssuer, "the server's certificate is of an unknown issuer"},
		{proxy.CodeCertificate, fault.Exchange, fault.NoRoots, "this machine has no CA certificates"},
		{proxy.CodeCertificate, fault.Autodiscover, fault.OtherName, "the certificate at the Autodiscover host is somebody else's"},
		{proxy.CodeCertificate, fault.Exchange, fault.OtherName, "the server's certificate is for other names"},
		{proxy.CodeConnect, fault.APNs, fault.None, "APNs cannot be reached"},
		{proxy.CodeConnect, fault.Exchange, fault.None, "the connection is refused"},
		{proxy.CodeTLS, fault.Exchange, fault.ClientUnknown, "the server wants a client certificate"},
		{proxy.CodeProxy, fault.Proxy, fault.ProxyScheme, "the proxy wants another sign-in than Basic"},
		{"TooManyProviderTokenUpdates", fault.APNs, fault.None, "the APNs key signs too many tokens"},
	} {
		err := &fault.Error{Op: "x", Code: c.code, Scope: fault.Server, Remedy: fault.Fix, Evidence: fault.Evidence{Peer: c.peer, Detail: c.detail}}
		if b := Advise(err, Circumstances{Method: credential.Basic}); b.Name != c.want {
			t.Errorf("%s of %s: %q, want %q", c.code, c.peer, b.Name, c.want)
		}
	}
	hoster := doOf(t, "the certificate at the Autodiscover host is somebody else's")
	if strings.Contains(hoster, "Use a name that is in the certificate") {
		t.Errorf("it sends a password to a hoster: %s", hoster)
	}
}

func TestWhateverElseHappensHasAnAdvice(t *testing.T) {
	for _, err := range []error{errors.New("anything"), &fault.Error{Code: "ErrorNeverHeardOf", Remedy: fault.Wait}, &fault.Error{Code: "ErrorNeverHeardOf", Remedy: fault.Fix}, context.Canceled} {
		if b := Advise(err, Circumstances{}); b.Name == "" || b.Do == "" {
			t.Errorf("%v: %+v", err, b)
		}
	}
	all := Breakages()
	last := all[len(all)-1]
	if last.Specific() || last.when.remedy != 0 {
		t.Errorf("the last line of the table does not fit everything: %+v", last)
	}
}

func TestWhatAnotherServerAnswersIsNotTakenForTheWordOfAPNs(t *testing.T) {
	for _, of := range Breakages() {
		if !slices.Contains(of.when.peers, fault.APNs) {
			continue
		}
		for _, code := range of.when.codes {
			for _, peer := range []fault.Peer{fault.Graph, fault.Exchange, fault.TokenService} {
				f := &fault.Error{Code: code, Scope: fault.Mailbox, Remedy: fault.Retry, Evidence: fault.Evidence{Peer: peer}}
				if b := Advise(f, Circumstances{}); strings.Contains(b.Name+b.See, "APNs") || strings.Contains(b.Do, "Apple") {
					t.Errorf("%s of %s: %s", code, peer, b.Name)
				}
			}
		}
	}
	for _, status := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable} {
		f := &fault.Error{Code: "InternalServerError", Remedy: fault.Retry, Evidence: fault.Evidence{Peer: fault.Graph, Status: status}}
		if b := Advise(f, Circumstances{}); b.Name != "Microsoft Graph has a fault" {
			t.Errorf("%d of Microsoft Graph: %s", status, b.Name)
		}
	}
}

// passing are codes of Exchange that are waited out: there is nothing for a person to mend as long as they end.
var passing = []string{
	"ErrorInvalidSubscription", "ErrorNoRespondingCASInDestinationSite", "ErrorProxiedSubscriptionCallFailure", "ErrorCrossSiteRequest",
	"HTTP 500", "HTTP 502", "HTTP 504", "HTTP", ews.CodeHangs, ews.CodeUnparseableAnswer, ews.CodeFault,
}

func TestEachCodeOfExchangeThatDoesNotPassByItselfHasAnAdviceOfItsOwn(t *testing.T) {
	for _, row := range ews.Rows() {
		if row.Remedy == fault.Retry || row.Scope == fault.Message || row.Code == "" || slices.Contains(passing, row.Code) {
			continue
		}
		err := &fault.Error{Op: "x", Code: row.Code, Text: row.Meaning, Scope: row.Scope, Remedy: row.Remedy}
		if !Advise(err, Circumstances{}).Specific() {
			t.Errorf("%s (%s) has the advice of whatever else", row.Code, row.Meaning)
		}
	}
	for _, code := range []string{autodiscover.CodeHost, autodiscover.CodeLoop, autodiscover.CodeNoURL, autodiscover.CodeNowhere, autodiscover.CodeElsewhere, auth.CodeUntrusted, auth.CodeNoBasic} {
		if b := Advise(&fault.Error{Code: code, Remedy: fault.Fix}, Circumstances{Step: StepLocation}); strings.HasPrefix(b.Name, "something") {
			t.Errorf("%s has the advice of whatever else", code)
		}
	}
}

func TestEachCodeOfGraphThatNeedsAPersonHasAnAdviceOfItsOwn(t *testing.T) {
	for _, row := range graph.Rows() {
		code := stdcmp.Or(row.As, row.Code)
		if code == "" && row.Status != 0 {
			code = fmt.Sprintf("HTTP %d", row.Status)
		}
		if row.Remedy != fault.Fix || row.Scope == fault.Message || code == "" {
			continue
		}
		err := &fault.Error{Op: "x", Code: code, Text: row.Meaning, Scope: row.Scope, Remedy: row.Remedy, Evidence: fault.Evidence{Peer: fault.Graph}}
		if b := Advise(err, Circumstances{Online: true, Method: credential.ClientSecret}); strings.HasPrefix(b.Name, "something") && !strings.HasPrefix(b.Name, "something else than") ||
			strings.Contains(b.Do, "EWS") {
			t.Errorf("%s (%s) has the advice of %q", code, row.Meaning, b.Name)
		}
	}
}

// A device is behind, or refused, for a reason that says no peer; nobody can look into the log of APNs.
func TestEachReasonOfADeviceHasAnAdviceOfItsOwn(t *testing.T) {
	ofMessages := []outcome.Reason{
		outcome.Summary, outcome.Unreadable, outcome.Known, outcome.BeforeEnrolment, outcome.Late, outcome.Future, outcome.Clock, outcome.Gone,
	}
	for _, row := range outcome.Reasons() {
		if slices.Contains(ofMessages, row.Reason) {
			continue
		}
		if b := Advise(&fault.Error{Code: string(row.Reason), Remedy: fault.Retry}, Circumstances{}); !b.Specific() {
			t.Errorf("%s has the advice of whatever else", row.Reason)
		}
	}
}

// The page that explains the checks has the table as it is; -update writes it anew.
func TestThePageHasEachBreakage(t *testing.T) {
	file := filepath.Join("..", "docs", "check.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const head = "| what is wrong | how it shows | what to do |\n| --- | --- | --- |\n"
	before, _, ok := strings.Cut(string(page), head)
	if !ok {
		t.Fatal("docs/check.md has no table")
	}
	table, seen := head, map[string]bool{}
	for _, b := range Breakages() {
		if seen[b.Name] {
			t.Errorf("%q is there twice", b.Name)
		}
		seen[b.Name] = true
		table += "| " + b.Name + " | " + b.See + " | " + b.Do + " |\n"
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+table), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(before+table, string(page)); diff != "" {
		t.Errorf("docs/check.md has not the table as it is (-want +got):\n%s", diff)
	}
	for _, s := range Steps() {
		if !strings.Contains(string(page), "`"+s+"`") {
			t.Errorf("docs/check.md lacks the step %s", s)
		}
	}
}
