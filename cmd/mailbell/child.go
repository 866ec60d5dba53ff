package main

// Processes that bench starts beside itself.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
)

// Values of bench's option state.
const (
	embeddedState = "embedded"
	redisState    = "redis"
)

const (
	// childStop is how long a process may take to stop before it is killed: longer than mailbell's own bound.
	childStop = 40 * time.Second
	// redisWait is how long a Redis without data may take to start.
	redisWait = 10 * time.Second
	// maxWhy bounds what is shown of the end of a log.
	maxWhy = 2000
)

// child is a process that was started.
type child struct {
	cmd   *exec.Cmd
	log   string // the file with what it prints
	ended chan struct{}
	err   error // how it ended, once ended is closed
}

// startSelf starts this program as another process.
func startSelf(ctx context.Context, dir string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startChild(ctx, filepath.Join(dir, "service.log"), self, args...)
}

// startChild starts a program. It is asked to stop when ctx ends.
func startChild(ctx context.Context, log, program string, args ...string) (*child, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c := &child{cmd: exec.CommandContext(ctx, program, args...), log: log, ended: make(chan struct{})} //nolint:gosec // ourselves, or the redis-server
	c.cmd.Stdout, c.cmd.Stderr = file, file
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = childStop
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

func (c *child) running() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// stop asks the process to stop, and waits for its end. The error says that it did not end well.
func (c *child) stop() error {
	if c.running() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it has ended meanwhile
	}
	late := time.AfterFunc(childStop, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	<-c.ended
	return c.why()
}

// why says how a process ended, with the end of what it printed; nil: it runs, or ended well.
func (c *child) why() error {
	if c.running() || c.err == nil || errors.Is(c.err, context.Canceled) {
		return nil
	}
	text, _ := os.ReadFile(c.log)
	text = bytes.TrimSpace(text[max(0, len(text)-maxWhy):])
	return fmt.Errorf("%s: %w\n%s", filepath.Base(c.cmd.Path), c.err, text)
}

// startRedis starts a redis-server that keeps what it is given as one in use should.
func startRedis(ctx context.Context, dir string) (c *child, address string, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, "", fmt.Errorf("a Redis is measured with a redis-server of its own: install it (Debian: redis-server), or leave out -state redis (%w)", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	address = l.Addr().String()
	l.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", err
	}
	c, err = startChild(ctx, filepath.Join(dir, "redis.log"), program, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--appendonly", "yes", "--save", "")
	if err != nil {
		return nil, "", err
	}
	for began := time.Now(); time.Since(began) < redisWait && c.running(); {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c, address, conn.Close()
		}
		if !pause.For(ctx, look) {
			break
		}
	}
	return nil, "", errors.Join(errors.New("the redis-server does not start"), c.stop())
}
