package exchange_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/simulator/exchange"
)

// python has Debian's python3-exchangelib.
const python = "/usr/bin/python3"

// check runs exchangelib against a simulator.
func check(t *testing.T, o simulator.Options, environment ...string) {
	t.Helper()
	if out, err := exec.Command(python, "-c", "import exchangelib").CombinedOutput(); err != nil {
		t.Skipf("%s has no exchangelib (Debian: python3-exchangelib): %s", python, out)
	}
	o.Mailboxes = 2
	s, err := simulator.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/exchangelib_check.py")
	cmd.Env = slices.Concat(os.Environ(), []string{"REQUESTS_CA_BUNDLE=" + ca, "EWS_URL=" + s.EWSURL, "EWS_USERNAME=" + s.Username, "EWS_PASSWORD=" + s.Password,
		"MAILBOX=" + s.Mailboxes()[0], "OTHER=" + s.Mailboxes()[1], "CONTROL_URL=" + s.ControlURL, "NO_PROXY=127.0.0.1", "PYTHONDONTWRITEBYTECODE=1"}, environment)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("exchangelib: %v", err)
	}
}

func TestExchangelibAsAnIndependentClient(t *testing.T) {
	check(t, simulator.Options{OnMessage: exchange.Collect(t)})
}

func TestExchangelibReadsTheOtherFormOfAStreamsEnvelopes(t *testing.T) {
	check(t, simulator.Options{OnMessage: exchange.Collect(t), DefaultNamespace: true})
}

// requests_ntlm, by which exchangelib signs in, asks without the flag for NTLM, and sends the channel binding.
func TestExchangelibSignsInByNTLM(t *testing.T) {
	check(t, simulator.Options{Auth: []string{simulator.AuthNTLM}, ExtendedProtection: true}, "AUTH=ntlm")
}

func TestExchangelibUnderstandsGromox(t *testing.T) {
	check(t, simulator.Options{Personality: exchange.Gromox, Heartbeat: 200 * time.Millisecond}, "GROMOX=1")
}
