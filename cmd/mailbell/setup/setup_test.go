package setup

// The whole dialogue, and the way without one, against the simulator.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/simulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const address = "user0001@contoso.example"

// stand is a simulator with its files, and a folder in which the configuration is to come.
type stand struct {
	*simulator.Server
	t      *testing.T
	files  string // of the simulator
	dir    string
	listen string
}

func newStand(t *testing.T, o simulator.Options) *stand {
	t.Helper()
	s := &stand{t: t, files: t.TempDir(), dir: filepath.Join(t.TempDir(), "mailbell")}
	o.Dir, o.Mailboxes = s.files, 3
	var err error
	if s.Server, err = simulator.Start(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.listen = ownAddress()
	return s
}

// ownAddress is one of loopback that nobody else has: of the network 127.0.0.0/8, where the whole of it is loopback, and with a port below those of
// outgoing connections.
func ownAddress() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1:18080"
	}
	return fmt.Sprintf("127.%d.%d.%d:%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250), 10_000+rand.IntN(20_000))
}

func (s *stand) file(name string) string { return filepath.Join(s.files, name) }

// write writes a file beside those of the simulator.
func (s *stand) write(name, text string) string {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.file(name)
}

// rest answers everything about APNs and this machine.
func (s *stand) rest() Given {
	return Given{
		"apns-topic": s.Topic, "apns-key": s.file("apns.p8"), "apns-key-id": s.KeyID, "apns-team-id": s.TeamID, "apns-url": s.APNsURL,
		"apns-ca-file": s.CAFile, "listen": s.listen,
	}
}

// onPremises answers everything for the Exchange on premises.
func (s *stand) onPremises() Given {
	return with(s.rest(), Given{
		"autodiscover-url": s.AutodiscoverURL, "ca-file": s.CAFile, "username": s.Username, "password-file": s.file("password"),
	})
}

// cloud answers where the simulated cloud is.
func (s *stand) cloud() Given {
	return Given{
		"type": "online", "cloud": "custom", "cloud-ews": s.OnlineURL, "cloud-autodiscover": s.OnlineAutodiscoverURL, "cloud-authority": s.Authority,
		"cloud-graph": s.GraphURL, "ca-file": s.CAFile,
	}
}

// with returns all answers of both.
func with(a, b Given) Given {
	all := Given{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// without returns the answers but for some.
func without(g Given, names ...string) Given {
	rest := with(g, nil)
	for _, n := range names {
		delete(rest, n)
	}
	return rest
}

// outcome is what a run left.
type outcome struct {
	err       error
	out, talk string
}

// run makes a configuration, with the lines of a person.
func (s *stand) run(o Options, lines ...string) outcome {
	s.t.Helper()
	return s.runContext(s.t.Context(), o, Lines(strings.NewReader(strings.Join(append(lines, ""), "\n"))))
}

func (s *stand) runContext(ctx context.Context, o Options, from Reader) outcome {
	s.t.Helper()
	var out, talk bytes.Buffer
	if o.Address == "" {
		o.Address = address
	}
	o.Dir, o.Answers, o.Talk, o.Out, o.Version = s.dir, from, &talk, &out, "test"
	o.Show = func(r check.Result) { fmt.Fprintf(&out, "%s %s %s\n", r.State, r.Name, r.Error) }
	err := Run(ctx, o)
	return outcome{err, out.String(), talk.String()}
}

// loaded is the configuration that was written; it fails the test where something is wrong with it.
func (s *stand) loaded(o outcome) *config.Config {
	s.t.Helper()
	if o.err != nil {
		s.t.Fatalf("%v\n%s\n%s", o.err, o.talk, o.out)
	}
	c, err := config.Load(filepath.Join(s.dir, configFile))
	if err != nil {
		s.t.Fatal(err)
	}
	s.private()
	return c
}

// private fails the test where somebody else can read what was written, or something is there that is not of a configuration.
func (s *stand) private() {
	s.t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		if mode := i.Mode().Perm(); mode != 0o600 && !d.IsDir() || mode != 0o700 && d.IsDir() {
			s.t.Errorf("%s has the mode %v", path, mode)
		}
		if strings.HasPrefix(d.Name(), ".") {
			s.t.Errorf("%s was left", path)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// nothing fails the test where something was written.
func (s *stand) nothing() {
	s.t.Helper()
	if list, err := os.ReadDir(s.dir); !errors.Is(err, fs.ErrNotExist) {
		s.t.Errorf("%s is there: %v %v", s.dir, list, err)
	}
}

func TestWithoutADialogueTheConfigurationIsWrittenFromFlags(t *testing.T) {
	for name, method := range map[string]string{simulator.AuthBasic: credential.Basic, simulator.AuthNTLM: credential.NTLM} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, simulator.Options{Auth: []string{name}, ExtendedProtection: true})
			o := s.run(Options{Given: s.onPremises(), Yes: true})
			c := s.loaded(o)
			x := c.Exchange[0]
			if len(c.Exchange) != 1 || x.Type != config.OnPremises || x.ListenBy != config.ByStreaming || !slices.Equal(x.Domains, []string{"contoso.example"}) ||
				x.AutodiscoverURL != s.AutodiscoverURL {
				t.Errorf("exchange is %+v", x)
			}
			if a := x.Accounts[0].Credential; a.Method != method || a.Username != s.Username || string(a.Secret) != s.Password {
				t.Errorf("the account signs in by %s as %s", a.Method, a.Username)
			}
			if a := c.APNs[0]; a.Topic != s.Topic || a.Environment != config.Production || a.Token.KeyID != s.KeyID || a.Token.TeamID != s.TeamID {
				t.Errorf("apns is %+v", a)
			}
			if c.Listen != s.listen || c.State.Path != filepath.Join(s.dir, "mailbell.db") || c.Proxy != nil {
				t.Errorf("the configuration is %+v", c)
			}
			for _, want := range []string{"ok exchange headquarters: account listener-01: read", "ok apns " + s.Topic, "ok state", "ok listen", "found: an Exchange on premises"} {
				if !strings.Contains(o.out, want) {
					t.Errorf("%q is not in\n%s", want, o.out)
				}
			}
		})
	}
}

func TestTheSimulatedCloudIsFoundAndConfiguredByAnApp(t *testing.T) {
	s := newStand(t, simulator.Options{Hybrid: true})
	inCloud := "user0002@contoso.example"
	given := with(with(s.rest(), s.cloud()), Given{"tenant-id": s.TenantID, "client-id": s.ClientID, "client-secret-file": s.file("client-secret"), "client-secret-expires": "2027-01-31"})
	o := s.run(Options{Address: inCloud, Given: given, Yes: true})
	c := s.loaded(o)
	x := c.Exchange[0]
	a := x.Accounts[0].Credential
	if x.Type != config.Online || x.ListenBy != config.ByGraph || a.Method != credential.ClientSecret || a.Tenant != s.TenantID || a.ClientID != s.ClientID ||
		string(a.Secret) != s.ClientSecret || a.Expires.Year() != 2027 {
		t.Errorf("exchange is %+v", x)
	}
	for _, want := range []string{"found: Exchange Online", "ok exchange cloud: account listener-01: read"} {
		if !strings.Contains(o.out, want) {
			t.Errorf("%q is not in\n%s", want, o.out)
		}
	}
}

func TestEachClientHasATokenOfItsOwn(t *testing.T) {
	s := newStand(t, simulator.Options{})
	c := s.loaded(s.run(Options{Given: s.onPremises(), Yes: true, Untried: true}))
	roles, tokens := map[string]string{}, map[config.Secret]bool{}
	for _, p := range c.API.Clients {
		roles[p.Name], tokens[p.Token] = p.Role, true
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(string(p.Token)) {
			t.Errorf("the token of %s has %d characters", p.Name, len(p.Token))
		}
	}
	if len(tokens) != 3 || roles["mdm"] != config.RoleEnrol || roles["helpdesk"] != config.RoleTest || roles["operator"] != config.RoleAdmin {
		t.Errorf("the clients are %v, with %d tokens", roles, len(tokens))
	}
}

func TestAllThatIsMissingOrWrongIsSaidAtOnce(t *testing.T) {
	s := newStand(t, simulator.Options{})
	given := Given{"type": "exchange", "autodiscover-url": s.AutodiscoverURL, "ca-file": s.CAFile, "apns-key-id": "short", "redis": "redis:6379", "apns-key": s.file("none")}
	o := s.run(Options{Given: given, Yes: true})
	if _, ok := errors.AsType[UsageError](o.err); !ok {
		t.Fatalf("the error is %v", o.err)
	}
	for _, want := range []string{
		"--username is missing", "--password-file (or --password-env) is missing", "--apns-topic is missing", "--apns-team-id is missing",
		"--apns-key-id: want 10 capital letters and digits", "--redis: does not go with the other answers", "--apns-key: open",
	} {
		if !strings.Contains(o.err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, o.err)
		}
	}
	s.nothing()
}

func TestASecretComesFromAFileOrAVariable(t *testing.T) {
	s := newStand(t, simulator.Options{})
	t.Setenv("MAILBELL_TEST_PASSWORD", s.Password+"\n")
	given := with(without(s.onPremises(), "password-file"), Given{"password-env": "MAILBELL_TEST_PASSWORD"})
	if c := s.loaded(s.run(Options{Given: given, Yes: true})); string(c.Exchange[0].Accounts[0].Credential.Secret) != s.Password {
		t.Error("the password is not the variable's")
	}
	for name, g := range map[string]Given{
		"both":    {"password-env": "MAILBELL_TEST_PASSWORD", "password-file": s.file("password")},
		"not set": {"password-env": "MAILBELL_TEST_NOT_SET"},
		"empty":   {"password-file": s.write("empty", "\n")},
		"lines":   {"password-file": s.write("lines", "one\ntwo\n")},
	} {
		s.dir = filepath.Join(t.TempDir(), "mailbell")
		o := s.run(Options{Given: with(without(s.onPremises(), "password-file"), g), Yes: true})
		if _, ok := errors.AsType[UsageError](o.err); !ok || !strings.Contains(o.err.Error(), "--password-file (or --password-env): ") {
			t.Errorf("%s: the error is %v", name, o.err)
		}
		s.nothing()
	}
}

func TestWithoutADialogueAFailedCheckWritesNothing(t *testing.T) {
	s := newStand(t, simulator.Options{})
	given := with(s.onPremises(), Given{"password-file": s.write("wrong", "wrong\n")})
	o := s.run(Options{Given: with(given, nil), Yes: true})
	if o.err == nil || !strings.Contains(o.err.Error(), "a check failed") || !strings.Contains(o.out, "failed exchange headquarters: account listener-01: sign_in") {
		t.Errorf("the error is %v\n%s", o.err, o.out)
	}
	s.nothing()
	s.loaded(s.run(Options{Given: given, Yes: true, Untried: true}))
}

// script is a dialogue that works. It begins with everything that can be said wrong.
func (s *stand) script() []string {
	return []string{
		"not a proxy", "", // proxy
		s.file("none"), s.CAFile, // ca-file
		"elsewhere", "exchange", // type
		"no domain", "", // domains
		"kerberos", "", // method
		"CON:TOSO", s.Username,
		"", s.Password,
		"0", "40", // mailboxes
		"", // the plan
		"", "not a topic", s.Topic,
		"staging", "", // environment
		"", s.file("none"), s.CAFile, s.file("apns.p8"),
		"key", s.KeyID,
		"team", s.TeamID,
		"tape", "", // state
		"/no/such/folder/mailbell.db", "",
		"8080", "0.0.0.0:8080", "127.0.0.1:0", s.listen,
	}
}

// known answers what only a test has to be told.
func (s *stand) known() Given {
	return Given{"autodiscover-url": s.AutodiscoverURL, "apns-url": s.APNsURL, "apns-ca-file": s.CAFile}
}

func TestInADialogueAWrongAnswerIsSaidAndAskedAgain(t *testing.T) {
	s := newStand(t, simulator.Options{})
	o := s.run(Options{Given: s.known()}, s.script()...)
	c := s.loaded(o)
	if a := c.Exchange[0].Accounts[0].Credential; a.Method != credential.Basic || a.Username != s.Username || string(a.Secret) != s.Password {
		t.Errorf("the account signs in by %s as %s", a.Method, a.Username)
	}
	if c.Listen != s.listen || c.APNs[0].Topic != s.Topic {
		t.Errorf("the configuration is %+v", c)
	}
	for _, want := range []string{
		"No password is sent", "is of an authority that this machine does not trust",
		`! want one of exchange, online, got "elsewhere"`, "! not a mail domain", `! want one of basic, ntlm, got "kerberos"`,
		"! a user name for Basic must not have a colon", "! an answer is needed", "! want a number from 1 to 1000000", "40 mailboxes",
		"New-ManagementRoleAssignment -Name 'mailbell listener-01' -Role 'ApplicationImpersonation'", `! want one of production, sandbox, got "staging"`,
		"! has no private key in PEM form", "! want 10 capital letters and digits", `! want one of file, redis, got "tape"`,
		"! the folder /no/such/folder does not exist", "! not an address: want host:port", "! not loopback", "! want a port other than 0",
	} {
		if !strings.Contains(o.talk, want) {
			t.Errorf("%q is not in\n%s", want, o.talk)
		}
	}
	if strings.Contains(o.talk+o.out, s.Password) {
		t.Error("the password is shown")
	}
}

func TestWhereverTheInputEndsNothingIsWritten(t *testing.T) {
	s := newStand(t, simulator.Options{})
	script := s.script()
	for n := range script {
		o := s.run(Options{Given: s.known()}, script[:n]...)
		if o.err == nil || !strings.Contains(o.err.Error(), "the input ended") {
			t.Fatalf("after %d lines the error is %v", n, o.err)
		}
		s.nothing()
	}
}

func TestWhereverAnInterruptComesNothingIsWritten(t *testing.T) {
	s := newStand(t, simulator.Options{})
	script := s.script()
	for n := 0; n < len(script); n += 4 {
		ctx, cancel := context.WithCancel(t.Context())
		in, to := io.Pipe()
		o := s.runContext(ctx, Options{Given: s.known()}, &interrupted{Reader: Lines(strings.NewReader(strings.Join(script, "\n"))), left: n, then: Lines(in), cancel: cancel})
		to.Close()
		if o.err == nil || !strings.Contains(o.err.Error(), "interrupted: nothing was written") {
			t.Errorf("after %d lines the error is %v", n, o.err)
		}
		s.nothing()
	}
}

// interrupted reads some lines, and is interrupted while it waits for the next.
type interrupted struct {
	Reader
	left   int
	then   Reader
	cancel func()
}

func (i *interrupted) Line(ctx context.Context) (string, error) {
	if i.left == 0 {
		i.cancel()
		return i.then.Line(ctx)
	}
	i.left--
	return i.Reader.Line(ctx)
}

func (i *interrupted) Secret(ctx context.Context) (string, error) { return i.Line(ctx) }

func TestWhatIsThereIsNotOverwritten(t *testing.T) {
	s := newStand(t, simulator.Options{})
	for _, name := range []string{"mailbell.yaml", "secrets", "mailbell.db"} {
		s.dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		o := s.run(Options{Given: s.onPremises(), Yes: true})
		if o.err == nil || !strings.Contains(o.err.Error(), "has "+name+", and mailbell init overwrites nothing") || o.talk != "" || o.out != "" {
			t.Errorf("%s: the error is %v\n%s%s", name, o.err, o.talk, o.out)
		}
		if text, err := os.ReadFile(filepath.Join(s.dir, name)); err != nil || string(text) != "mine" {
			t.Errorf("%s holds %q, %v", name, text, err)
		}
		if list, err := os.ReadDir(s.dir); err != nil || len(list) != 1 {
			t.Errorf("the folder has %v, %v", list, err)
		}
	}
}

func TestAConfigurationThatCameMeanwhileIsNotOverwritten(t *testing.T) {
	for _, name := range []string{"mailbell.yaml", "secrets"} {
		dir := t.TempDir()
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.make(); err != nil {
			t.Fatal(err)
		}
		if err := s.write([]file{{configFile, []byte("new")}, {filepath.Join(secretsDir, "mdm"), []byte("token")}}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.publish(); err == nil || !strings.Contains(err.Error(), "nothing was written") && !strings.Contains(err.Error(), "meanwhile") {
			t.Errorf("%s: the error is %v", name, err)
		}
		s.discard()
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != "mine" {
			t.Errorf("%s holds %q, %v", name, text, err)
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
			t.Errorf("the folder has %v, %v", list, err)
		}
	}
}

func TestAfterAFailedCheckTheAnswersThatItIsAboutAreAskedAgain(t *testing.T) {
	s := newStand(t, simulator.Options{})
	given := with(without(s.onPremises(), "password-file"), Given{"mailboxes": "10", "state": "file"})
	o := s.run(Options{Given: given},
		"", "", "exchange", "", "", "wrong", "",
		"retry", "nonsense", "answer", "", "", s.Password, "", "", // method, username, password, mailboxes, the plan
		"", "", "")
	c := s.loaded(o)
	if string(c.Exchange[0].Accounts[0].Credential.Secret) != s.Password {
		t.Error("the password is not the second one")
	}
	if n := strings.Count(o.out, "failed exchange headquarters: account listener-01: sign_in"); n != 2 {
		t.Errorf("the sign-in failed %d times", n)
	}
	for _, want := range []string{`answer again: the listener account`, "! want one of answer, retry, continue, quit", "Password"} {
		if !strings.Contains(o.talk, want) {
			t.Errorf("%q is not in\n%s", want, o.talk)
		}
	}
}

func TestAFailedCheckCanBeLeftOrEndsIt(t *testing.T) {
	s := newStand(t, simulator.Options{})
	given := with(s.onPremises(), Given{"password-file": s.write("wrong", "wrong\n"), "type": "exchange", "domains": "contoso.example", "method": "basic", "mailboxes": "10",
		"apns-environment": "production", "state": "file", "state-path": "mailbell.db", "proxy": ""})
	o := s.run(Options{Given: with(given, nil)}, "", "quit")
	if o.err == nil || !strings.Contains(o.err.Error(), "given up: nothing was written") {
		t.Errorf("the error is %v\n%s", o.err, o.talk)
	}
	s.nothing()
	s.loaded(s.run(Options{Given: given}, "", "continue"))
}

func TestAFolderThatCannotBeWrittenToIsSaidBeforeAnythingIsAsked(t *testing.T) {
	s := newStand(t, simulator.Options{})
	s.dir = filepath.Join(t.TempDir(), "no", "such", "folder")
	o := s.run(Options{Given: s.known()})
	if o.err == nil || !strings.Contains(o.err.Error(), s.dir+" cannot be written to") || o.talk != "" {
		t.Errorf("the error is %v\n%s", o.err, o.talk)
	}
}

func TestWhatAKilledInitLeftIsSaid(t *testing.T) {
	s := newStand(t, simulator.Options{})
	left := filepath.Join(s.dir, prefix+"1")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	o := s.run(Options{Given: s.onPremises(), Yes: true})
	if o.err != nil || !strings.Contains(o.talk, left+" was left by a mailbell init that was killed") {
		t.Errorf("%v\n%s", o.err, o.talk)
	}
	if list, err := os.ReadDir(s.dir); err != nil || len(list) != 3 {
		t.Errorf("the folder has %v, %v", list, err)
	}
}
