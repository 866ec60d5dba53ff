package push

// This file is how a connection to APNs is made: by net/http, which knows the proxy and TLS, and hands it over before it says anything.

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"github.com/mailbell/mailbell/proxy"
)

// opener is asked by net/http for the HTTP/2 connection to whose server it has dialled: through the proxy, and with TLS. It keeps what was
// dialled, and net/http does nothing more with it.
type opener struct{ dialled net.Conn }

// connect connects as a transport would, up to and with TLS.
func connect(ctx context.Context, t *http.Transport, scheme, host string) (net.Conn, error) {
	o := &opener{}
	t = t.Clone()
	t.TLSClientConfig.NextProtos = []string{"h2"}
	// With this key there, net/http registers nothing of its own. It is asked for connections of a pool only, and there is none.
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{"h2": func(string, *tls.Conn) http.RoundTripper { return o }}
	t.RegisterProtocol("https", o)
	if _, err := proxy.ClientConn(ctx, t, scheme, host); err != nil {
		return nil, err
	}
	return o.dialled, nil
}

// NewClientConn is what net/http asks whoever is registered for https (newClientConner in its clientconn.go).
func (o *opener) NewClientConn(c net.Conn, _ func()) (http.RoundTripper, error) {
	o.dialled = c
	return o, nil
}

var errNoClient = errors.New("requests go by connections")

// The methods that net/http wants of a connection (genericClientConn there). It calls none but Available.

func (o *opener) RoundTrip(*http.Request) (*http.Response, error) { return nil, errNoClient }
func (o *opener) Close() error                                    { return nil }
func (o *opener) Err() error                                      { return errNoClient }
func (o *opener) Reserve() error                                  { return errNoClient }
func (o *opener) Release()                                        {}
func (o *opener) Available() int                                  { return 0 }
func (o *opener) InFlight() int                                   { return 0 }
