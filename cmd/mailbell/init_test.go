package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/simulator"
)

func TestFromNothingToTheFirstAlert(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	inst := install(t, simulator.Options{Mailboxes: 1})
	dir := filepath.Join(inst.dir, "new's")
	b := inst.boxes[0]
	args := []string{"init", b.address, "--dir", dir, "--yes", "--autodiscover-url", inst.sim.AutodiscoverURL, "--ca-file", inst.sim.CAFile, "--username", inst.sim.Username,
		"--password-file", filepath.Join(inst.dir, "password"), "--apns-topic", inst.sim.Topic, "--apns-key", filepath.Join(inst.dir, "apns.p8"), "--apns-key-id", inst.sim.KeyID,
		"--apns-team-id", inst.sim.TeamID, "--apns-url", inst.sim.APNsURL, "--apns-ca-file", inst.sim.CAFile, "--listen", strings.TrimPrefix(inst.url, "http://")}
	first := launch(t, args...)
	if code := first.wait(atLast); code != 0 {
		t.Fatalf("init ended with %d\n%s\n%s", code, first.stdout(), first.stderr())
	}
	if again := launch(t, args...); again.wait(atLast) != 1 || again.stdout() != "" || !strings.Contains(again.stderr(), "overwrites nothing") {
		t.Errorf("a second init ended with %d:\n%s\n%s", again.code, again.stdout(), again.stderr())
	}

	inst.config = filepath.Join(dir, "mailbell.yaml")
	token, err := os.ReadFile(filepath.Join(dir, "secrets", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	inst.token = strings.TrimSpace(string(token))
	inst.start()

	_, command, found := strings.Cut(first.stdout(), curl[strings.LastIndex(curl, "/")+1:]+" -X PUT")
	command, _, ends := strings.Cut(command, "\n\n")
	if !found || !ends {
		t.Fatalf("no curl is in\n%s", first.stdout())
	}
	enrol := exec.Command("sh", "-c", "curl -s -w '%{http_code}' -X PUT"+command)
	enrol.Env = append(os.Environ(), "TOKEN="+deviceToken())
	if answer, err := enrol.CombinedOutput(); err != nil || !strings.HasSuffix(string(answer), "201") {
		t.Fatalf("the curl ended with %v: %s", err, answer)
	}
	b.devices = []string{"phone-1"} // nothing of the address: Apple sees it
	inst.awaitListening()
	inst.deliverTo(b)
	inst.balance(0)
	inst.stop()
}

func TestWithoutItsAnswersInitWritesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	p := launch(t, "init", "ann@contoso.example", "--yes", "--dir", dir, "--type", "exchange", "--ews-url", "https://127.0.0.1:1/EWS/Exchange.asmx")
	if code := p.wait(atLast); code != 2 || !strings.Contains(p.stderr(), "--username is missing") || !strings.Contains(p.stderr(), "--apns-topic is missing") {
		t.Errorf("init ended with %d:\n%s", code, p.stderr())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is there: %v", dir, err)
	}
	if p := launch(t, "init", "ann@contoso.example", "--dir", dir); p.wait(atLast) != 1 || !strings.Contains(p.stderr(), "the input ended at the question URL of the proxy") {
		t.Errorf("without input init ended with %d:\n%s", p.code, p.stderr())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is there: %v", dir, err)
	}
	for _, args := range [][]string{{"init"}, {"init", "nobody"}, {"init", "a@contoso.example", "b@contoso.example"}, {"init", "a@contoso.example", "--password", "secret"}} {
		if p := launch(t, args...); p.wait(atLast) != 2 {
			t.Errorf("%v ended with %d", args, p.code)
		}
	}
}
