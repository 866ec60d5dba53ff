package proxy

// The first bytes of a connection. One side may use TLS and the other plain text: a server at its connection limit answers 503 in plain
// text on its TLS port, before a handshake, and a URL may have the wrong scheme or port. crypto/tls and net/http then say that a record
// or an answer is malformed, and drop the text that arrived. This file keeps it.

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

// inTLS completes the error of a proxy that is configured with the wrong scheme.
const inTLS = "answers in TLS: is it one of the scheme https?"

// opening watches the first bytes of both sides.
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
	// The server answered and closed before the request: its answer may have arrived, and can be read.
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
		return n, err // from the proxy: the server's answers come later
	case recordHandshake:
		o.past = true
		if plainText(b[0]) {
			return 0, &mismatch{words: o.line(b[:n])}
		}
	default:
		o.past = true
		if (b[0] == recordAlert || b[0] == recordHandshake) && (n == 1 || b[1] == recordVersion) {
			if o.proxy != "" {
				return 0, proxyError(o.proxy, fault.Fix, fault.ProxyKind, inTLS, nil)
			}
			return 0, &mismatch{secure: true}
		}
	}
	return n, err
}

// plainText reports whether the first byte is not of TLS: the types of its records are control characters.
func plainText(first byte) bool {
	return ' ' <= first && first <= '~' || first == '\r' || first == '\n'
}

// line returns the line that begins with read, as far as it arrives. The timeout of the handshake bounds the wait.
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

// mismatch is the error if one side uses TLS and the other plain text.
type mismatch struct {
	secure bool   // it is the server that speaks TLS
	words  string // of a server that answers in plain text: its first line, printable
}

func (m *mismatch) Error() string {
	if m.secure {
		return "TLS where plain text was expected"
	}
	return fmt.Sprintf("plain text where TLS was expected: %q", m.words)
}

// fault types such an answer. A server that refuses the handshake as a bad HTTP request (4xx) has no TLS at this port; any other answer
// may be temporary.
func (m *mismatch) fault() *fault.Error {
	switch {
	case m.secure:
		return &fault.Error{Code: CodeSecure, Remedy: fault.Fix, After: refusedPause,
			Text: "the server has TLS at this port, and the request was plain HTTP: the URL has to begin with https://"}
	case m.refusesTLS():
		return &fault.Error{Code: CodePlain, Remedy: fault.Fix, After: refusedPause,
			Text: fmt.Sprintf("the server has HTTP without TLS at this port; it answered: %q", m.words)}
	}
	return &fault.Error{Code: CodePlain, Remedy: fault.Retry, After: shortly,
		Text: fmt.Sprintf("the server answered in plain text where TLS was expected, perhaps because it has too many connections: %q", m.words)}
}

// refusesTLS reports whether the text is a status line of an HTTP server that got something else than HTTP. Of the statuses that blame
// the client, 408 and 429 are temporary.
func (m *mismatch) refusesTLS() bool {
	fields := strings.Fields(m.words)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "HTTP/") {
		return false
	}
	status := fields[1]
	return len(status) == 3 && status[0] == '4' && status != "408" && status != "429"
}
