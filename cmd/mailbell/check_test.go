package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/simulator"
)

// checkTime is how long a check may take: seconds, and room for a machine that runs everything at once, with the race detector.
const checkTime = 20 * time.Second

// Mailboxes of the simulator. Of three hosts the second has the second mailbox.
const (
	first  = "user0001@" + simulator.Domain
	second = "user0002@" + simulator.Domain
	nobody = "nobody@" + simulator.Domain
)

// breakage is something that is wrong with an installation.
type breakage struct {
	name    string
	options simulator.Options
	prepare func(inst *installation)
	args    []string
	code    int
	line    string // the state of a check, and how its name begins
	says    string // in what came back
	advice  string // in what is to be done
}

func breakages() []breakage {
	one, hybrid := simulator.Options{Mailboxes: 1}, simulator.Options{Mailboxes: 3, Hybrid: true}
	ntlm := simulator.Options{Mailboxes: 1, Auth: []string{simulator.AuthNTLM}, ExtendedProtection: true}
	old := simulator.Options{Mailboxes: 1, Personality: simulator.Exchange2007}
	const account, online, app, apns = "failed exchange simulator: account listener-01: ", "failed exchange online: account online-01: ", "failed exchange online: account online-01: token", "failed apns com.contoso.mail production"
	const place, tlsTo, token, nameAndPassword = "failed mailbox " + first + ": location", "failed exchange simulator: TLS ", "AADSTS7000222", "proxy.username and proxy.password_file"
	return []breakage{
		// Signing in on premises.
		{"a wrong password", one, wrote("password", "not-the-password"), to(first), 1, account + "sign_in", "HTTP 401", "password_file"},
		{"a wrong password, and the URL of EWS is configured", one, all(atEWS, wrote("password", "not-the-password")), nil, 1, account + "sign_in", "HTTP 401", "password_file"},
		{"a wrong password by NTLM", ntlm, all(atEWS, wrote("password", "not-the-password")), nil, 1, account + "sign_in", "HTTP 401", "Sign in by hand"},
		{"NTLM with Extended Protection behind what ends TLS", ntlm, endTLS, nil, 1, account + "sign_in", "HTTP 401", "Extended Protection"},
		{"Basic behind what ends TLS, which works", one, endTLS, to(first), 0, "ok exchange simulator: account listener-01: read", "", ""},
		{"NTLM is not offered", one, edited("    basic:\n", "    ntlm:\n"), to(first), 1, account + "sign_in", "NTLM not offered", "-WindowsAuthentication $true"},
		{"EWS is blocked", one, all(atEWS, fault("ews_blocked", simulator.Fault{})), nil, 1, account + "sign_in", "HTTP 403", "Get-CASMailbox"},
		{"there is no EWS at the URL", one, ewsAt("/nowhere"), nil, 1, account + "sign_in", "HTTP 404", "/EWS/Exchange.asmx"},

		// Entra ID, and Exchange Online.
		{"the client secret has expired", hybrid, expiredSecret, nil, 1, app, token, "Create a new client secret"},
		{"the client secret is wrong", hybrid, wrote("client-secret", "not-the-secret"), nil, 1, app, "AADSTS7000215", "not its id"},
		{"the wrong tenant", hybrid, func(inst *installation) { inst.edit(inst.sim.TenantID, "11111111-2222-3333-4444-555555555555") }, nil, 1, app, "AADSTS90002", "tenant_id"},
		{"an unknown app", hybrid, func(inst *installation) { inst.edit(inst.sim.ClientID, "11111111-2222-3333-4444-555555555555") }, nil, 1, app, "AADSTS700016", "client_id"},
		{"a certificate that is not registered", hybrid, unregisteredCertificate, nil, 1, app, "AADSTS700027", "Upload the certificate"},
		{"this machine's clock is too far off for a token", hybrid, fault("token_refused", simulator.Fault{Reason: "AADSTS700024"}), nil, 1, app, "AADSTS700024", "NTP"},
		{"a second factor is asked for", hybrid, all(listenerAccount, fault("token_refused", simulator.Fault{Reason: "AADSTS50076"})), nil, 1, app, "AADSTS50076", "second factor"},
		{"a listener account at Exchange Online, before it is used", hybrid, listenerAccount, nil, 0, "warning exchange online: account online-01", "since February 2025 it cannot impersonate", "client_secret or certificate"},
		{"a listener account at Exchange Online", hybrid, listenerAccount, to(second), 1, online + "impersonation", "ErrorImpersonateUserDenied", "As above: exchange online: account online-01"},
		{"the token service is away", hybrid, fault("token_away", simulator.Fault{Status: http.StatusBadGateway}), nil, 1, app, "HTTP 502", "login.microsoftonline.com"},
		{"Exchange Online blocks the app", hybrid, fault("ews_blocked", simulator.Fault{Host: simulator.Online}), to(second), 1, online + "sign_in", "HTTP 403", "EwsAllowedAppIDs"},
		{"the client secret expires soon", hybrid, expiring(5), nil, 0, "warning expiry client_secret online-01", "expires on", "renewed"},
		{"a client secret that nobody gives", hybrid, expiring(1000), nil, 0, "warning configuration", "24 months", "key"},

		// The proxy.
		{"squid is told a wrong password", one, all(wrote("proxy-password", "not-the-password"), through("http://", proxytest.Squid)), nil, 1, tlsTo, "407", nameAndPassword},
		{"tinyproxy is told a wrong password", one, all(wrote("proxy-password", "not-the-password"), through("http://", proxytest.Tinyproxy)), nil, 1, tlsTo, "401", nameAndPassword},
		{"squid does not let through", one, all(ewsAt("https://"+proxytest.Forbidden+"/EWS/Exchange.asmx"), throughSquid), nil, 1, tlsTo, "403", "proxy.bypass"},
		{"a SOCKS5 server does not let through", one, through("socks5://", refusingSOCKS), nil, 1, tlsTo, "ruleset", "proxy.bypass"},
		{"the proxy is away", one, through("http://", tcptest.Quiet), nil, 1, "failed proxy", "cannot be reached", "proxy.url"},
		{"the proxy does not reach the server", one, all(ewsAt("https://127.0.0.1:1/EWS/Exchange.asmx"), throughSquid), nil, 1, tlsTo, "503", "The log of the proxy says why"},

		// Names, connections and certificates.
		{"a host that is not in DNS", one, ewsAt("https://ews.contoso.invalid/EWS/Exchange.asmx"), nil, 1, "failed exchange simulator: DNS ews.contoso.invalid", "name", "nslookup"},
		{"a host that refuses the connection", one, func(inst *installation) { ewsAt("https://" + tcptest.Quiet(inst.t) + "/EWS/Exchange.asmx")(inst) }, nil, 1, tlsTo, "refused", "No server listens"},
		{"a certificate for other names", one, shows(trusted, func(_, leaf *x509.Certificate) {
			leaf.IPAddresses, leaf.DNSNames = nil, []string{"mail.contoso.example"}
		}), nil, 1, tlsTo, "mail.contoso.example", "give the server a certificate with this name"},
		{"an expired certificate", one, shows(trusted, func(_, leaf *x509.Certificate) { leaf.NotAfter = time.Now().Add(-24 * time.Hour) }), nil, 1, tlsTo, "expired on", "Renew the certificate"},
		{"an expired chain", one, shows(trusted, func(chain, _ *x509.Certificate) { chain.NotAfter = time.Now().Add(-24 * time.Hour) }), nil, 1, tlsTo, "expired on", "Renew the certificate"},
		{"an unknown issuer", one, shows(!trusted, func(_, _ *x509.Certificate) {}), nil, 1, tlsTo, "Contoso intermediate CA", "ca_file"},
		{"what speaks no TLS", one, func(inst *installation) {
			ewsAt(strings.Replace(inst.sim.ControlURL, "http:", "https:", 1) + "/EWS/Exchange.asmx")(inst)
		}, nil, 1, tlsTo, "plain text", "Does the port have TLS at all?"},
		{"a clock that is an hour off", one, fault("clock_skew", simulator.Fault{Seconds: 3600}), nil, 0, "warning clock", "ahead of this machine's", "NTP"},

		// Autodiscover.
		{"no Autodiscover", one, fault("autodiscover_away", simulator.Fault{}), nil, 1, "failed exchange simulator: Autodiscover", "nowhere", "autodiscover_url"},
		{"Autodiscover leads to a host that is not trusted", one, leadAstray, to(first), 1, place, "evil.example", "trusted_hosts"},
		{"a mailbox that nobody has", one, nil, to(nobody), 1, "failed mailbox " + nobody + ": location", "InvalidUser", "Get-Recipient"},
		{"a domain that no entry has", one, nil, to("ann@fabrikam.example"), 1, "failed mailbox ann@fabrikam.example: location", "not_covered", "domains of an exchange entry"},
		{"a server that is not listened to", one, edited("  domains:\n", "  mailbox_servers: [EX99]\n  domains:\n"), to(first), 1, place, "out_of_scope", "mailbox_servers"},

		// What Exchange says.
		{"no right to impersonate", one, fault("impersonation_refused", simulator.Fault{}), to(first), 1, account + "impersonation", "ErrorImpersonateUserDenied", "ApplicationImpersonation"},
		{"EWSMaxSubscriptions 0", one, fault("subscriptions_none", simulator.Fault{}), to(first), 1, account + "subscription", "ErrorExceededSubscriptionCount", "Get-ThrottlingPolicy"},
		{"a server without streaming", old, nil, to(first), 1, account + "impersonation", "ErrorInvalidServerVersion", "Exchange 2010 SP1"},
		{"a mailbox that is being moved", one, fault("exchange_answer", simulator.Fault{Reason: "ErrorMailboxMoveInProgress"}), to(first), 1, account + "impersonation", "ErrorMailboxMoveInProgress", "Get-MoveRequest"},
		{"a server that throttles", one, fault("server_busy", simulator.Fault{}), to(first), 1, account, "ErrorServerBusy", "requests_per_second"},

		// APNs.
		{"another APNs key", one, anotherPushKey, nil, 1, apns, "InvalidProviderToken", "AuthKey_KEYID.p8"},
		{"a wrong key id", one, edited("key_id: SIM1234567", "key_id: SIM7654321"), nil, 1, apns, "InvalidProviderToken", "key_id"},
		{"a key of the other environment", one, fault("apns_answer", simulator.Fault{Reason: "BadEnvironmentKeyInToken"}), nil, 1, apns, "BadEnvironmentKeyInToken", "sandbox or production"},
		{"APNs refuses the time of the token", one, fault("apns_answer", simulator.Fault{Reason: "ExpiredProviderToken"}), nil, 1, apns, "ExpiredProviderToken", "NTP"},
		{"APNs is away", one, func(inst *installation) { inst.edit(inst.sim.APNsURL, "https://"+tcptest.Quiet(inst.t)) }, nil, 1, apns, "refused", "Let this machine out to api.push.apple.com"},
		{"a sandbox token at production", one, tokenRefused("BadDeviceToken"), ring, 1, "failed device phone: apns", "BadDeviceToken", "Xcode"},
		{"an app that was removed", one, tokenRefused("Unregistered"), ring, 1, "failed device phone: apns", "Unregistered", "Open the app"},
		{"a device that is not enrolled", one, nil, ring, 1, "failed device phone: enrolment", "not_enrolled", "PUT /v1/devices/{id}"},
		{"nothing is sent", one, all(enrolled, added("alerts: {send: false}\n")), ring, 1, "failed device phone: apns", "send_off", "alerts.send"},

		// Webhooks.
		{"a webhook with another secret", one, func(inst *installation) {
			server := httptest.NewServer(&portal{})
			inst.t.Cleanup(server.Close)
			inst.hook(server.URL, "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX")
		}, nil, 1, "failed webhook mdm", "HTTP 400", "secret_file"},
		{"a webhook whose receiver does not run", one, func(inst *installation) { inst.hook("http://"+tcptest.Quiet(inst.t), webhookSecret) }, nil, 1, "failed webhook mdm", "refused", "does the receiver run"},

		// The state.
		{"another mailbell has the state file", one, locked, nil, 1, "failed state", "in use by another process", "Two services need a state file each"},
		{"the folder of the state is not there", one, edited("path: mailbell.db", "path: nowhere/mailbell.db"), nil, misconfigured, "", "state.path", ""},
		{"the state file is none", one, wrote("mailbell.db", strings.Repeat("not a state file\n", 1000)), nil, 1, "failed state", "mailbell.db", "Restore a copy"},
		{"Redis wants a password", one, redisWith(""), nil, 1, "failed state", "NOAUTH", "state.redis.username"},
		{"Redis does not accept the password", one, redisWith("not-the-password"), nil, 1, "failed state", "WRONGPASS", "state.redis.username"},
		{"Redis is away", one, func(inst *installation) {
			inst.edit("path: mailbell.db", "redis: {addresses: ["+tcptest.Quiet(inst.t)+"]}")
		}, nil, 1, "failed state", "refused", "state.redis.addresses"},

		// The addresses to listen on.
		{"another program has the port", one, func(inst *installation) { occupied(inst, strings.TrimPrefix(inst.url, "http://")) }, nil, 1, "failed listen", "in use", "ss -ltnp"},
		{"another program has the port of the callbacks", one, func(inst *installation) { ownCallbacks(inst, occupied(inst, "127.0.0.1:0")) }, nil, 1, "failed callbacks.listen", "in use", "ss -ltnp"},
		{"callbacks that cannot be waited for", one, func(inst *installation) { ownCallbacks(inst, occupied(inst, "127.0.0.1:0")) }, nil, 1, "skipped callbacks", "", ""},
		{"callbacks where the API is", one, func(inst *installation) {
			inst.extend("public_url: https://bell.contoso.example\ncallbacks: {listen: '" + strings.Replace(strings.TrimPrefix(inst.url, "http://"), "127.0.0.1", "0.0.0.0", 1) + "'}\n")
		}, nil, 1, "failed callbacks.listen", "in use", "ss -ltnp"},

		// The configuration and its files.
		{"a secret for everybody to read", one, func(inst *installation) { inst.chmod("password", 0o644) }, nil, 0, "warning file exchange[0].listener_accounts[0].basic.password_file", "everybody", "chmod 600"},
		{"a file that is not there", one, edited("password_file: password", "password_file: nowhere"), nil, misconfigured, "", "password_file", ""},
		{"a key that is none", one, edited("listen_by:", "listen_buy:"), nil, misconfigured, "", "listen_buy", ""},
		{"an address that is none", one, nil, to("ann"), misused, "", "not a mail address", ""},
	}
}

// Each breakage is prepared in an installation that works, and `mailbell check` names it, with its remedy.
func TestCheckNamesEachBreakageWithItsRemedy(t *testing.T) {
	t.Parallel()
	for _, b := range breakages() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			inst := install(t, b.options)
			if b.prepare != nil {
				b.prepare(inst)
			}
			code, results, said := inst.check(b.args...)
			if code != b.code {
				t.Errorf("exit code %d, want %d:\n%s", code, b.code, said)
			}
			if b.code == misused || b.code == misconfigured {
				if len(results) > 0 || !strings.Contains(said, b.says) {
					t.Errorf("want nothing tried, and %q in\n%s", b.says, said)
				}
				return
			}
			i := slices.IndexFunc(results, func(r result) bool { return strings.HasPrefix(r.state+" "+r.name, b.line) })
			if i < 0 {
				t.Fatalf("there is no %q in\n%s", b.line, said)
			}
			if r := results[i]; !strings.Contains(r.cameBack, b.says) || !strings.Contains(r.do, b.advice) {
				t.Errorf("want %q and %q in\n%+v", b.says, b.advice, r)
			}
		})
	}
}

// result is one check as it is printed.
type result struct{ state, took, name, tried, found, cameBack, do, why string }

// check runs `mailbell check`, and looks for what holds of every output: its form, the time that it took, and no secret.
func (inst *installation) check(args ...string) (code int, results []result, said string) {
	inst.t.Helper()
	p := launch(inst.t, append([]string{"check", "--config", inst.config}, args...)...)
	code = p.wait(checkTime)
	out := p.stdout()
	said = out + p.stderr()
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if m := resultForm.FindStringSubmatch(line); m != nil {
			results = append(results, result{state: m[1], took: m[2], name: m[3]})
			continue
		}
		m := detailForm.FindStringSubmatch(line)
		if m == nil || results == nil {
			inst.t.Errorf("%q is neither a check nor what is told of one", line)
			continue
		}
		r := &results[len(results)-1]
		*map[string]*string{"tried": &r.tried, "found": &r.found, "came back": &r.cameBack, "do": &r.do, "why": &r.why}[m[1]] = m[2]
	}
	told := map[string]string{}
	for _, r := range results {
		switch {
		case r.state == "failed" || r.state == "warning":
			if r.tried == "" || r.cameBack == "" || r.do == "" {
				inst.t.Errorf("half a result: %+v", r)
			}
		case r.state == "skipped" && r.why == "":
			inst.t.Errorf("it does not say why: %+v", r)
		}
		if before := told[r.do]; r.do != "" && before != "" && !strings.HasPrefix(r.do, "As above: ") {
			inst.t.Errorf("%s and %s advise the same at length: %s", before, r.name, r.do)
		}
		told[r.do] = r.name
	}
	inst.noSecret(said)
	return code, results, said
}

var (
	resultForm = regexp.MustCompile(`^(ok|warning|failed|skipped) +(<1ms|[0-9.]+m?s)? {2,}(\S.*)$`)
	detailForm = regexp.MustCompile(`^ {17}(tried|found|came back|do|why): +(\S.*)$`)
)

// noSecret fails where a text has anything of a file that only its owner may read, but for the configuration.
func (inst *installation) noSecret(text string) {
	inst.t.Helper()
	files, err := os.ReadDir(inst.dir)
	if err != nil {
		inst.t.Fatal(err)
	}
	for _, f := range files {
		if f.IsDir() || slices.Contains([]string{".yaml", ".db"}, filepath.Ext(f.Name())) || f.Name() == "ca.pem" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(inst.dir, f.Name()))
		if err != nil {
			inst.t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); line != "" && strings.Contains(text, line) {
				inst.t.Errorf("%s is in the output: %s", f.Name(), text)
			}
		}
	}
}

func to(address string) []string { return []string{"--mailbox", address} }

var ring = []string{"--device", "phone"}

// What breaks an installation.

func all(deeds ...func(*installation)) func(*installation) {
	return func(inst *installation) {
		for _, do := range deeds {
			do(inst)
		}
	}
}

func wrote(name, value string) func(*installation) {
	return func(inst *installation) { inst.secret(name, value) }
}
func edited(from, to string) func(*installation) {
	return func(inst *installation) { inst.edit(from, to) }
}
func added(yaml string) func(*installation) { return func(inst *installation) { inst.extend(yaml) } }
func fault(n string, f simulator.Fault) func(*installation) {
	return func(inst *installation) { inst.fault(n, f) }
}

// ewsAt configures a URL of EWS, or a path on the server, in place of Autodiscover.
func ewsAt(ews string) func(*installation) {
	return func(inst *installation) {
		if strings.HasPrefix(ews, "/") {
			ews = strings.TrimSuffix(inst.sim.EWSURL, "/EWS/Exchange.asmx") + ews
		}
		inst.edit("  autodiscover_url: "+inst.sim.AutodiscoverURL+"\n", "  ews_url: "+ews+"\n")
	}
}

func atEWS(inst *installation) { ewsAt("/EWS/Exchange.asmx")(inst) }

// through has everything go through a proxy, with the password of the file proxy-password.
func through(scheme string, start func(testing.TB) string) func(*installation) {
	return func(inst *installation) {
		if _, err := os.Stat(filepath.Join(inst.dir, "proxy-password")); err != nil {
			inst.secret("proxy-password", proxytest.Password)
		}
		inst.extend(fmt.Sprintf("proxy: {url: %q, username: %s, password_file: proxy-password}\n", scheme+start(inst.t), proxytest.Username))
	}
}

func throughSquid(inst *installation) { through("http://", proxytest.Squid)(inst) }

func refusingSOCKS(t testing.TB) string {
	s := proxytest.StartSOCKS(t)
	s.Refuse(proxytest.NotAllowed)
	return s.Address
}

func (inst *installation) chmod(name string, mode os.FileMode) {
	if err := os.Chmod(filepath.Join(inst.dir, name), mode); err != nil {
		inst.t.Fatal(err)
	}
}

// expiredSecret is one that Entra ID knows.
func expiredSecret(inst *installation) {
	inst.control(http.MethodPost, "/entra/secrets", map[string]any{"secret": "the-expired-secret", "expires": time.Now().Add(-time.Hour)})
	inst.secret("client-secret", "the-expired-secret")
}

// expires is the line of the configuration.
var expires = regexp.MustCompile(`(?m)^ +expires: .*\n`)

func expiring(days int) func(*installation) {
	return func(inst *installation) {
		inst.write(expires.ReplaceAllString(inst.configText(), "      expires: "+time.Now().AddDate(0, 0, days).Format(time.DateOnly)+"\n"))
	}
}

func listenerAccount(inst *installation) {
	inst.write(expires.ReplaceAllString(inst.configText(), ""))
	inst.edit("    client_secret:\n", "    listener_account:\n")
	inst.edit("      secret_file: client-secret\n", "      username: svc-bell@contoso.example\n      password_file: password\n")
}

func unregisteredCertificate(inst *installation) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		inst.t.Fatal(err)
	}
	c := template("mailbell")
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		inst.t.Fatal(err)
	}
	inst.secret("app", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))+privateKey(inst.t, key))
	inst.write(expires.ReplaceAllString(inst.configText(), ""))
	inst.edit("    client_secret:\n", "    certificate:\n")
	inst.edit("      secret_file: client-secret\n", "      file: app\n")
}

func anotherPushKey(inst *installation) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		inst.t.Fatal(err)
	}
	inst.secret("apns.p8", privateKey(inst.t, key))
}

func privateKey(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// enrolled enrols the device phone with a service that runs no more.
func enrolled(inst *installation) { tokenRefused("")(inst) }

// tokenRefused enrols it likewise; APNs refuses its token, if a reason is given.
func tokenRefused(reason string) func(*installation) {
	return func(inst *installation) {
		inst.start()
		token := inst.enrol(inst.boxes[0], "phone")
		inst.stop()
		switch reason {
		case "":
		case "Unregistered": // with a time behind the enrolment, or the token is thought to be a new one
			inst.sim.Unregister(token, time.Now().Add(time.Hour))
		default:
			inst.fault("apns_answer", simulator.Fault{Token: token, Reason: reason})
		}
	}
}

// occupied has another program listen on an address.
func occupied(inst *installation, address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		inst.t.Fatal(err)
	}
	inst.t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// ownCallbacks has Exchange call back at an address that serves nothing else.
func ownCallbacks(inst *installation, address string) {
	inst.edit("listen_by: streaming", "listen_by: push")
	inst.extend("public_url: http://" + address + "\ncallbacks: {listen: " + address + "}\n")
}

// locked leaves the state to a service that listens elsewhere.
func locked(inst *installation) {
	inst.start()
	inst.edit("listen: "+strings.TrimPrefix(inst.url, "http://"), "listen: "+tcptest.Quiet(inst.t))
}

// redisWith has the state in a Redis with a password, and the configuration another one, or none.
func redisWith(password string) func(*installation) {
	return func(inst *installation) {
		r := inst.inRedis()
		c, err := net.Dial("tcp", "127.0.0.1:"+r.port)
		if err != nil {
			inst.t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "CONFIG SET requirepass the-password\r\n")
		answer := make([]byte, 3)
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "+OK" {
			inst.t.Fatalf("%v: %s", err, answer)
		}
		if password != "" {
			inst.secret("redis-password", password)
			inst.edit("redis: {", "redis: {password_file: redis-password, ")
		}
	}
}

// Servers of our own in front of Exchange, or in its place.

const trusted = true

// template is a certificate for loopback.
func template(name string) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
}

// serve starts a server, and returns its address. Its chain is a root, which ca_file has too where it is trusted, an intermediate
// authority and its own certificate, of which the last two can be changed.
func (inst *installation) serve(trust bool, change func(intermediate, leaf *x509.Certificate), h http.Handler) (url string) {
	inst.t.Helper()
	root, intermediate, leaf := template("Contoso root CA"), template("Contoso intermediate CA"), template("127.0.0.1")
	for _, ca := range []*x509.Certificate{root, intermediate} {
		ca.IPAddresses, ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = nil, true, true, x509.KeyUsageCertSign
	}
	change(intermediate, leaf)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // one will do for all
	if err != nil {
		inst.t.Fatal(err)
	}
	sign := func(c, by *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, key)
		if err != nil {
			inst.t.Fatal(err)
		}
		return der
	}
	if trust {
		rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(root, root)})
		if err := os.WriteFile(inst.sim.CAFile, append(slices.Clone(inst.sim.CAPEM), rootPEM...), 0o600); err != nil {
			inst.t.Fatal(err)
		}
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{sign(leaf, intermediate), sign(intermediate, root)}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	inst.t.Cleanup(s.Close)
	return s.URL
}

func good(_, _ *x509.Certificate) {}

// shows has EWS at a server with such a certificate.
func shows(trust bool, change func(intermediate, leaf *x509.Certificate)) func(*installation) {
	return func(inst *installation) {
		ewsAt(inst.serve(trust, change, http.NotFoundHandler()) + "/EWS/Exchange.asmx")(inst)
	}
}

// endTLS has EWS behind a proxy with a certificate of its own.
func endTLS(inst *installation) {
	server, err := url.Parse(inst.sim.EWSURL)
	if err != nil {
		inst.t.Fatal(err)
	}
	server.Path = ""
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: inst.sim.RootCAs()}, MaxConnsPerHost: 1} // NTLM signs in a connection
	inst.t.Cleanup(t.CloseIdleConnections)
	ewsAt(inst.serve(trusted, good, &httputil.ReverseProxy{Transport: t, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(server) }}) + "/EWS/Exchange.asmx")(inst)
}

// leadAstray has Autodiscover redirect to a host that is nobody's.
func leadAstray(inst *installation) {
	away := inst.serve(trusted, good, http.RedirectHandler("https://evil.example/autodiscover/autodiscover.xml", http.StatusFound))
	inst.edit(inst.sim.AutodiscoverURL, away+"/autodiscover/autodiscover.xml")
}
