package api

// Clients that sign in by a certificate (mutual TLS). The connection shows that its peer has the key; whether the certificate is good, and
// whose it is, is decided for each request, so that the answer can say what is wrong, and a changed configuration holds for open connections.

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxVerified bounds the certificates that are remembered as good: far more than there are clients.
	maxVerified = 1000
	// maxRefused bounds those that are remembered as bad, each for refusedFor: a chain can be made so that its verification takes a third of
	// a second (crypto/tls lets 256 KiB in, crypto/x509 checks a hundred signatures), and anybody can show it, again and again over one
	// connection.
	maxRefused = 1000
	refusedFor = time.Minute
	// maxVerifying bounds the verifications at once, so that one processor core is the most that is spent on other such chains.
	maxVerifying = 1
	// maxInLine bounds the chains in line, the one under way too, so that a turn comes within seconds: a client that has hung up keeps its
	// turn, for net/http does not notice that before the body is read. Of one chain any number may be in line: one verification does for all.
	maxInLine = 16
	// maxNames is the most of a certificate's names that an answer shows, in characters.
	maxNames = 200
)

// verifier verifies certificates of clients, and remembers what came of it: a verification takes as long as a hundred comparisons of a token.
type verifier struct {
	roots  *x509.CertPool
	places chan struct{} // one is taken by each verification

	mu   sync.Mutex
	line map[[sha256.Size]byte]int      // how many requests wait for, or are at, the verification of a chain
	good map[[sha256.Size]byte]validity // by the hash of the whole chain that was shown
	bad  map[[sha256.Size]byte]badChain
}

// badChain is what is wrong with a certificate, until it is looked at again: it may be valid by then.
type badChain struct {
	problem *Problem
	until   time.Time
}

func newVerifier(roots *x509.CertPool) *verifier {
	return &verifier{roots: roots, places: make(chan struct{}, maxVerifying), line: map[[sha256.Size]byte]int{}, good: map[[sha256.Size]byte]validity{},
		bad: map[[sha256.Size]byte]badChain{}}
}

// validity is when a certificate and its authorities are all valid.
type validity struct{ from, until time.Time }

// SetAuthorities replaces the authorities that sign the certificates of clients; nil: no client signs in by one. What is remembered of
// certificates is kept where the authorities are the same.
func (a *API) SetAuthorities(roots *x509.CertPool) {
	if roots == nil {
		a.verifier.Store(nil)
		return
	}
	if v := a.verifier.Load(); v == nil || !v.roots.Equal(roots) {
		a.verifier.Store(newVerifier(roots))
	}
}

// byCertificateOf finds the caller by the certificate of its connection. ok: it has shown one.
func (a *API) byCertificateOf(r *http.Request) (who caller, ok bool, err error) {
	v := a.verifier.Load()
	if v == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return caller{}, false, nil
	}
	if err := v.verify(r.Context(), r.TLS.PeerCertificates, time.Now()); err != nil {
		return caller{}, true, err
	}
	leaf := r.TLS.PeerCertificates[0]
	var found []*caller
	callers := *a.callers.Load()
	for i := range callers {
		if callers[i].by == byCertificate && named(leaf, callers[i].certificate) {
			found = append(found, &callers[i])
		}
	}
	switch len(found) {
	case 1:
		found[0].used.Store(time.Now().UnixNano())
		return *found[0], true, nil
	case 0:
		return caller{}, true, newProblem(codeWrongCertificate, "no client of the configuration has a name of the certificate: "+namesOf(leaf))
	}
	return caller{}, true, newProblem(codeWrongCertificate, "several clients of the configuration have a name of the certificate: "+namesOf(leaf))
}

// errVerifying says that a certificate is not verified, as too many others are; nothing is known of it.
var errVerifying = newProblem("too_many_certificates", "other unknown certificates are being verified; try again")

// verify verifies a certificate, which is the first of a chain. Where it is not remembered, it waits for its turn until ctx ends. The error
// is a *Problem: errVerifying if there is no turn.
func (v *verifier) verify(ctx context.Context, chain []*x509.Certificate, now time.Time) error {
	hash := sha256.New()
	for _, c := range chain {
		hash.Write(c.Raw) // its own length is in it
	}
	var key [sha256.Size]byte
	hash.Sum(key[:0])
	if known, err := v.known(key, now); known {
		return err
	}
	if !v.enter(key) {
		return errVerifying
	}
	defer v.leave(key)
	select {
	case v.places <- struct{}{}:
		defer func() { <-v.places }()
	case <-ctx.Done():
		return errVerifying
	}
	if known, err := v.known(key, now); known { // another request has shown it meanwhile
		return err
	}
	return v.verifyAnew(key, chain, now)
}

// enter puts a request into the line; false: it is full.
func (v *verifier) enter(key [sha256.Size]byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.line[key] == 0 && len(v.line) >= maxInLine {
		return false
	}
	v.line[key]++
	return true
}

func (v *verifier) leave(key [sha256.Size]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.line[key]--
	if v.line[key] == 0 {
		delete(v.line, key)
	}
}

// known is what is remembered of a chain.
func (v *verifier) known(key [sha256.Size]byte, now time.Time) (known bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if valid, ok := v.good[key]; ok && !now.Before(valid.from) && !now.After(valid.until) {
		return true, nil
	}
	if bad := v.bad[key]; now.Before(bad.until) {
		return true, bad.problem
	}
	return false, nil
}

// verifyAnew verifies what is not remembered, and remembers it under a key.
func (v *verifier) verifyAnew(key [sha256.Size]byte, chain []*x509.Certificate, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	verified, err := chain[0].Verify(x509.VerifyOptions{Roots: v.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		p := wrongCertificate(err)
		v.mu.Lock()
		defer v.mu.Unlock()
		if len(v.bad) >= maxRefused {
			clear(v.bad)
		}
		v.bad[key] = badChain{p, now.Add(refusedFor)}
		return p
	}
	valid := validity{verified[0][0].NotBefore, verified[0][0].NotAfter}
	for _, c := range verified[0][1:] {
		if c.NotBefore.After(valid.from) {
			valid.from = c.NotBefore
		}
		if c.NotAfter.Before(valid.until) {
			valid.until = c.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.good) >= maxVerified {
		clear(v.good) // each is verified again
	}
	v.good[key] = valid
	return nil
}

// wrongCertificate says what is wrong with a certificate.
func wrongCertificate(err error) *Problem {
	detail := "the certificate cannot be verified"
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case unknown:
		detail = "the certificate is not signed by an authority of tls.client_ca_file"
	case isInvalid && invalid.Reason == x509.Expired:
		detail = fmt.Sprintf("a certificate is not valid now: %s is valid from %s to %s", shortened(invalid.Cert.Subject.String()), invalid.Cert.NotBefore.UTC().Format(time.RFC3339),
			invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case isInvalid && invalid.Reason == x509.IncompatibleUsage:
		detail = "the certificate is not for clients: its extended key usage lacks clientAuth"
	}
	return newProblem(codeWrongCertificate, detail)
}

// named says whether a certificate has a name: as DNS name, mail address or URI of its subject alternative names, or as its common name.
// Nothing else than the same name fits: * stands for itself.
func named(c *x509.Certificate, name string) bool {
	same := func(other string) bool { return strings.EqualFold(name, other) }
	return slices.ContainsFunc(c.DNSNames, same) || slices.ContainsFunc(c.EmailAddresses, same) || c.Subject.CommonName == name || slices.Contains(uris(c), name)
}

func uris(c *x509.Certificate) []string {
	list := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		list[i] = u.String()
	}
	return list
}

// namesOf are the names of a certificate in one line.
func namesOf(c *x509.Certificate) string {
	names := slices.Concat(c.DNSNames, c.EmailAddresses, uris(c))
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	if len(names) == 0 {
		return "it has none"
	}
	return shortened(fmt.Sprintf("%q", names))
}

// shortened is a text as far as an answer shows it.
func shortened(s string) string {
	if text := []rune(s); len(text) > maxNames {
		return string(text[:maxNames]) + "…"
	}
	return s
}
