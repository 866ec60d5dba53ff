package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// speaker is a server that says the same to whoever connects, piece by piece, and returns its address.
func speaker(t *testing.T, pieces ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 16<<10)) // so that closing it resets nothing
				for _, p := range pieces {
					if _, err := io.WriteString(c, p); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	return l.Addr().String()
}

func TestPlainTextOnATLSPortPassesWithinSecondsAndItsWordsAreShown(t *testing.T) {
	for name, c := range map[string]struct {
		says   []string
		words  string
		remedy fault.Remedy
		after  time.Duration
	}{
		"at its connection limit":    {[]string{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"}, `"HTTP/1.1 503 Service Unavailable"`, fault.Retry, shortly},
		"one byte at a time":         {strings.Split("HTTP/1.1 503 Service Unavailable\r\n", ""), `"HTTP/1.1 503 Service Unavailable"`, fault.Retry, shortly},
		"too many requests":          {[]string{"HTTP/1.1 429 Too Many Requests\r\n\r\n"}, "429", fault.Retry, shortly},
		"without the end of a line":  {[]string{"no more connections"}, `"no more connections"`, fault.Retry, shortly},
		"another protocol":           {[]string{"SSH-2.0-OpenSSH_9.9\r\n"}, "SSH-2.0-OpenSSH_9.9", fault.Retry, shortly},
		"a line that does not end":   {[]string{strings.Repeat("x", 1<<20)}, strings.Repeat("x", maxOpening), fault.Retry, shortly},
		"control characters":         {[]string{"HTTP/1.1 503 a\x1b[31m\x00b\r\n"}, `"HTTP/1.1 503 a [31m b"`, fault.Retry, shortly},
		"a port of HTTP without TLS": {[]string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, `"HTTP/1.1 400 Bad Request"`, fault.Fix, refusedPause},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := get(t, Settings{}, "https://"+speaker(t, c.says...))
			e := Explain("GetItem", err)
			if e.Code != CodePlain || e.Scope != fault.Server || e.Remedy != c.remedy || e.After != c.after || e.Op != "GetItem" {
				t.Errorf("%v (%v, %v, after %v)", e, e.Scope, e.Remedy, e.After)
			}
			if text := e.Error(); !strings.Contains(text, c.words) || len(text) > 1000 || strings.ContainsAny(text, "\r\n\x1b\x00") {
				t.Errorf("%d bytes: %q, want %s", len(text), text, c.words)
			}
		})
	}
}

// closed is a connection whose server has said something and is gone.
type closed struct {
	net.Conn
	said io.Reader
}

func (c closed) Read(b []byte) (int, error) { return c.said.Read(b) }
func (c closed) Write([]byte) (int, error)  { return 0, syscall.ECONNRESET }

func TestTheWordsOfAServerThatClosedBeforeItWasAskedAreShown(t *testing.T) {
	o := &opening{Conn: closed{said: strings.NewReader("HTTP/1.1 503 Service Unavailable\r\n\r\n")}}
	_, err := o.Write([]byte{recordHandshake, recordVersion, 1})
	if e := Explain("x", err); e.Code != CodePlain || e.Remedy != fault.Retry || !strings.Contains(e.Text, "503 Service Unavailable") {
		t.Errorf("%v", e)
	}
	o = &opening{Conn: closed{said: strings.NewReader("")}}
	if _, err := o.Write([]byte{recordHandshake, recordVersion, 1}); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("nothing was said: %v", err)
	}
}

func TestBytesThatAreNeitherTextNorTLSAreATLSFailure(t *testing.T) {
	_, err := get(t, Settings{}, "https://"+speaker(t, "\x80\x01\x02\x03\x04\x05\x06\x07"))
	if e := Explain("x", err); e.Code != CodeTLS {
		t.Errorf("%v", e)
	}
}

func TestAServerThatSpeaksTLSToPlainTextIsNamed(t *testing.T) {
	_, err := get(t, Settings{}, "http://"+speaker(t, "\x15\x03\x01\x00\x02\x02\x0a"))
	e := Explain("Autodiscover", err)
	if e.Code != CodeSecure || e.Scope != fault.Server || e.Remedy != fault.Fix || !strings.Contains(e.Text, "https://") {
		t.Errorf("%v", e)
	}
	// A body that looks like a record later on is no beginning.
	body, err := get(t, Settings{}, "http://"+speaker(t, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "\x15\x03\x01"))
	if err != nil || body != "\x15\x03\x01" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestPlainTextBehindAProxyIsTheServers(t *testing.T) {
	// The proxy lets through, and what is behind it answers in clear.
	address := speakerBehind(t, "HTTP/1.1 503 Service Unavailable\r\n\r\n")
	_, err := get(t, Settings{Proxy: via(t, "http://"+address)}, "https://mail.contoso.com")
	if e := Explain("x", err); e.Code != CodePlain || e.Remedy != fault.Retry || !strings.Contains(e.Text, "503 Service Unavailable") {
		t.Errorf("%v", e)
	}
}

// speakerBehind is an HTTP proxy behind which a server says something.
func speakerBehind(t *testing.T, says string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for _, answer := range []string{"HTTP/1.1 200 OK\r\n\r\n", says} {
			_, _ = c.Read(make([]byte, 16<<10))
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	return l.Addr().String()
}

func TestAProxyWithTheOtherSchemeIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		scheme, says, to string
		remedy           fault.Remedy
		want             []string
	}{
		"TLS to CONNECT":          {"http", "\x15\x03\x01\x00\x02\x02\x0a", "https://mail.contoso.com", fault.Fix, []string{"the scheme https"}},
		"TLS to a plain request":  {"http", "\x15\x03\x01\x00\x02\x02\x0a", "http://mail.contoso.com", fault.Fix, []string{"the scheme https"}},
		"plain text for good":     {"https", "HTTP/1.1 400 Bad Request\r\n\r\n", "https://mail.contoso.com", fault.Fix, []string{"the scheme http", "400 Bad Request"}},
		"plain text for a moment": {"https", "HTTP/1.1 503 Service Unavailable\r\n\r\n", "https://mail.contoso.com", fault.Wait, []string{"503 Service Unavailable"}},
	} {
		t.Run(name, func(t *testing.T) {
			address := speaker(t, c.says)
			_, err := get(t, Settings{Proxy: via(t, c.scheme+"://"+address)}, c.to)
			e := Explain("x", err)
			if e.Code != CodeProxy || e.Remedy != c.remedy || !strings.Contains(e.Text, address) {
				t.Errorf("%v (%v)", e, e.Remedy)
			}
			for _, w := range c.want {
				if !strings.Contains(e.Error(), w) {
					t.Errorf("%q is not in %q", w, e.Error())
				}
			}
		})
	}
}

func FuzzOpening(f *testing.F) {
	f.Add([]byte("HTTP/1.1 503 Service Unavailable\r\n"), true)
	f.Add([]byte("\x15\x03\x01\x00\x02\x02\x0a"), false)
	f.Fuzz(func(t *testing.T, said []byte, secure bool) {
		client, server := net.Pipe()
		var served sync.WaitGroup
		defer served.Wait()
		defer client.Close()
		served.Go(func() {
			defer server.Close()
			_, _ = server.Read(make([]byte, 1))
			_, _ = server.Write(said)
		})
		o := &opening{Conn: client}
		first := http.MethodGet
		if secure {
			first = "\x16"
		}
		_, _ = o.Write([]byte(first[:1]))
		_, err := io.Copy(io.Discard, o)
		if err == nil {
			return
		}
		if e := Explain("x", err); e.Text == "" || len(e.Error()) > 2000 {
			t.Errorf("%v", e)
		}
	})
}
