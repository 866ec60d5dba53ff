// Package oidctest starts the oidc-provider of npm, for tests that want a strict OpenID provider or token endpoint.
package oidctest

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// oldest is the version of Node.js that it works with, though it wants 22.
	oldest = 20
	// patience is how long a start may take on a busy machine.
	patience = time.Minute
)

// Start starts a script that serves by oidc-provider, in the folder that has both, and gives it its settings. It returns the port on which that
// serves, and what the script reads further. said is called with each line that the script says after that, until the test ends. A test for
// which something is not installed is skipped.
func Start(t *testing.T, folder, script string, settings any, said func(line []byte)) (port int, in io.Writer) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a node")
	}
	out, err := exec.CommandContext(t.Context(), "node", "-p", "parseInt(process.versions.node)").Output()
	if err != nil {
		t.Skip("node is not installed: ", err)
	}
	if major, err := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || major < oldest {
		t.Skipf("node is version %s, and %d is wanted", out, oldest)
	}
	if _, err := os.Stat(filepath.Join(folder, "node_modules", "oidc-provider")); err != nil {
		t.Skip("oidc-provider is not installed: `make test` installs it where npm is")
	}
	cmd := exec.Command("node", script) //nolint:gosec,noctx // a test names the script, which ends with its standard input
	cmd.Dir = folder
	var log strings.Builder
	cmd.Stderr = &log
	to, err := cmd.StdinPipe()
	from, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, read := make(chan []byte, 1), make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(from)
		for n := 0; lines.Scan(); n++ {
			if n == 0 {
				first <- append([]byte{}, lines.Bytes()...)
				continue
			}
			said(lines.Bytes())
		}
	}()
	t.Cleanup(func() {
		to.Close() // it ends
		<-read
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("oidc-provider: %v\n%s", err, log.String())
		}
	})
	if err := json.NewEncoder(to).Encode(settings); err != nil {
		t.Fatal(err)
	}
	var started struct{ Port int }
	select {
	case line := <-first:
		if err := json.Unmarshal(line, &started); err != nil || started.Port == 0 {
			t.Fatalf("oidc-provider says %s", line)
		}
	case <-read:
		t.Fatal("oidc-provider does not start")
	case <-time.After(patience):
		t.Fatal("oidc-provider is silent")
	}
	return started.Port, to
}
