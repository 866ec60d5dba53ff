package apns

import (
	"context"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/authority"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon bounds every wait of a test for something that comes at once.
const soon = 20 * time.Second

const (
	topic  = "com.contoso.mail"
	keyID  = "SIM1234567"
	teamID = "CONTOSO123"
)

// service is a server that runs for one test.
type service struct {
	*Server
	url    string
	roots  *x509.CertPool
	faults *faults.Registry
}

func start(t *testing.T) *service {
	t.Helper()
	return startOn(t, func(l net.Listener) net.Listener { return l })
}

// startOn starts it on what is made of a listener.
func startOn(t *testing.T, made func(net.Listener) net.Listener) *service {
	t.Helper()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.Issue()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fs := faults.New(Faults()...)
	ctx, stop := context.WithCancel(t.Context())
	s, err := New(ctx, Options{Topic: topic, KeyID: keyID, TeamID: teamID, Faults: fs, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(made(l), certificate)
	}()
	t.Cleanup(func() {
		stop()
		fs.Close()
		l.Close()
		<-served
	})
	return &service{Server: s, url: "https://" + l.Addr().String(), roots: ca.Pool(), faults: fs}
}

func set(t *testing.T, s *service, name string, f faults.Fault) {
	t.Helper()
	if err := s.faults.Set(name, f); err != nil {
		t.Fatal(err)
	}
}

func clearFault(t *testing.T, s *service, name string) {
	t.Helper()
	if err := s.faults.Clear(name); err != nil {
		t.Fatal(err)
	}
}
