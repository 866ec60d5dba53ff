package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/simulator"
)

// What one installation exports another takes, and again without a change; what is wrong is named by its line.
func TestDevicesGoFromOneInstallationToAnother(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 20})
	inst.start()
	var lines strings.Builder
	const devices = 2000
	for i := range devices {
		fmt.Fprintf(&lines, "{\"id\": \"phone-%04d\", \"mailbox\": %q, \"token\": %q}\n", i, inst.boxes[i%len(inst.boxes)].address, deviceToken())
	}
	file := filepath.Join(t.TempDir(), "devices")
	run := func(want int, args ...string) (out, log string) {
		t.Helper()
		p := launch(t, args...)
		if code := p.wait(atLast); code != want {
			t.Errorf("mailbell %s: exit code %d, want %d: %s", args[0], code, want, p.stderr())
		}
		return p.stdout(), p.stderr()
	}
	imports := func(text string, code int) (out, log string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return run(code, "import", "--config", inst.config, file)
	}
	if out, log := imports(lines.String(), 0); out != "2000 devices: 2000 new, 0 changed or the same, 0 refused\n" || log != "" {
		t.Errorf("%s%s", out, log)
	}
	if out, log := imports("{\"id\": \"x\", \"mailbox\": \"nobody@fabrikam.example\", \"token\": \"00\"}\nnonsense\n"+lines.String(), 1); !strings.HasPrefix(out, "2002 devices: 0 new, 2000 changed or the same, 2 refused\n") ||
		!strings.Contains(log, "line 1 x: token: want the device token in hex") || !strings.Contains(log, "line 2: the body is not JSON") {
		t.Errorf("%s%s", out, log)
	}
	if short, _ := run(0, "export", "--config", inst.config); strings.Count(short, "\n") != devices || strings.Contains(short, "token") {
		t.Errorf("%d lines, %.200s", strings.Count(short, "\n"), short)
	}
	all, _ := run(0, "export", "--config", inst.config, "--tokens")

	other := install(t, simulator.Options{Mailboxes: 20})
	other.start()
	inst = other
	if out, log := imports(all, 0); out != "2000 devices: 2000 new, 0 changed or the same, 0 refused\n" {
		t.Errorf("%s%s", out, log)
	}
	other.stop()
	if _, log := imports(all, 1); !strings.Contains(log, "is it running") {
		t.Errorf("without a service: %s", log)
	}
}

// The copy of a state is made while mailbell works, and another installation goes on with it.
func TestTheStateIsBackedUpWhileMailbellRunsAndRestored(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	inst.startWithDevices()
	copied := filepath.Join(t.TempDir(), "copy")
	run := func(want int, args ...string) string {
		t.Helper()
		p := launch(t, append(args, "--config", inst.config)...)
		if code := p.wait(atLast); code != want {
			t.Errorf("mailbell %v: exit code %d, want %d", args, code, want)
		}
		return p.stdout() + p.stderr()
	}
	inst.deliver()
	inst.awaitAlerts(atLast)
	run(0, "healthy")
	if said := run(0, "state", "backup", copied); !strings.Contains(said, "is a copy of the state") {
		t.Error(said)
	}
	run(1, "state", "backup", copied) // it is there
	run(1, "state", "restore", copied)
	inst.stop()
	run(1, "healthy")
	run(0, "state", "backup", copied+"-2")
	if err := os.Remove(filepath.Join(inst.dir, "mailbell.db")); err != nil {
		t.Fatal(err)
	}
	if said := run(0, "state", "restore", copied); !strings.Contains(said, "is in place") {
		t.Error(said)
	}
	inst.start()
	inst.awaitListening()
	inst.deliver()
	inst.balance(0)
}

// The health check of a container asks for what needs no token, so it needs no client that has one.
func TestAServiceWhoseClientsHaveCertificatesOnlyIsSeenToBeHealthy(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := template("mailbell")
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	inst.secret("tls.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	inst.secret("tls.key", privateKey(t, key))
	before, _, _ := strings.Cut(inst.configText(), "api:\n")
	inst.write(before + "api: {clients: [{name: mdm, role: enrol, certificate: mdm.contoso.example}]}\ntls: {cert_file: tls.pem, key_file: tls.key, client_ca_file: tls.pem}\n")
	launch(t, "run", "--config", inst.config)
	healthy := func() bool { return launch(t, "healthy", "--config", inst.config).wait(atLast) == 0 }
	eventually(t, soon, "mailbell is healthy", healthy)
	inst.edit("cert_file: tls.pem", "cert_file: nowhere.pem")
	if !healthy() {
		t.Error("with a mistake in tls it is not")
	}
}

// Whoever starts what is not healthy anew would have the service end that its old configuration keeps, and the new one could not start.
func TestAServiceThatRunsOnItsOldConfigurationIsHealthy(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.start()
	right := inst.configText()
	for name, text := range map[string]string{
		"a key that is none":   right + "lissten: 127.0.0.1:1\n",
		"not YAML":             right + "alerts: {\n",
		"a file that is away":  strings.Replace(right, "password_file: password", "password_file: nowhere", 1),
		"tls, after a restart": right + "tls: {cert_file: ca.pem, key_file: ca.key}\n",
	} {
		inst.write(text)
		p := launch(t, "healthy", "--config", inst.config)
		if code := p.wait(atLast); code != 0 {
			t.Errorf("%s: exit code %d, want 0: %s", name, code, p.stderr())
		}
	}
	inst.write(right + "lissten: 127.0.0.1:1\n")
	inst.stop()
	if code := launch(t, "healthy", "--config", inst.config).wait(atLast); code != 1 {
		t.Errorf("where no service runs: exit code %d, want 1", code)
	}
}
