package main_test

// mailbell behind a gateway that buffers what Exchange streams, and at a server that lets no mailboxes share a stream. These tests do what
// takes a minute by itself before they call t.Parallel, as those of a_minute_test.go.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// gateway is an nginx that ends TLS before the simulated Exchange, with a certificate that it has signed itself.
type gateway struct {
	t                           *testing.T
	program, dir, address, file string
	server                      string // the URL of the Exchange, without a path
	cmd                         *exec.Cmd
}

// newGateway returns one that does not run yet. A test without nginx is skipped.
func newGateway(t *testing.T, server string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), address: tcptest.Quiet(t), server: server}
	for _, p := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(p); err == nil {
			g.program = path
			break
		}
	}
	if g.program == "" {
		t.Skip("nginx is not installed: `make test` installs it")
	}
	g.file = filepath.Join(g.dir, "nginx.conf")
	t.Cleanup(g.stop)
	return g
}

// certify makes the gateway's certificate and key, and returns the certificate.
func (g *gateway) certify() []byte {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	c := template("127.0.0.1")
	c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		g.t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, text := range map[string][]byte{"certificate.pem": certificate, "key.pem": []byte(privateKey(g.t, key))} {
		if err := os.WriteFile(filepath.Join(g.dir, name), text, 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	return certificate
}

// start starts it, as nginx is without a word about buffering, plus these directives of the location.
func (g *gateway) start(buffering string) {
	g.t.Helper()
	config := strings.NewReplacer("$DIR", g.dir, "$ADDRESS", g.address, "$BUFFERING", buffering, "$SERVER", g.server).Replace(`
daemon off;
master_process off;
pid $DIR/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path $DIR/body;
	proxy_temp_path $DIR/proxy;
	fastcgi_temp_path $DIR/fastcgi;
	uwsgi_temp_path $DIR/uwsgi;
	scgi_temp_path $DIR/scgi;
	server {
		listen $ADDRESS ssl;
		ssl_certificate $DIR/certificate.pem;
		ssl_certificate_key $DIR/key.pem;
		location / {
			proxy_pass $SERVER;
			proxy_read_timeout 300s;
			$BUFFERING
		}
	}
}
`)
	if err := os.WriteFile(g.file, []byte(config), 0o600); err != nil {
		g.t.Fatal(err)
	}
	var said bytes.Buffer
	g.cmd = exec.Command(g.program, "-e", "stderr", "-p", g.dir, "-c", g.file)
	g.cmd.Stdout, g.cmd.Stderr = &said, &said
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	if !waitUntil(g.t.Context(), soon, func() bool {
		c, err := net.Dial("tcp", g.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		g.stop()
		g.t.Fatalf("nginx does not answer: %s", &said)
	}
}

func (g *gateway) stop() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Kill() // it may have ended by itself
	_ = g.cmd.Wait()
	g.cmd = nil
}

// behind has the service reach its Exchange through the gateway.
func (inst *installation) behind(g *gateway) {
	inst.t.Helper()
	inst.edit("  autodiscover_url: "+inst.sim.AutodiscoverURL+"\n", "  ews_url: https://"+g.address+"/EWS/Exchange.asmx\n")
	roots, err := os.ReadFile(inst.sim.CAFile)
	if err == nil {
		err = os.WriteFile(inst.sim.CAFile, append(roots, g.certify()...), 0o600)
	}
	if err != nil {
		inst.t.Fatal(err)
	}
}

// tells returns what `mailbell why` says.
func (inst *installation) tells(subject string) string {
	inst.t.Helper()
	p := launch(inst.t, "why", "--config", inst.config, subject)
	if code := p.wait(refusal); code != 0 {
		inst.t.Errorf("why %s: exit code %d: %s", subject, code, p.stderr())
	}
	return p.stdout()
}

// nginx keeps a stream to itself until a buffer is full, which takes hours. That is named with what to do, mail is late and not lost, and
// once the gateway passes on what comes, mailbell listens by itself.
func TestAStreamThatAGatewayBuffersIsNamedAndItsMailboxesArePolled(t *testing.T) {
	inst := install(t, simulator.Options{Mailboxes: 2})
	g := newGateway(t, strings.TrimSuffix(inst.sim.EWSURL, "/EWS/Exchange.asmx"))
	inst.behind(g)
	g.start("")
	inst.start()
	inst.enrolAll()
	eventually(t, time.Minute, "all are polled", func() bool { return len(inst.mailboxes("polling")) == len(inst.boxes) })
	for _, b := range inst.boxes {
		if m := inst.mailbox(b); !strings.Contains(m.Reason, "buffers it") || !strings.Contains(m.Reason, "proxy_buffering off") {
			t.Errorf("%s: reason %q, want one that tells of buffering and what to do", b.address, m.Reason)
		}
	}
	if said := inst.tells(inst.boxes[0].address); !strings.Contains(said, ": polling") || !strings.Contains(said, "proxy_buffering off") {
		t.Errorf("why says\n%s", said)
	}
	if _, status := inst.raw(http.MethodGet, "/v1/status", inst.token, nil); !strings.Contains(string(status), "proxy_buffering off") {
		t.Errorf("the status says %s", status)
	}
	inst.deliverTo(inst.boxes...)
	t.Parallel()
	if code, results, said := inst.check("--mailbox", inst.boxes[0].address); code != 1 || !slices.ContainsFunc(results, func(r result) bool {
		return r.state == "failed" && strings.Contains(r.tried+r.cameBack+r.do, "proxy_buffering off")
	}) {
		t.Errorf("check ends with %d, and says\n%s", code, said)
	}
	inst.awaitAlerts(atLast) // by the listing of each minute
	if n := len(inst.mailboxes("polling")); n != len(inst.boxes) {
		t.Errorf("%d mailboxes are polled, want all %d", n, len(inst.boxes))
	}
	g.stop()
	g.start("proxy_buffering off;")
	eventually(t, atLast, "all are listened to", func() bool { return len(inst.mailboxes("listening")) == len(inst.boxes) })
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	inst.balance(0)
}

// Behind such a gateway push notifications go another way, and mailbell finds that by itself.
func TestBehindAGatewayThatBuffersExchangeCallsBackWherePublicURLIsSet(t *testing.T) {
	inst := install(t, simulator.Options{Mailboxes: 2})
	inst.extend("public_url: " + inst.url + "\n")
	g := newGateway(t, strings.TrimSuffix(inst.sim.EWSURL, "/EWS/Exchange.asmx"))
	inst.behind(g)
	g.start("")
	inst.start()
	inst.enrolAll()
	t.Parallel()
	eventually(t, atLast, "all are listened to", func() bool { return len(inst.mailboxes("listening")) == len(inst.boxes) })
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	inst.balance(0)
}

// gromox serves of the subscriptions on a stream only those of the mailbox that it is opened as. mailbell finds that out, and says it once.
func TestAServerThatLetsNoMailboxesShareAStreamGetsAStreamForEach(t *testing.T) {
	inst := install(t, simulator.Options{Mailboxes: 12, Personality: simulator.Gromox, Heartbeat: time.Second})
	inst.start()
	inst.enrolAll()
	t.Parallel()
	said := func() int { return strings.Count(inst.service().stderr(), "the server allows one mailbox on a stream") }
	eventually(t, atLast, "it is said", func() bool { return said() > 0 })
	inst.awaitListening()
	for range 3 {
		inst.deliverTo(inst.boxes...)
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	requests := inst.sim.Counts().Requests
	if n := requests["Subscribe"]; n > 3*len(inst.boxes) { // one stream was refused, and some were under way at the second
		t.Errorf("%d Subscribes for %d mailboxes", n, len(inst.boxes))
	}
	if n := said(); n != 1 {
		t.Errorf("it is said %d times, want once", n)
	}
}
