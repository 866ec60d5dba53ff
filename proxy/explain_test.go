package proxy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

const day = 24 * time.Hour

// signed is a certificate with its key.
type signed struct {
	*x509.Certificate
	key crypto.Signer
}

// issue has a certificate signed by issuer; nil: by itself.
func issue(t *testing.T, issuer *signed, c x509.Certificate) *signed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.BasicConstraintsValid = big.NewInt(1), true
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-day)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(30 * day)
	}
	if issuer == nil {
		issuer = &signed{&c, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, issuer.Certificate, key.Public(), issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signed{made, key}
}

func authority(name string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
}

func leaf(names ...string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: "exchange"}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

func TestWhatIsWrongWithACertificateIsSaidInWords(t *testing.T) {
	now := time.Now().UTC()
	root := issue(t, nil, authority("Contoso Root"))
	between := issue(t, root, authority("Contoso Issuing"))
	late := authority("Contoso Issuing 2019")
	late.NotBefore, late.NotAfter = now.Add(-60*day), now.Add(-3*day)
	expiredBetween := issue(t, root, late)
	roots := x509.NewCertPool()
	roots.AddCert(root.Certificate)
	expired, early, other, client, nameless, many := leaf("mail.contoso.com"), leaf("mail.contoso.com"), leaf("mail.contoso.com"), leaf("mail.contoso.com"), leaf(), leaf(strings.Split(strings.Repeat("a.contoso.com ", 9)+"z", " ")...)
	expired.NotBefore, expired.NotAfter = now.Add(-60*day), now.Add(-2*day)
	early.NotBefore = now.Add(2 * day)
	loopback := other.IPAddresses
	other.IPAddresses, many.IPAddresses, nameless.IPAddresses = nil, nil, nil
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	today := now.Format(time.DateOnly)
	for name, c := range map[string]struct {
		chain []*signed
		want  []string
	}{
		"expired":            {[]*signed{issue(t, root, expired)}, []string{"it expired on " + expired.NotAfter.Format(time.DateOnly), "this machine's clock says " + today}},
		"not yet valid":      {[]*signed{issue(t, root, early)}, []string{"it is not yet valid, but from " + early.NotBefore.Format(time.DateOnly) + " on", "clock says " + today + ": is it right?"}},
		"another host":       {[]*signed{issue(t, root, other)}, []string{"127.0.0.1 was asked for, and the certificate is for mail.contoso.com"}},
		"no name":            {[]*signed{issue(t, root, nameless)}, []string{"127.0.0.1 was asked for, and the certificate is for no host name"}},
		"many names":         {[]*signed{issue(t, root, many)}, []string{"is for a.contoso.com, a.contoso.com, a.contoso.com, a.contoso.com, a.contoso.com and 5 more"}},
		"not for servers":    {[]*signed{issue(t, root, client)}, []string{"it is not meant for servers"}},
		"another authority":  {[]*signed{issue(t, issue(t, nil, authority("Fabrikam Root")), leaf())}, []string{`issued by "CN=Fabrikam Root"`, "its authority is unknown: put the certificate of the one that issued it into ca_file"}},
		"issued by itself":   {[]*signed{issue(t, nil, leaf())}, []string{"it was issued by itself", "ca_file"}},
		"a missing link":     {[]*signed{issue(t, between, leaf())}, []string{`issued by "CN=Contoso Issuing"`, "or let the server send those in between"}},
		"an expired link":    {[]*signed{issue(t, expiredBetween, leaf()), expiredBetween}, []string{`the certificate of the authority "CN=Contoso Issuing 2019"`, "expired on " + late.NotAfter.Format(time.DateOnly)}},
		"words that are bad": {[]*signed{issue(t, nil, x509.Certificate{Subject: pkix.Name{CommonName: "a\r\nb\x1b" + strings.Repeat("x", 3000)}, IPAddresses: loopback})}, []string{"issued by itself"}},
	} {
		t.Run(name, func(t *testing.T) {
			shown := tls.Certificate{PrivateKey: c.chain[0].key}
			for _, s := range c.chain {
				shown.Certificate = append(shown.Certificate, s.Raw)
			}
			srv, _ := server(t, &tls.Config{Certificates: []tls.Certificate{shown}})
			_, err := get(t, Settings{Roots: roots}, srv.URL)
			e := Explain("GetItem", err)
			if e.Code != CodeCertificate || e.Remedy != fault.Fix || e.Scope != fault.Server {
				t.Errorf("%v", e)
			}
			leaf := c.chain[0]
			for _, w := range append(c.want, "the server's certificate ", leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly), "is not trusted") {
				if !strings.Contains(e.Text, w) {
					t.Errorf("%q is not in %q", w, e.Text)
				}
			}
			if text := e.Error(); len(text) > 2000 || strings.ContainsAny(text, "\r\n\x1b") {
				t.Errorf("%d bytes: %q", len(text), text)
			}
		})
	}
	// A chain that is complete and in time is trusted.
	good := issue(t, between, leaf())
	srv, _ := server(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{good.Raw, between.Raw}, PrivateKey: good.key}}})
	var chain []*x509.Certificate
	if _, err := get(t, Settings{Roots: roots, Seen: func(_ string, c []*x509.Certificate) { chain = c }}, srv.URL); err != nil {
		t.Fatal(err)
	}
	if len(chain) != 3 || !chain[0].Equal(good.Certificate) || !chain[2].Equal(root.Certificate) {
		t.Errorf("%d certificates were seen, want the server's, the one between and the root", len(chain))
	}
}

func TestOfSeveralChainsTheOneThatLastsLongestIsSeen(t *testing.T) {
	now := time.Now()
	until := func(d time.Duration) *x509.Certificate { return &x509.Certificate{NotAfter: now.Add(d)} }
	short, long := []*x509.Certificate{until(9 * day), until(3 * day)}, []*x509.Certificate{until(9 * day), until(5 * day), until(7 * day)}
	// A server is trusted as long as any of its chains is.
	var seen []*x509.Certificate
	s := Settings{Seen: func(_ string, c []*x509.Certificate) { seen = c }}
	if err := s.tell(tls.ConnectionState{ServerName: "mail.contoso.com", VerifiedChains: [][]*x509.Certificate{short, long, short}}); err != nil || len(seen) != len(long) {
		t.Errorf("%d certificates, %v, want the chain that lasts longest", len(seen), err)
	}
}
