// Package proxytest has proxies for tests: the real squid and tinyproxy, started on loopback, and a SOCKS5 server. All of them want
// Username and Password, squid not for Exempt, and none of them lets anybody through to Forbidden.
package proxytest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the proxies want, and what they forbid.
const (
	Username  = "bell"
	Password  = "Hunter-2.password_9" // tinyproxy takes no other characters
	Forbidden = "forbidden.contoso.com"
	Exempt    = "127.0.0.2"
)

const (
	// users is Username and Password as htpasswd writes them.
	users = Username + ":$apr1$mailbell$xQG9.kOlHfFPTtHnA63Nd.\n"
	// attempts bounds the tries to start a program: between two processes a free port may be taken by another.
	attempts = 5
	// startTime bounds a start; both programs take a tenth of a second on an idle machine.
	startTime = 20 * time.Second
	// glance is between two looks at whether a program has started.
	glance = 10 * time.Millisecond
)

// Squid starts a squid, and returns its host:port. A test without squid is skipped.
func Squid(t testing.TB) string {
	t.Helper()
	program := find(t, "squid", "/usr/sbin/squid")
	ncsa := find(t, "basic_ncsa_auth", "/usr/lib/squid/basic_ncsa_auth", "/usr/lib64/squid/basic_ncsa_auth")
	// Squid gives up root's rights before it reads the users. What it has to say goes to standard error.
	return start(t, program, []string{"-N", "-d", "1", "-f"}, map[string]string{"users": users}, `
http_port 127.0.0.1:$PORT
pid_filename none
access_log none
cache_log /dev/null
cache_store_log none
cache deny all
cache_mem 0
coredump_dir none
hosts_file none
pinger_enable off
max_filedescriptors 4096
shutdown_lifetime 0 seconds
visible_hostname proxy.contoso.com
auth_param basic program `+ncsa+` $DIR/users
auth_param basic children 1 startup=1
auth_param basic realm mailbell
acl signed_in proxy_auth REQUIRED
acl forbidden dstdomain `+Forbidden+`
acl exempt dstdomain -n `+Exempt+`
http_access allow exempt
http_access deny !signed_in
http_access deny forbidden
http_access allow all
`)
}

// Tinyproxy starts a tinyproxy, and returns its host:port. A test without tinyproxy is skipped.
func Tinyproxy(t testing.TB) string {
	t.Helper()
	program := find(t, "tinyproxy", "/usr/bin/tinyproxy")
	return start(t, program, []string{"-d", "-c"}, map[string]string{"filter": `^forbidden\.contoso\.com$` + "\n"}, `
Port $PORT
Listen 127.0.0.1
Timeout 600
MaxClients 100
LogLevel Error
ViaProxyName "tinyproxy"
BasicAuth `+Username+` `+Password+`
Filter "$DIR/filter"
`)
}

// find returns the path of a program, which need not be in a user's PATH.
func find(t testing.TB, name string, places ...string) string {
	t.Helper()
	for _, p := range append([]string{name}, places...) {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	t.Skip(name + " is not installed: `make test` installs it")
	return ""
}

// start starts a program with its configuration in the last argument, and waits until it answers. In the configuration, $DIR
// is the folder of the files, and $PORT the port.
func start(t testing.TB, program string, args []string, files map[string]string, config string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mailbell-proxy-") // t.TempDir is closed to the user as which squid runs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	write := func(name, content string) (path string) {
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil { //nolint:gosec // as above; there is no secret in it
			t.Fatal(err)
		}
		return path
	}
	for name, content := range files {
		write(name, content)
	}
	var said string
	for range attempts {
		port := freePort(t)
		file := write("config", strings.NewReplacer("$DIR", dir, "$PORT", strconv.Itoa(port)).Replace(config))
		address := fmt.Sprintf("127.0.0.1:%d", port)
		var ready bool
		if ready, said = run(t, exec.CommandContext(context.WithoutCancel(t.Context()), program, append(args, file)...), address); ready { //nolint:gosec // it was found above
			return address
		}
	}
	t.Fatalf("%s does not start: %s", program, said)
	return ""
}

// run starts a program that ends with the test, and reports whether it answers at the address, or what it said.
func run(t testing.TB, cmd *exec.Cmd, address string) (ready bool, said string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	stop := func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-ended
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	look := time.NewTicker(glance)
	defer look.Stop()
	for {
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			c.Close()
			t.Cleanup(stop)
			return true, ""
		}
		select {
		case <-look.C:
		case <-ended:
			return false, out.String()
		case <-ctx.Done():
			stop()
			return false, out.String()
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
