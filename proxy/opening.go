package proxy

// How a connection begins. One side may speak TLS where the other speaks plain text: a server at its connection limit answers 503 in
// clear on its TLS port, before any handshake, and a URL may have the wrong scheme or port. crypto/tls and net/http then say that a record or an
// answer is malformed, and drop the words that came. They are kept here.

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	"github.com/mailbell/mailbell/internal/fault"
)

// The first byte of a TLS record (RFC 8446 section 5.1), and the second, which is the same in every version.
const (
	recordAlert     = 0x15
	recordHandshake = 0x16
	recordVersion   = 0x03
)

// maxOpening bounds what is read of plain text where TLS was expected: its first line, as far as an error shows it.
const maxOpening = maxText

// inTLS is what a proxy does of which the configuration has the wrong scheme.
const inTLS = "answers in TLS: is it one of the scheme https?"

// opening watches what the first bytes of both sides are.
type opening struct {
	net.Conn
	wrote atomic.Uint32 // the first byte of what was written last; net/http reads and writes at the same time
	past  bool          // the beginning is over
	proxy string        // through which it goes, and which answers what is not TLS; "": none
}

// Write implements net.Conn.
func (o *opening) Write(b []byte) (int, error) {
	if len(b) > 0 {
		o.wrote.Store(uint32(b[0]))
	}
	n, err := o.Conn.Write(b)
	if err == nil || len(b) == 0 || b[0] != recordHandshake || o.past {
		return n, err
	}
	// A server that answered and closed before it was asked: what it said may have come, and can be read.
	if _, said := o.Read(make([]byte, maxOpening)); said != nil {
		if m, ok := errors.AsType[*mismatch](said); ok {
			return n, m
		}
	}
	return n, err
}

// Read implements net.Conn.
func (o *opening) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if o.past || n == 0 {
		return n, err
	}
	switch o.wrote.Load() {
	case askConnect, askSOCKS, askSOCKSAuth:
		return n, err // of the proxy: the server begins behind it
	case recordHandshake:
		o.past = true
		if plainText(b[0]) {
			return 0, &mismatch{words: o.line(b[:n])}
		}
	default:
		o.past = true
		if (b[0] == recordAlert || b[0] == recordHandshake) && (n == 1 || b[1] == recordVersion) {
			if o.proxy != "" {
				return 0, proxyError(o.proxy, fault.Fix, inTLS, nil)
			}
			return 0, &mismatch{secure: true}
		}
	}
	return n, err
}

// plainText reports whether something begins so that is no TLS: the types of records are control characters.
func plainText(first byte) bool {
	return ' ' <= first && first <= '~' || first == '\r' || first == '\n'
}

// line returns the line that begins with read, as far as it comes. The handshake's time bounds how long that may take.
func (o *opening) line(read []byte) string {
	line := bytes.TrimLeft(read, "\r\n")
	line = append(make([]byte, 0, maxOpening), line[:min(len(line), maxOpening)]...)
	for !bytes.Contains(line, []byte("\n")) && len(line) < maxOpening {
		n, err := o.Conn.Read(line[len(line):cap(line)])
		line = line[:len(line)+n]
		if n == 0 || err != nil {
			break
		}
	}
	first, _, _ := bytes.Cut(line, []byte("\n"))
	return Printable(string(first), maxOpening)
}

// mismatch is one side that speaks TLS and one that speaks plain text.
type mismatch struct {
	secure bool   // it is the server that speaks TLS
	words  string // of a server that speaks plain text: its first line, printable
}

func (m *mismatch) Error() string {
	if m.secure {
		return "TLS where plain text was expected"
	}
	return fmt.Sprintf("plain text where TLS was expected: %q", m.words)
}

// fault types what a server answers so. One that refuses what it was sent as HTTP (4xx) has no TLS at this port; all else may be said in passing.
func (m *mismatch) fault() *fault.Error {
	switch {
	case m.secure:
		return &fault.Error{Code: CodeSecure, Remedy: fault.Fix, After: parked,
			Text: "the server speaks TLS at this port, and it was asked in plain HTTP: the URL should begin with https://"}
	case m.refusesTLS():
		return &fault.Error{Code: CodePlain, Remedy: fault.Fix, After: parked,
			Text: fmt.Sprintf("the server speaks HTTP without TLS at this port; it says: %q", m.words)}
	}
	return &fault.Error{Code: CodePlain, Remedy: fault.Retry, After: shortly,
		Text: fmt.Sprintf("the server answers in plain text where TLS was expected, as one does that has too many connections; it says: %q", m.words)}
}

// refusesTLS reports whether the words are a status line with which a server of HTTP answers to what is none. Of those that blame the client, 408 and 429 pass.
func (m *mismatch) refusesTLS() bool {
	fields := strings.Fields(m.words)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "HTTP/") {
		return false
	}
	status := fields[1]
	return len(status) == 3 && status[0] == '4' && status != "408" && status != "429"
}
