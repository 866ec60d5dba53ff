// Package systemd tells systemd how the service is: sd_notify(3), for a unit of Type=notify or notify-reload with WatchdogSec.
package systemd

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Notifier tells systemd. Where systemd has not started the process, or its unit does not ask, it says nothing.
type Notifier struct {
	to       string // the socket of systemd; empty: nobody asks
	watchdog time.Duration

	mu     sync.Mutex
	status string // that was told last
}

// sendTimeout bounds a datagram to systemd, which reads its socket at once: nothing waits for one that does not.
const sendTimeout = time.Second

// New reads who asks from the environment of the process with this id. WATCHDOG_PID names another process where a parent was started and hands
// its environment on.
func New(getenv func(string) string, pid int) *Notifier {
	n := &Notifier{to: getenv("NOTIFY_SOCKET")}
	if n.to == "" {
		return n
	}
	if of := getenv("WATCHDOG_PID"); of != "" && of != strconv.Itoa(pid) {
		return n
	}
	if us, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 && us <= int64(time.Duration(1<<63-1)/time.Microsecond) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// Asked says whether anybody is told anything.
func (n *Notifier) Asked() bool { return n.to != "" }

// Watchdog is how long systemd waits for Alive until it ends the process; 0: it does not.
func (n *Notifier) Watchdog() time.Duration { return n.watchdog }

// Ready says that the service has started, or has reloaded.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Reloading says that a reload has begun, which Ready ends.
func (n *Notifier) Reloading() error {
	us, err := monotonic()
	if err != nil {
		return n.send("RELOADING=1")
	}
	return n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", us))
}

// Stopping says that the service is stopping.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Alive says that the service lives.
func (n *Notifier) Alive() error { return n.send("WATCHDOG=1") }

// Status says how the service is, in a line for `systemctl status`. It is sent once.
func (n *Notifier) Status(line string) error {
	line = strings.Join(strings.Fields(line), " ") // a line break would begin another variable
	n.mu.Lock()
	defer n.mu.Unlock()
	if line == n.status {
		return nil
	}
	err := n.send("STATUS=" + line)
	if err == nil {
		n.status = line
	}
	return err
}

// send opens the socket each time: a systemd that is itself started again has another behind the same name.
func (n *Notifier) send(state string) error {
	if n.to == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.to, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}
