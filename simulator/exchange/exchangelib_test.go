package exchange_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/simulator/exchange"
)

// python has Debian's python3-exchangelib.
const python = "/usr/bin/python3"

func TestExchangelibAsAnIndependentClient(t *testing.T) {
	if out, err := exec.Command(python, "-c", "import exchangelib").CombinedOutput(); err != nil {
		t.Skipf("%s has no exchangelib (Debian: python3-exchangelib): %s", python, out)
	}
	s, err := simulator.Start(t.Context(), simulator.Options{Mailboxes: 2, OnMessage: exchange.Collect(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/exchangelib_check.py")
	cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+ca, "EWS_URL="+s.EWSURL, "EWS_USERNAME="+s.Username, "EWS_PASSWORD="+s.Password,
		"MAILBOX="+s.Mailboxes()[0], "OTHER="+s.Mailboxes()[1], "CONTROL_URL="+s.ControlURL, "NO_PROXY=127.0.0.1", "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("exchangelib: %v", err)
	}
}
