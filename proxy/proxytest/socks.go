package proxytest

// A SOCKS5 server.

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/mailbell/mailbell/internal/tcptest"
)

// SOCKS is a SOCKS5 server (RFC 1928) with user name and password (RFC 1929), CONNECT and host names alone.
type SOCKS struct {
	Address string // host:port

	mu    sync.Mutex
	asked []string
	reply byte
	names map[string]string
}

// Replies of RFC 1928 section 6.
const (
	NotAllowed      = 2
	HostUnreachable = 4
)

const (
	socks5          = 5
	signIn          = 2    // the method user name and password
	noMethod        = 0xff // none of the methods
	hostNameAddress = 3
	connect         = 1
)

// StartSOCKS starts a server.
func StartSOCKS(t testing.TB) *SOCKS {
	t.Helper()
	l := tcptest.Listen(t)
	s := &SOCKS{Address: l.Addr().String(), names: make(map[string]string)}
	tcptest.Serve(t, l, func(c net.Conn) { s.serve(t.Context(), c) })
	return s
}

// Refuse has the server refuse with a reply from now on; 0: it connects.
func (s *SOCKS) Refuse(reply byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = reply
}

// Resolve says at which host:port a host:port is.
func (s *SOCKS) Resolve(target, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[target] = address
}

// Asked lists the targets that were asked for, by who signed in.
func (s *SOCKS) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *SOCKS) serve(ctx context.Context, c net.Conn) {
	target, err := accept(c)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, target)
	reply, address := s.reply, target
	if a, ok := s.names[target]; ok {
		address = a
	}
	s.mu.Unlock()
	if host, _, err := net.SplitHostPort(target); err == nil && host == Forbidden {
		reply = NotAllowed
	}
	var server net.Conn
	if reply == 0 {
		if server, err = (&net.Dialer{}).DialContext(ctx, "tcp", address); err != nil {
			reply = HostUnreachable
		}
	}
	if _, err := c.Write([]byte{socks5, reply, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil || reply != 0 {
		if server != nil {
			server.Close()
		}
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, server) // one side's end is the other's
		c.Close()
	})
	_, _ = io.Copy(server, c)
	server.Close()
	back.Wait()
}

// accept signs a client in and returns the host:port that it asks for.
func accept(c net.Conn) (string, error) {
	methods, err := counted(c, 1) // the version before it
	if err != nil {
		return "", err
	}
	if !slices.Contains(methods, signIn) {
		_, _ = c.Write([]byte{socks5, noMethod})
		return "", errors.New("no method")
	}
	if _, err := c.Write([]byte{socks5, signIn}); err != nil {
		return "", err
	}
	user, err := counted(c, 1)
	if err != nil {
		return "", err
	}
	password, err := counted(c, 0)
	if err != nil {
		return "", err
	}
	if string(user) != Username || string(password) != Password {
		_, _ = c.Write([]byte{1, 1})
		return "", errors.New("wrong password")
	}
	if _, err := c.Write([]byte{1, 0}); err != nil {
		return "", err
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return "", err
	}
	if head[1] != connect {
		return "", errors.New("not CONNECT")
	}
	var host string
	if head[3] == hostNameAddress {
		name, err := counted(c, 0)
		if err != nil {
			return "", err
		}
		host = string(name)
	} else {
		ip := make(net.IP, map[byte]int{1: net.IPv4len, 4: net.IPv6len}[head[3]])
		if _, err := io.ReadFull(c, ip); err != nil {
			return "", err
		}
		host = ip.String()
	}
	var port [2]byte
	if _, err := io.ReadFull(c, port[:]); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), nil
}

// counted reads a field that begins with its length, after so many bytes before it.
func counted(c net.Conn, before int) ([]byte, error) {
	head := make([]byte, before+1)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	field := make([]byte, head[before])
	_, err := io.ReadFull(c, field)
	return field, err
}
