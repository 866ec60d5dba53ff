package graph_test

// Microsoft's own client of Graph, which we did not write, works against the simulated one.

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// oldestNode is what @azure/msal-node wants.
const oldestNode = 20

// nodeClient is the folder of the program.
func nodeClient(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a node")
	}
	if out, err := exec.Command("node", "-p", "parseInt(process.versions.node)").Output(); err != nil {
		t.Skip("node is not installed: ", err)
	} else if major, err := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || major < oldestNode {
		t.Skipf("node is version %s, and %d is wanted", out, oldestNode)
	}
	dir := filepath.Join("testdata", "client")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@microsoft", "microsoft-graph-client")); err != nil {
		t.Skip("@microsoft/microsoft-graph-client is not installed: `make test` installs it where npm is")
	}
	return dir
}

func TestMicrosoftsClientListsPagesBatchesSubscribesAndDecrypts(t *testing.T) {
	dir := nodeClient(t)
	files := t.TempDir()
	sim, err := simulator.Start(t.Context(), simulator.Options{Hybrid: true, Graph: true, Mailboxes: 2, Dir: files, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	certificate, key := contentCertificate(t)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(files, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	settings, err := json.Marshal(map[string]any{
		"graph": sim.GraphURL, "authority": sim.Authority, "tenant": sim.TenantID, "clientID": sim.ClientID, "secret": sim.ClientSecret,
		"control": sim.ControlURL, "mailbox": sim.Mailboxes()[1], "onPremises": sim.Mailboxes()[0],
		"certificate": read("callbacks.pem"), "key": read("callbacks.key"),
		"content": map[string]string{"certificate": certificate, "key": key},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "client.mjs")
	cmd.Dir = dir
	cmd.Env = slices.Concat(os.Environ(), []string{"NODE_EXTRA_CA_CERTS=" + filepath.Join(files, "ca.pem"), "NO_PROXY=127.0.0.1"})
	cmd.Stdin = bytes.NewReader(append(settings, '\n'))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := "list and page\nerrors\nthrottled\nbatch\nsubscribe and callback\nrenew, reauthorize, delete\ndecrypt\n"
	if string(out) != want {
		t.Errorf("done:\n%s", out)
	}
}

// contentCertificate makes a certificate for the content of notifications: DER as base64, and the key as PEM.
func contentCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "content"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
