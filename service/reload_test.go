package service

// What a look at the files leads to, without a server: nothing here connects.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/systemd"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/subscriptions"
)

const installation = `
listen: 127.0.0.1:0
exchange:
  - name: headquarters
    domains: [contoso.com]
    ews_url: https://mail.contoso.com/EWS/Exchange.asmx
    listener_accounts:
      - name: listener-01
        basic: {username: 'CONTOSO\svc-bell', password_file: password}
apns:
  - topic: com.contoso.mail
    url: https://127.0.0.1:1
    token: {key_file: apns.p8, key_id: ABCDE12345, team_id: FGHIJ67890}
api:
  clients:
    - {name: mdm, role: admin, token_file: mdm.token}
`

// desktop is an installation whose files can be changed, and its service.
type desktop struct {
	*Service
	t    *testing.T
	dir  string
	logs *observer.ObservedLogs
}

func newDesktop(t *testing.T) *desktop {
	t.Helper()
	d := &desktop{t: t, dir: t.TempDir()}
	d.write("mailbell.yaml", installation)
	d.write("password", "the first one")
	d.write("mdm.token", "0123456789abcdef")
	d.write("apns.p8", signingKey(t))
	var core zapcore.Core
	core, d.logs = observer.New(zap.InfoLevel)
	log := zap.New(core)
	d.Service = &Service{log: log, audit: audit.New(log), proxy: &proxy.Current{}, connect: func(context.Context, target, *proxy.Via) error { return nil },
		calendar: expiry.New(log), systemd: &systemd.Notifier{}, look: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	d.startedWith = d.load()
	d.configuration.Store(d.startedWith)
	return d
}

func signingKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (d *desktop) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desktop) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
		d.t.Fatal(err)
	}
}

// edit replaces old in the configuration file as it was first.
func (d *desktop) edit(old, replacement string) {
	d.t.Helper()
	if !strings.Contains(installation, old) {
		d.t.Fatalf("there is no %q", old)
	}
	d.write("mailbell.yaml", strings.Replace(installation, old, replacement, 1))
}

func (d *desktop) load() *config.Config {
	d.t.Helper()
	c, err := config.Load(filepath.Join(d.dir, "mailbell.yaml"))
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// said is what the log has said since it was asked last.
func (d *desktop) said() (lines []string) {
	for _, l := range d.logs.TakeAll() {
		line := l.Message
		if key, ok := l.ContextMap()["key"]; ok {
			line += ": " + key.(string)
		}
		lines = append(lines, line)
	}
	return lines
}

// tookUp tells whether a configuration was taken up since it was asked last.
func (d *desktop) tookUp() bool {
	select {
	case <-d.changed:
		return true
	default:
		return false
	}
}

// watched runs f while the files are looked at.
func watched(t *testing.T, f func(t *testing.T, d *desktop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDesktop(t)
		var watching sync.WaitGroup
		ctx, end := context.WithCancel(t.Context())
		watching.Go(func() { d.watch(ctx) })
		defer watching.Wait()
		defer end()
		synctest.Wait()
		f(t, d)
	})
}

// token is that of the portal's client.
func (d *desktop) token() string { return string(d.current().API.Clients[0].Token) }

const mistakes = "changed configuration has mistakes, old one stays in use"

func TestAChangedFileIsTakenUpByItself(t *testing.T) {
	watched(t, func(t *testing.T, d *desktop) {
		<-time.After(5 * lookEvery)
		synctest.Wait()
		if d.tookUp() {
			t.Error("nothing was changed, and something was taken up")
		}
		d.write("mdm.token", "fedcba9876543210")
		<-time.After(lookEvery)
		synctest.Wait()
		if !d.tookUp() || d.token() != "fedcba9876543210" {
			t.Errorf("the token is still %s", d.token())
		}
		if said := d.said(); len(said) > 0 {
			t.Errorf("%q", said)
		}
	})
}

func TestASignalHasTheFilesLookedAtAtOnce(t *testing.T) {
	watched(t, func(t *testing.T, d *desktop) {
		for _, token := range []string{"fedcba9876543210", "0123456789abcdef", "00112233445566778899"} {
			d.write("mdm.token", token)
			d.Reload()
			d.Reload() // an impatient one
			synctest.Wait()
			if !d.tookUp() || d.token() != token {
				t.Errorf("the token is %s, not %s", d.token(), token)
			}
		}
		d.write("mdm.token", "00112233445566778899") // the same again
		d.Reload()
		synctest.Wait()
		if d.tookUp() {
			t.Error("a file that was written and holds the same is taken up")
		}
	})
}

// Between reading the files and looking at them for the first time, the state is opened and another instance may have to end.
func TestWhatIsChangedDuringTheStartIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesktop(t)
		d.write("mdm.token", "fedcba9876543210")
		ctx, end := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { d.watch(ctx) })
		<-time.After(lookEvery)
		synctest.Wait()
		if !d.tookUp() || d.token() != "fedcba9876543210" {
			t.Errorf("the token is still %s", d.token())
		}
		end()
		watching.Wait()
	})
}

func TestAMistakeChangesNothingAndIsReportedOnce(t *testing.T) {
	for name, test := range map[string]struct {
		wrong  func(d *desktop)
		mended func(d *desktop)
	}{
		"a key that is none":     {func(d *desktop) { d.edit("listen:", "lisen:") }, func(d *desktop) { d.edit("listen:", "# mended\nlisten:") }},
		"a file that vanishes":   {func(d *desktop) { d.remove("password") }, func(d *desktop) { d.write("password", "the second one") }},
		"a file that is emptied": {func(d *desktop) { d.write("password", "") }, func(d *desktop) { d.write("password", "the second one") }},
		"a file that is made after it was named": {func(d *desktop) { d.edit("file: password", "file: renewed") },
			func(d *desktop) { d.write("renewed", "the second one") }},
		"a proxy's password that is too long": {func(d *desktop) {
			d.write("long", strings.Repeat("x", 256))
			d.edit("listen:", "proxy: {url: 'http://proxy:3128', username: bell, password_file: long}\nlisten:")
		}, func(d *desktop) { d.write("long", "x") }},
		"a key file that contradicts another": {func(d *desktop) {
			d.write("other.p8", signingKey(d.t))
			d.edit("api:", "  - topic: com.contoso.calendar\n    token: {key_file: other.p8, key_id: ABCDE12345, team_id: FGHIJ67890}\napi:")
		}, func(d *desktop) {
			key, err := os.ReadFile(filepath.Join(d.dir, "apns.p8"))
			if err != nil {
				d.t.Fatal(err)
			}
			d.write("other.p8", string(key))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(t *testing.T, d *desktop) {
				before := d.current()
				d.write("mdm.token", "fedcba9876543210") // which is right
				test.wrong(d)
				<-time.After(10 * lookEvery)
				synctest.Wait()
				d.Reload()
				synctest.Wait()
				if d.tookUp() || d.current() != before {
					t.Error("it is taken up")
				}
				if said := d.said(); !slices.Equal(said, []string{mistakes}) {
					t.Errorf("said: %q", said)
				}
				test.mended(d)
				d.Reload()
				synctest.Wait()
				if !d.tookUp() || d.token() != "fedcba9876543210" {
					t.Errorf("once it was mended it is not taken up: %q", d.said())
				}
			})
		})
	}
}

func TestAMistakeThatIsTakenBackIsNone(t *testing.T) {
	watched(t, func(t *testing.T, d *desktop) {
		for range 2 {
			d.edit("listen:", "lisen:")
			<-time.After(2 * lookEvery)
			synctest.Wait()
			d.write("mailbell.yaml", installation)
			<-time.After(2 * lookEvery)
			synctest.Wait()
			if said := d.said(); !slices.Equal(said, []string{mistakes}) || d.tookUp() {
				t.Errorf("said: %q", said)
			}
		}
	})
}

func TestAPairIsTakenUpOnceBothFilesAreThere(t *testing.T) {
	watched(t, func(t *testing.T, d *desktop) {
		d.write("apns.p8", signingKey(t))
		d.edit("basic: {username: 'CONTOSO\\svc-bell', password_file: password}", "basic: {username: 'CONTOSO\\svc-ring', password_file: password}")
		d.write("password", "of the other one")
		d.Reload()
		synctest.Wait()
		if a := d.current().Exchange[0].Accounts[0].Credential; !d.tookUp() || a.Username != `CONTOSO\svc-ring` || a.Secret != "of the other one" {
			t.Errorf("%s", a.Username)
		}
	})
}

// Kubernetes swaps the folder of a secret by a symbolic link.
func TestASecretThatIsSwappedByALinkIsTakenUp(t *testing.T) {
	watched(t, func(t *testing.T, d *desktop) {
		at := func(name string) string { return filepath.Join(d.dir, name) }
		for _, folder := range []string{"..one", "..two"} {
			if err := os.Mkdir(at(folder), 0o700); err != nil {
				t.Fatal(err)
			}
			d.write(folder+"/token", "the-token-of-"+folder)
		}
		if err := os.Symlink("..one", at("..data")); err != nil {
			t.Fatal(err)
		}
		d.edit("token_file: mdm.token", "token_file: ..data/token")
		d.Reload()
		synctest.Wait()
		if !d.tookUp() || d.token() != "the-token-of-..one" {
			t.Fatalf("%q", d.said())
		}
		if err := errors.Join(os.Symlink("..two", at("..data_tmp")), os.Rename(at("..data_tmp"), at("..data")), os.RemoveAll(at("..one"))); err != nil {
			t.Fatal(err)
		}
		<-time.After(lookEvery)
		synctest.Wait()
		if !d.tookUp() || d.token() != "the-token-of-..two" {
			t.Errorf("%q", d.said())
		}
	})
}

func TestWhatNeedsARestartIsNamed(t *testing.T) {
	account := "      - name: listener-01\n        basic: {username: 'CONTOSO\\svc-bell', password_file: password}\n"
	for name, test := range map[string]struct{ old, replacement, want string }{
		"the port":                         {"127.0.0.1:0", "127.0.0.1:1", "listen"},
		"callbacks":                        {"listen:", "public_url: https://bell.contoso.com\ncallbacks: {listen: 127.0.0.1:1}\nlisten:", "callbacks, public_url"},
		"a state":                          {"listen:", "state: {path: other.db}\nlisten:", "state"},
		"another state":                    {"listen:", "state: {redis: {addresses: ['127.0.0.1:1']}}\nlisten:", "state"},
		"a domain":                         {"[contoso.com]", "[contoso.com, fabrikam.com]", "exchange"},
		"a URL":                            {"mail.contoso.com", "ex.contoso.com", "exchange"},
		"an account":                       {account, account + strings.Replace(account, "01", "02", 1), "exchange"},
		"another account":                  {account, strings.Replace(account, "01", "02", 1), "exchange"},
		"a topic":                          {"com.contoso.mail", "com.contoso.post", "apns"},
		"an environment":                   {"    token: {key", "    environment: sandbox\n    token: {key", "apns"},
		"what an alert shows":              {"listen:", "alerts: {content: generic}\nlisten:", "alerts"},
		"the log":                          {"listen:", "log: {level: debug}\nlisten:", "log"},
		"what an alert shows, and the log": {"listen:", "alerts: {content: generic}\nlog: {level: debug}\nlisten:", "log, alerts"},
		"a user name":                      {"svc-bell", "svc-ring", ""},
		"a kind of password":               {"basic:", "ntlm:", ""},
		"a key's id":                       {"ABCDE12345", "ABCDE12346", ""},
		"a client":                         {"name: mdm, role: admin", "name: portal, role: read", ""},
		"a proxy":                          {"listen:", "proxy: {url: 'http://proxy:3128'}\nlisten:", ""},
		"a comment":                        {"listen:", "# the port\nlisten:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(t *testing.T, d *desktop) {
				r := d.rooms()
				said := func() []string {
					d.Reload()
					synctest.Wait()
					r.update(d.current())
					// What becomes of credentials that are offered is not looked at here.
					return slices.DeleteFunc(d.said(), func(line string) bool {
						return !strings.Contains(line, "configuration") && !strings.Contains(line, "proxy")
					})
				}
				d.edit(test.old, test.replacement)
				var want []string
				for key := range strings.SplitSeq(test.want, ", ") {
					if key != "" {
						want = append(want, "change of the configuration needs a restart: "+key)
					}
				}
				if strings.Contains(test.replacement, "proxy: ") {
					want = []string{"changed proxy is in use"}
				}
				if said := said(); !slices.Equal(said, want) || !d.tookUp() {
					t.Errorf("said: %q, want %q", said, want)
				}
				waiting := func() (keys string) {
					for _, c := range r.wrong() {
						if c.Cause == "a change of the configuration waits for a restart" && c.Level == check.LevelInfo {
							keys = c.Reason[strings.LastIndex(c.Reason, ": ")+2:]
						}
					}
					return keys
				}
				if keys := waiting(); keys != test.want {
					t.Errorf("the status says that %q wait for a restart, want %q", keys, test.want)
				}
				d.edit("listen:", "listen:") // as it was
				for i, line := range want {
					want[i] = strings.Replace(line, "change of the configuration needs a restart", "the configuration is again what mailbell runs with", 1)
				}
				if strings.Contains(test.replacement, "proxy: ") {
					want = []string{"changed proxy is in use"}
				}
				if said := said(); !slices.Equal(said, want) {
					t.Errorf("as it was again, said: %q, want %q", said, want)
				}
				if keys := waiting(); keys != "" {
					t.Errorf("as it was again, the status says that %q wait for a restart", keys)
				}
			})
		})
	}
}

// A standby builds its rooms with what the file says at its take-over. Then that is in use, whatever it was started with.
func TestWhatAStandbyHasTakenOverWithIsInUse(t *testing.T) {
	watched(t, func(t *testing.T, d *desktop) {
		reload := func() {
			d.Reload()
			synctest.Wait()
		}
		update := func(r *rooms) {
			r.update(d.current())
			r.update(d.current()) // it may be told twice
		}
		d.edit("listen:", "alerts: {send: false}\nlog: {level: debug}\nlisten:")
		reload()
		if said := d.said(); !slices.Equal(said, []string{"change of the configuration needs a restart: log"}) {
			t.Errorf("as a standby: %q", said)
		}
		r := d.rooms()
		d.edit("listen:", "listen:") // what it was started with
		reload()
		update(r)
		if said := d.said(); !slices.Equal(said, []string{"the configuration is again what mailbell runs with: log", "change of the configuration needs a restart: alerts"}) {
			t.Errorf("after the take-over, what it was started with: %q", said)
		}
		d.edit("listen:", "alerts: {send: false}\nlisten:")
		reload()
		update(r)
		if said := d.said(); !slices.Equal(said, []string{"the configuration is again what mailbell runs with: alerts"}) {
			t.Errorf("what it has taken over with: %q", said)
		}
	})
}

// rooms builds the rooms on a state of their own. Nothing in them has begun.
func (d *desktop) rooms() *rooms {
	d.t.Helper()
	store, err := subscriptions.OpenEmbedded(filepath.Join(d.dir, "mailbell.db"))
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := d.build(d.t.Context(), store)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		r.close()
		if err := store.Close(); err != nil {
			d.t.Error(err)
		}
	})
	return r
}

// offered is said of a changed credential.
const offered = "changed credential is tried"

func TestEachChangeOfACredentialIsOfferedOnce(t *testing.T) {
	d := newDesktop(t)
	r := d.rooms()
	for _, password := range []string{"the second one", "the third one", "the first one"} {
		d.write("password", password)
		c := d.load()
		r.update(c)
		r.update(c) // it may be told twice
		if said := d.said(); !slices.Equal(said, []string{offered}) {
			t.Errorf("%s: said %q", password, said)
		}
	}
	d.edit("basic:", "ntlm:")
	r.update(d.load())
	if said, accounts := d.said(), (&backend{rooms: r}).overview().Accounts; !slices.Equal(said, []string{offered}) || accounts[0].Kind != "ntlm" {
		t.Errorf("said %q, of kind %s", said, accounts[0].Kind)
	}
}

// A password that is changed together with the host is for the new host.
func TestACredentialForOtherHostsIsNotSentToTheOnesInUse(t *testing.T) {
	for name, change := range map[string][2]string{
		"another URL":    {"mail.contoso.com", "mail.fabrikam.com"},
		"another domain": {"[contoso.com]", "[fabrikam.com]"},
		"Autodiscover":   {"    ews_url: https://mail.contoso.com/EWS/Exchange.asmx\n", ""},
		"another cloud":  {"    ews_url:", "    cloud: china\n    ews_url:"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesktop(t)
			r := d.rooms()
			said := func() []string { // that the entry needs a restart is said too
				return slices.DeleteFunc(d.said(), func(line string) bool { return strings.HasSuffix(line, ": exchange") })
			}
			d.edit(change[0], change[1])
			d.write("password", "for another host")
			for range 2 {
				r.update(d.load())
				if said := said(); len(said) != 1 || !strings.Contains(said[0], "waits for the restart") {
					t.Errorf("said %q", said)
				}
			}
			d.write("mailbell.yaml", installation) // taken back
			r.update(d.load())
			if said := said(); len(said) != 1 || !strings.Contains(said[0], "changed credential is tried") {
				t.Errorf("said %q", said)
			}
		})
	}
}

func TestWhatWasRefusedIsTriedOnceTheNewCredentialHasTakenOver(t *testing.T) {
	d := newDesktop(t)
	r := d.rooms()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, password, _ := req.BasicAuth(); password != "the second one" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	authorised := r.links.accounts[0].credential.RoundTripper(auth.Hosts{URLs: []string{server.URL}}, proxy.Settings{Roots: roots}, 1)
	defer (&http.Client{Transport: authorised}).CloseIdleConnections()
	ask := func(want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := authorised.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("%d, want %d", resp.StatusCode, want)
		}
	}
	ask(http.StatusUnauthorized)
	d.write("password", "the second one")
	r.update(d.load())
	if len(r.links.worked) != 0 {
		t.Error("it has not worked yet")
	}
	ask(http.StatusOK)
	if len(r.links.worked) != 1 || !r.links.accounts[0].worked.Load() {
		t.Fatal("nobody is told that it works")
	}
	<-r.links.worked
	r.tookOver()
	if r.links.accounts[0].worked.Load() {
		t.Error("it is dealt with again and again")
	}
}

func TestAKeyIsReplacedAlsoWhereATopicWaitsForARestart(t *testing.T) {
	d := newDesktop(t)
	r := d.rooms()
	d.write("apns.p8", signingKey(t))
	d.edit("api:", "  - topic: com.contoso.calendar\n    token: {key_file: apns.p8, key_id: ABCDE12345, team_id: FGHIJ67890}\napi:")
	r.update(d.load())
	if said := d.said(); slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "cannot work") }) {
		t.Errorf("said %q", said)
	}
}

func TestTheStatusCanBeReadWhileACredentialChanges(t *testing.T) {
	d := newDesktop(t)
	r := d.rooms()
	asked := &backend{rooms: r}
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for range 100 {
				asked.overview()
				r.links.find("headquarters", "listener-01").forCheck(r.links.trials, mail.EWS)
			}
		})
	}
	for n := range 10 {
		d.write("password", strings.Repeat("x", n+1))
		r.update(d.load())
	}
	reading.Wait()
}

func TestTheCalendarForgetsACredentialThatIsReplacedByOneOfAnotherKind(t *testing.T) {
	d := newDesktop(t)
	basic := d.load()
	d.edit("basic: {username: 'CONTOSO\\svc-bell', password_file: password}",
		"client_secret: {tenant_id: contoso.com, client_id: 11111111-2222-3333-4444-555555555555, secret_file: password, expires: 2027-05-01}")
	d.enterDates(d.load())
	if list := d.calendar.List(); len(list) != 1 || list[0].Kind != credential.ClientSecret || list[0].Name != "listener-01" {
		t.Fatalf("%v", list)
	}
	d.enterDates(basic)
	if list := d.calendar.List(); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

func TestADomainIsElsewhereWhereOnlyOthersNameIt(t *testing.T) {
	entries := []config.Exchange{
		{Name: "premises", Domains: []string{"contoso.com", "fabrikam.com"}},
		{Name: "cloud", Domains: []string{"contoso.com", "contoso.mail.onmicrosoft.com"}},
		{Name: "other", Domains: []string{"contoso.com"}},
	}
	for domain, want := range map[string][3]bool{
		"contoso.com":                  {false, false, false}, // who has it is to be found out
		"fabrikam.com":                 {false, true, true},
		"contoso.mail.onmicrosoft.com": {true, false, true},
		"example.com":                  {false, false, false}, // nobody's: it is followed as far as credentials may go
		"":                             {false, false, false},
	} {
		for i := range entries {
			if got := elsewhere(entries, i)(domain); got != want[i] {
				t.Errorf("%q is elsewhere for %s: %t", domain, entries[i].Name, got)
			}
		}
	}
}

// turns is a state that this instance may work on when it is told.
type turns struct {
	store subscriptions.Store
	next  chan chan struct{} // what tells that it is lost
}

func (s turns) hold(ctx context.Context, standby func(string, error)) (held, error) {
	standby("another", nil)
	select {
	case lost := <-s.next:
		return held{store: s.store, lost: lost}, nil
	case <-ctx.Done():
		return held{}, ctx.Err()
	}
}

func (s turns) close() error { return s.store.Close() }

func TestAChangeWhileStandingByIsUsedWhenTheStateIsTakenOver(t *testing.T) {
	d := newDesktop(t)
	ctx, stop := context.WithCancel(t.Context())
	s, err := Open(ctx, d.load(), d.log, "test")
	if err != nil {
		stop()
		t.Fatal(err)
	}
	state := turns{s.state.(file).Embedded, make(chan chan struct{})}
	s.state = state
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{}}
	defer func() {
		client.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	status := func(token string) int {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address().String()+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	eventually := func(what string, holds func() bool) {
		t.Helper()
		end := time.After(30 * time.Second)
		for !holds() {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-end:
				t.Fatalf("not in time: %s", what)
			}
		}
	}
	tokens := []string{"the-token-before-0", "the-token-before-1", "the-token-before-2"}
	for i, token := range tokens {
		if got := status(token); got != http.StatusServiceUnavailable {
			t.Errorf("as a standby it answers %d", got)
		}
		d.write("mdm.token", token)
		d.write("password", token)
		s.Reload()
		eventually("the change is seen", func() bool { return string(s.current().API.Clients[0].Token) == token })
		lost := make(chan struct{})
		state.next <- lost
		eventually("the new token is good", func() bool { return status(token) == http.StatusOK })
		if i > 0 && status(tokens[i-1]) != http.StatusUnauthorized {
			t.Error("the token before it is good too")
		}
		// And while it works.
		d.write("mdm.token", token+"-renewed")
		s.Reload()
		eventually("the renewed token is good", func() bool { return status(token+"-renewed") == http.StatusOK })
		close(lost)
		eventually("it stands by again", func() bool { return status(token) == http.StatusServiceUnavailable })
	}
}

func TestTokensAreForTheHostOfEWS(t *testing.T) {
	const app = "client_secret: {tenant_id: contoso.com, client_id: 11111111-2222-3333-4444-555555555555, secret_file: password}"
	basic := "basic: {username: 'CONTOSO\\svc-bell', password_file: password}"
	ews := "    ews_url: https://mail.contoso.com/EWS/Exchange.asmx\n"
	for entry, want := range map[string]string{
		"    type: online\n":                      "https://outlook.office365.com/.default",
		"    type: online\n    cloud: gcc\n":      "https://outlook.office365.com/.default",
		"    type: online\n    cloud: gcc-high\n": "https://outlook.office365.us/.default",
		"    type: online\n    cloud: dod\n":      "https://outlook-dod.office365.us/.default",
		"    type: online\n    cloud: china\n":    "https://partner.outlook.cn/.default",
		"    type: online\n    cloud: custom\n    cloud_urls: {ews: 'https://ews.example:8443', autodiscover: https://ad.example, authority: https://login.example}\n": "https://ews.example:8443/.default",
		ews: "https://mail.contoso.com/.default",
		"    ews_url: https://Mail.Contoso.com:443/EWS/Exchange.asmx\n": "https://mail.contoso.com/.default",
	} {
		d := newDesktop(t)
		d.write("mailbell.yaml", strings.NewReplacer(basic, app, ews, entry).Replace(installation))
		if got := scope(d.load().Exchange[0]); got != want {
			t.Errorf("%s: %s", entry, got)
		}
	}
}

func TestACloudIsInTheInternetUnlessItIsConfigured(t *testing.T) {
	d := newDesktop(t)
	custom := config.Cloud{EWS: "https://ews.example/x", Autodiscover: "https://ad.example:8443", Authority: "https://login.example", Custom: true}
	microsofts := config.Cloud{EWS: "https://outlook.office365.com/x", Autodiscover: "https://autodiscover-s.outlook.com", Authority: "https://login.microsoftonline.com"}
	for name, test := range map[string]struct {
		entry  config.Exchange
		public bool
		except []string
	}{
		"on premises":      {config.Exchange{Type: config.OnPremises, EWSURL: "https://mail.contoso.com/x", TrustedHosts: []string{"ex1"}, Cloud: microsofts}, false, nil},
		"the cloud":        {config.Exchange{Type: config.Online, Cloud: microsofts}, true, nil},
		"a trusted host":   {config.Exchange{Type: config.Online, Cloud: microsofts, TrustedHosts: []string{"ex1"}}, true, []string{"ex1"}},
		"a configured URL": {config.Exchange{Type: config.Online, Cloud: microsofts, EWSURL: "https://10.0.0.1:8443/x"}, true, []string{"10.0.0.1"}},
		"a custom cloud":   {config.Exchange{Type: config.Online, Cloud: custom}, true, []string{"ews.example", "ad.example", "login.example"}},
	} {
		if out := d.outbound(test.entry); out.PublicOnly != test.public || !slices.Equal(out.Except, test.except) {
			t.Errorf("%s: public %t, except %q", name, out.PublicOnly, out.Except)
		}
	}
}

func TestEntraIDIsTrustedByThePublicsRootsUnlessTheCloudIsAnother(t *testing.T) {
	own := x509.NewCertPool()
	for _, custom := range []bool{false, true} {
		x := config.Exchange{CA: own, Cloud: config.Cloud{Custom: custom}}
		if got := forTokens(x, proxy.Settings{Roots: own}); (got.Roots == own) != custom {
			t.Errorf("a custom cloud: %v; the entry's ca_file counts: %v", custom, got.Roots == own)
		}
	}
}

func TestEachAuthenticationMethodOfTheConfigurationIsOneOfAuths(t *testing.T) {
	x := config.Exchange{Cloud: config.Cloud{EWS: "https://outlook.office365.com/EWS/Exchange.asmx", Authority: "https://login.microsoftonline.com"}}
	for _, method := range config.AuthenticationMethods() {
		// What else the description lacks is another error.
		c, err := newCredential(x, credential.Description{Method: method}, proxy.Settings{}, scope(x))
		if err != nil && strings.Contains(err.Error(), "authentication method") {
			t.Errorf("%s: %v", method, err)
		}
		if c != nil {
			c.Close()
		}
	}
	if _, err := newCredential(x, credential.Description{Method: "kerberos"}, proxy.Settings{}, scope(x)); err == nil {
		t.Error("one that nobody knows makes a credential")
	}
}

// A service that is started again and again does not mend what its configuration says.
func TestWhatIsWrongWithAConfigurationIsToldFromWhatFails(t *testing.T) {
	d := newDesktop(t)
	c := d.load()
	c.APNs[0].Environment = "staging" // as config accepts nowhere
	if _, err := Open(t.Context(), c, zap.NewNop(), "test"); !isMisconfigured(err) {
		t.Errorf("a topic that cannot be sent to: %v", err)
	}
	c = d.load()
	c.State.Path = filepath.Join(d.dir, "nowhere", "mailbell.db")
	if _, err := Open(t.Context(), c, zap.NewNop(), "test"); err == nil || isMisconfigured(err) {
		t.Errorf("a state that cannot be opened: %v", err)
	}
}

func isMisconfigured(err error) bool {
	_, is := errors.AsType[Misconfigured](err)
	return is
}
