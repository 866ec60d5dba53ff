package main_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// The exit codes of DESIGN section 4, but for 0.
const (
	failed        = 1  // it ran, and something failed
	misused       = 2  // the command line is wrong
	misconfigured = 78 // the configuration is wrong
)

// refusal is how long a wrong command line or configuration may take to be refused: a second, and room for a machine that runs
// everything at once, with the race detector.
const refusal = 5 * time.Second

// refused runs mailbell, which is to end by itself in time, with this exit code and nothing on standard output. It returns what
// it said.
func refused(t *testing.T, code int, within time.Duration, args ...string) string {
	t.Helper()
	p := launch(t, args...)
	if got := p.wait(within); got != code {
		t.Errorf("mailbell %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	if took := time.Since(p.began); took > within {
		t.Errorf("mailbell %s: took %v, want at most %v", strings.Join(args, " "), took, within)
	}
	if out := p.stdout(); out != "" {
		t.Errorf("standard output: %q, want nothing", out)
	}
	return p.stderr()
}

func TestEveryMistakeOfAConfigurationIsToldAtOnceAndNothingStarts(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	listen := strings.TrimPrefix(inst.url, "http://")
	mistakes := []struct{ old, wrong, key string }{
		{"listen: " + listen + "\n", "listen: " + listen + "\nlissten: " + listen + "\n", "lissten"},                                  // an unknown key
		{"  listen_by: streaming\n", "  listen_by: telepathy\n", "exchange[0].listen_by"},                                             // no such choice
		{"  requests_per_second: 10000\n", "  requests_per_second: many\n", "exchange[0].requests_per_second"},                        // a wrong type
		{"      password_file: password\n", "      password_file: nowhere\n", "exchange[0].listener_accounts[0].basic.password_file"}, // a file that is missing
		{"  trusted_hosts:\n", "  connection_timeout: 31m\n  trusted_hosts:\n", "exchange[0].connection_timeout"},                     // over its limit
		{"    key_file: apns.p8\n", "    key_file: ca.pem\n", "apns[0].token.key_file"},                                               // a file that does not hold what it should
		{"  - name: operator\n", "  - name: mdm\n", "api.clients[1].name"},                                                            // a name given twice
		{"    role: admin\n", "    role: admin\n    token: 0123456789abcdef0123456789abcdef\n", "api.clients[1].token"},               // a secret in the file
		{"  type: exchange\n", "  type: notes\n", "exchange[0].type"},
		{"  path: mailbell.db\n", "  path: mailbell.db\n  path: other.db\n", "state.path"},                                                                        // a key given twice
		{"# Written by the mailbell simulator at its start; ports and secrets are new each time.\n", "public_url: http://bell.example/callbacks\n", "public_url"}, // a path
	}
	text := inst.configText()
	for _, m := range mistakes {
		if strings.Count(text, m.old) != 1 {
			t.Fatalf("%q is not once in\n%s", m.old, text)
		}
		text = strings.Replace(text, m.old, m.wrong, 1)
	}
	inst.write(text)

	said := refused(t, misconfigured, refusal, "run", "--config", inst.config)
	form := regexp.MustCompile(`^` + regexp.QuoteMeta(inst.config) + `:(\d+): ([^: ]+): (\S.*)$`)
	found := map[string]string{} // the line that is told, by key
	for line := range strings.Lines(said) {
		m := form.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Errorf("%q: want FILE:LINE: KEY: text", line)
			continue
		}
		if _, twice := found[m[2]]; twice {
			t.Errorf("%s is told twice", m[2])
		}
		found[m[2]] = m[1]
	}
	for _, m := range mistakes {
		key := m.key[strings.LastIndex(m.key, ".")+1:]
		want := 0
		for n, line := range strings.Split(text, "\n") {
			if strings.Contains(m.wrong, line+"\n") && strings.HasPrefix(strings.TrimLeft(line, " -"), key+":") && !strings.Contains(m.old, line+"\n") {
				want = n + 1
			}
		}
		if got := found[m.key]; got != fmt.Sprint(want) {
			t.Errorf("%s: told of line %q, want %d", m.key, got, want)
		}
		delete(found, m.key)
	}
	if len(found) > 0 {
		t.Errorf("told of more than the mistakes: %v", found)
	}
	nothingStarted(t, inst)
	if strings.Contains(said, "0123456789abcdef") {
		t.Errorf("a secret is shown:\n%s", said)
	}
}

// nothingStarted says that there is no state file, and nobody at the port.
func nothingStarted(t *testing.T, inst *installation) {
	t.Helper()
	if files, err := filepath.Glob(filepath.Join(inst.dir, "*.db*")); err != nil || len(files) > 0 {
		t.Errorf("state files were made: %v %v", files, err)
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(inst.url, "http://"))
	if err != nil {
		t.Errorf("the port is not free: %v", err)
	} else {
		l.Close()
	}
	if c := inst.sim.Counts(); len(c.Requests) > 0 || c.APNsEver > 0 {
		t.Errorf("servers were asked: %+v", c)
	}
}

func TestAConfigurationThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	for name, text := range map[string]string{
		"empty":             "",
		"not YAML":          "listen: [\n",
		"not UTF-8":         "listen: \xff\n",
		"a list":            "- listen\n",
		"a second one":      inst.configText() + "---\nlisten: 127.0.0.1:1\n",
		"a bomb of anchors": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
		"deep":              strings.Repeat("[", 100_000) + "\n",
		"huge":              "listen: " + strings.Repeat("x", 2<<20) + "\n",
	} {
		inst.write(text)
		said := refused(t, misconfigured, refusal, "run", "--config", inst.config)
		for line := range strings.Lines(said) {
			if !strings.HasPrefix(line, inst.config+":") || len(line) > 1000 {
				t.Errorf("%s: %.200q: want FILE:LINE: KEY: text", name, line)
			}
		}
		if said == "" {
			t.Errorf("%s: nothing is said", name)
		}
	}
	if err := os.Remove(inst.config); err != nil {
		t.Fatal(err)
	}
	if said := refused(t, misconfigured, refusal, "run", "--config", inst.config); !strings.HasPrefix(said, inst.config+":1: file: ") {
		t.Errorf("a file that is missing: %q", said)
	}
	nothingStarted(t, inst)
}

func TestACommandLineThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{},
		{"ring"},
		{"run", "--colour", "red"},
		{"run", "now"},
		{"run", "--config"},
		{"demo", "--mailboxes", "0"},
		{"demo", "--mailboxes", "five"},
		{"simulate", "--mailboxes", "-1"},
		{"version", "--short"},
		{"bench", "--mailboxes", "15001"},
		{"bench", "--rate", "0"},
		{"bench", "--duration", "24h", "--rate", "1000"},
		{"bench", "--state", "paper"},
		{"explain"}, {"state", "move"}, // not built yet: said, and not ignored
	} {
		if said := refused(t, misused, refusal, args...); said == "" {
			t.Errorf("mailbell %s: nothing is said", strings.Join(args, " "))
		}
	}
}

func TestASecondProcessOnTheSameStateEndsAndNamesIt(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.startWithDevices()
	second := filepath.Join(inst.dir, "second.yaml")
	text := strings.Replace(inst.configText(), strings.TrimPrefix(inst.url, "http://"), tcptest.Quiet(t), 1)
	if err := os.WriteFile(second, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	said := refused(t, failed, 5*time.Second, "run", "--config", second)
	if !strings.Contains(said, filepath.Join(inst.dir, "mailbell.db")) || strings.Count(strings.TrimSpace(said), "\n") > 0 {
		t.Errorf("said %q: want one line that names the state file", said)
	}
	inst.deliver() // the first goes on
	inst.balance(0)
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	address := strings.TrimPrefix(inst.url, "http://")
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := refused(t, failed, refusal, "run", "--config", inst.config)
	if !strings.Contains(said, address) || !strings.Contains(said, "in use") || !strings.Contains(said, "ss -ltnp") || strings.Count(strings.TrimSpace(said), "\n") > 0 {
		t.Errorf("said %q: want one line that names the address, and says what to do", said)
	}
	if c := inst.sim.Counts(); len(c.Requests) > 0 || c.APNsEver > 0 {
		t.Errorf("servers were asked: %+v", c)
	}
}
