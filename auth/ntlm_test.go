package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/Azure/go-ntlmssp"
	"golang.org/x/crypto/md4" //nolint:staticcheck // what NTLM hashes a password with

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pipetest"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/simulator"
)

// peer is a server with NTLM, which verifies with code of its own.
type peer struct {
	*httptest.Server
	settings  proxy.Settings                                                       // for clients
	dial      func(ctx context.Context, network, address string) (net.Conn, error) // of clients; nil: over sockets
	passwords map[string]string                                                    // by user name
	bindings  []byte                                                               // that a sign-in must have; nil: any
	// step sees each request first: the leg is 1, 2 (an AUTHENTICATE) or 0 (on a connection that is signed in, or nothing). If it
	// returns true, it has answered.
	step func(w http.ResponseWriter, r *http.Request, leg int) bool
	then http.HandlerFunc // for who is signed in; nil: tells who it is, and the body

	mu       sync.Mutex
	conns    int // ever
	closed   chan struct{}
	signIns  int
	refusals int
	faults   []string // what no client may do
}

// peerConn is a connection.
type peerConn struct {
	who                  string
	negotiate, challenge []byte
}

type peerKey struct{}

// newPeer makes one on a socket.
func newPeer(t *testing.T) *peer {
	t.Helper()
	return newPeerAt(t, tcptest.Listen(t))
}

// newPeerInMemory makes one for a test in a synctest bubble. A test that counts connections needs it: net/http gives up a connection
// whose request it does not know to be written 50 ms after the answer, which happens on a machine that is busy with something else.
func newPeerInMemory(t *testing.T) *peer {
	t.Helper()
	return newPeerAtPort(t, 443)
}

func newPeerAtPort(t *testing.T, port int) *peer {
	t.Helper()
	l := pipetest.NewListener(net.IPv4(127, 0, 0, 1), port)
	p := newPeerAt(t, l)
	p.dial = l.Dial
	return p
}

func newPeerAt(t *testing.T, l net.Listener) *peer {
	t.Helper()
	p := &peer{passwords: map[string]string{`CONTOSO\svc-bell`: "pä:ss", "anna@contoso.com": "other"}, closed: make(chan struct{}, 1000)}
	p.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}}
	p.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, peerKey{}, &peerConn{})
	}
	p.Config.ConnState = func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			p.mu.Lock()
			p.conns++
			p.mu.Unlock()
		case http.StateClosed:
			p.closed <- struct{}{}
		}
	}
	p.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	p.settings = proxy.Settings{Roots: roots}
	hash := sha256.Sum256(p.Certificate().Raw)
	p.bindings = channelBindings(hash[:])
	t.Cleanup(func() {
		p.Close()
		for _, f := range p.faults {
			t.Error(f)
		}
	})
	return p
}

// counts returns how many connections there were, how many sign-ins, and how many of those were refused.
func (p *peer) counts() (conns, signIns, refusals int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns, p.signIns, p.refusals
}

func (p *peer) fault(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(peerKey{}).(*peerConn)
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme != "" && scheme != "NTLM" && scheme != "Negotiate" {
		p.fault("a request has the scheme %s", scheme)
	}
	message, _ := base64.StdEncoding.DecodeString(token)
	leg := 0
	if len(message) > 12 && string(message[:8]) == "NTLMSSP\x00" {
		leg = map[byte]int{1: 1, 3: 2}[message[8]]
	}
	if p.step != nil && p.step(w, r, leg) {
		return
	}
	switch {
	case leg == 1:
		if r.ContentLength != 0 || r.Header.Get("Content-Type") != "" {
			p.fault("the first leg has a body")
		}
		c.who, c.negotiate, c.challenge = "", message, newChallenge(true)
		w.Header().Set("WWW-Authenticate", scheme+" "+base64.StdEncoding.EncodeToString(c.challenge))
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "<html>401</html>")
		return
	case leg == 2:
		who, err := p.verify(c.negotiate, c.challenge, message)
		c.challenge = nil
		p.mu.Lock()
		p.signIns++
		if err != nil {
			p.refusals++
		}
		p.mu.Unlock()
		c.who = who
	}
	if c.who == "" {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		w.Header().Add("WWW-Authenticate", "NTLM")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if p.then != nil {
		p.then(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s: %s", c.who, body)
}

// newChallenge makes a CHALLENGE as a server would.
func newChallenge(timestamp bool) []byte {
	says := []pair{{2, testUTF16("CONTOSO")}, {1, testUTF16("EX01")}}
	if timestamp {
		says = append(says, pair{7, []byte{1, 2, 3, 4, 5, 6, 7, 8}})
	}
	return challengeOf(infoOf(says...))
}

// challengeOf makes a CHALLENGE with some target information.
func challengeOf(info []byte) []byte {
	random := make([]byte, 8)
	rand.Read(random)
	b := bytes.NewBufferString("NTLMSSP\x00\x02\x00\x00\x00")
	binary.Write(b, binary.LittleEndian, []uint16{14, 14, 56, 0})
	binary.Write(b, binary.LittleEndian, uint32(0xA2898205))
	b.Write(random)
	b.Write(make([]byte, 8))
	binary.Write(b, binary.LittleEndian, []uint16{uint16(len(info)), uint16(len(info)), 56 + 14, 0})
	b.Write([]byte{10, 0, 0x7C, 0x4F, 0, 0, 0, 15})
	b.Write(testUTF16("CONTOSO"))
	b.Write(info)
	return b.Bytes()
}

func testUTF16(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

func testHMAC(key []byte, data []byte) []byte {
	m := hmac.New(md5.New, key)
	m.Write(data)
	return m.Sum(nil)
}

// verify recomputes the proof, and looks at all that the proof covers.
func (p *peer) verify(negotiate, challenge, message []byte) (string, error) {
	if challenge == nil {
		p.fault("an AUTHENTICATE without a CHALLENGE")
		return "", errors.New("no challenge")
	}
	if len(message) < 88 {
		p.fault("an AUTHENTICATE of %d bytes", len(message))
		return "", errors.New("short")
	}
	field := func(at int) []byte {
		n, from := int(binary.LittleEndian.Uint16(message[at:])), int(binary.LittleEndian.Uint32(message[at+4:]))
		return message[from : from+n]
	}
	lm, response, domain, user, flags := field(12), field(20), field(28), field(36), binary.LittleEndian.Uint32(message[60:])
	if len(lm) != 0 || flags&1 == 0 || flags&(1<<30) != 0 {
		p.fault("LM %d bytes, flags %#x", len(lm), flags)
	}
	text := func(b []byte) string {
		var u []uint16
		for i := 0; i < len(b); i += 2 {
			u = append(u, uint16(b[i])|uint16(b[i+1])<<8)
		}
		return string(utf16.Decode(u))
	}
	name := text(user)
	if len(domain) > 0 {
		name = text(domain) + `\` + name
	}
	h := md4.New()
	h.Write(testUTF16(p.passwords[name]))
	key := testHMAC(h.Sum(nil), append(testUTF16(strings.ToUpper(text(user))), domain...))
	proof, blob := response[:16], response[16:]
	if want := testHMAC(key, append(slices.Clone(challenge[24:32]), blob...)); p.passwords[name] == "" || !bytes.Equal(proof, want) {
		return "", errors.New("the proof is wrong")
	}
	if !bytes.Equal(blob[8:16], []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		p.fault("the time is not the challenge's")
	}
	attributes, order := map[uint16][]byte{}, []uint16{}
	for rest := blob[28:]; ; {
		id, n := binary.LittleEndian.Uint16(rest), binary.LittleEndian.Uint16(rest[2:])
		order = append(order, id)
		attributes[id] = rest[4 : 4+n]
		rest = rest[4+n:]
		if id == 0 {
			if !bytes.Equal(rest, make([]byte, 4)) {
				p.fault("% x after the end", rest)
			}
			break
		}
	}
	if !slices.Equal(order, []uint16{2, 1, 7, 6, 9, 10, 0}) || text(attributes[2]) != "CONTOSO" || text(attributes[9]) != "HTTP/127.0.0.1" {
		p.fault("attributes %v: %x", order, attributes)
	}
	if !bytes.Equal(attributes[6], []byte{2, 0, 0, 0}) {
		p.fault("the flags are %x: no MIC is announced", attributes[6])
	}
	if flags&(1<<25) == 0 && !bytes.Equal(message[64:72], make([]byte, 8)) {
		p.fault("the version is %x, and was not negotiated", message[64:72])
	}
	bare := slices.Concat(message[:72], make([]byte, 16), message[88:])
	if mic := testHMAC(testHMAC(key, proof), slices.Concat(negotiate, challenge, bare)); !bytes.Equal(message[72:88], mic) {
		p.fault("the MIC is %x, want %x", message[72:88], mic)
	}
	if p.bindings != nil && !bytes.Equal(attributes[10], p.bindings) {
		return "", errors.New("another connection's bindings")
	}
	return name, nil
}

const testUser, testPassword = `CONTOSO\svc-bell`, "pä:ss"

// client returns a round tripper with at most n connections, which are closed at the end.
func (p *peer) client(t *testing.T, c Credential, n int) *ntlm {
	t.Helper()
	rt := c.RoundTripper(here, p.settings, n).(*ntlm)
	if p.dial != nil {
		rt.transport.DialContext = p.dial
	}
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

// post sends a request as ews does; read: it may be sent again. It returns the status and the body.
func post(ctx context.Context, rt http.RoundTripper, to string, read bool) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to+"/EWS/Exchange.asmx", strings.NewReader("<Envelope/>"))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "text/xml")
	if read {
		req.Header["X-Idempotency-Key"] = []string{}
	}
	before := req.Header.Clone()
	resp, err := rt.RoundTrip(req)
	if len(req.Header) != len(before) {
		return 0, "", fmt.Errorf("the caller's request was changed: %v", req.Header)
	}
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

const signedInAnswer = testUser + ": <Envelope/>"

func hexBytes(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The values of MS-NLMP 4.2.4.
func TestNTLMComputesTheExamplesOfTheSpecification(t *testing.T) {
	n := NTLM{Username: `Domain\User`, Password: "Password"}
	key := n.key()
	if want := hexBytes(t, "0c868a403bfd7a93a3001ef22ef02e3f"); !bytes.Equal(key, want) {
		t.Errorf("NTOWFv2 %x, want %x", key, want)
	}
	blob := hexBytes(t, "0101000000000000 0000000000000000 aaaaaaaaaaaaaaaa 00000000 02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000 00000000")
	proof := hmacMD5(key, hexBytes(t, "0123456789abcdef"), blob)
	if want := hexBytes(t, "68cd0ab851e51c96aabc927bebef6a1c"); !bytes.Equal(proof, want) {
		t.Errorf("NTProofStr %x, want %x", proof, want)
	}
	if session, want := hmacMD5(key, proof), hexBytes(t, "8de40ccadbc14a82f15cb0ad0de95ca3"); !bytes.Equal(session, want) {
		t.Errorf("SessionBaseKey %x, want %x", session, want)
	}
	if a, b := (NTLM{Username: "anna@contoso.com", Password: "p"}).key(), (NTLM{Username: `\anna@contoso.com`, Password: "p"}).key(); !bytes.Equal(a, b) {
		t.Error("an address is signed in with as it is, without a domain")
	}
}

// The example of Microsoft's Open Specifications team in "NTLM and Channel Binding Hash".
func TestTheChannelBindingIsThatOfThePublishedExample(t *testing.T) {
	got := channelBindings(hexBytes(t, "ea05fefecc6b0bd571dbbc5baa3ed45386d0446835f7b74c85621b9983475f95"))
	if want := hexBytes(t, "6586e99d81c2fc984e47172fd4dd0310"); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestACertificateIsHashedAsItsSignatureIs(t *testing.T) {
	for _, c := range []struct {
		by   x509.SignatureAlgorithm
		want int
	}{
		{x509.MD5WithRSA, 32}, {x509.SHA1WithRSA, 32}, {x509.ECDSAWithSHA1, 32}, {x509.SHA256WithRSA, 32}, {x509.SHA256WithRSAPSS, 32}, {x509.ECDSAWithSHA256, 32},
		{x509.SHA384WithRSA, 48}, {x509.SHA384WithRSAPSS, 48}, {x509.ECDSAWithSHA384, 48},
		{x509.SHA512WithRSA, 64}, {x509.SHA512WithRSAPSS, 64}, {x509.ECDSAWithSHA512, 64},
	} {
		if got := endPoint(&x509.Certificate{Raw: []byte("x"), SignatureAlgorithm: c.by}); len(got) != c.want {
			t.Errorf("%v: %d bytes, want %d", c.by, len(got), c.want)
		}
	}
	if got := hex.EncodeToString(endPoint(&x509.Certificate{Raw: []byte("abc"), SignatureAlgorithm: x509.SHA1WithRSA})); !strings.HasPrefix(got, "ba7816bf") {
		t.Errorf("SHA-256 of abc is %s", got)
	}
}

func TestAConnectionIsSignedInOnceAndTheProofHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		for _, who := range []string{testUser, "anna@contoso.com"} {
			conns, signIns, _ := p.counts()
			rt := p.client(t, NewNTLM(who, Secret(p.passwords[who])), 4)
			for range 20 {
				if status, body, err := post(t.Context(), rt, p.URL, false); status != http.StatusOK || body != who+": <Envelope/>" || err != nil {
					t.Fatalf("%d %q %v", status, body, err)
				}
			}
			if c, s, refused := p.counts(); c != conns+1 || s != signIns+1 || refused != 0 {
				t.Errorf("%d connections, %d sign-ins, %d refused", c-conns, s-signIns, refused)
			}
		}
	})
}

func TestANegotiateOfferCarriesNTLMToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
			if strings.HasPrefix(r.Header.Get("Authorization"), "NTLM") {
				w.Header().Set("WWW-Authenticate", `Negotiate, Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			return false
		}
		if status, body, err := post(t.Context(), p.client(t, NewNTLM(testUser, testPassword), 1), p.URL, false); status != http.StatusOK || body != signedInAnswer || err != nil {
			t.Fatalf("%d %q %v", status, body, err)
		}
		if c, s, _ := p.counts(); c != 1 || s != 1 {
			t.Errorf("%d connections, %d sign-ins", c, s)
		}
	})
}

func TestAServerWithoutNTLMIsNamedAndNothingWeakerIsTried(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		offers []string
		code   string
		text   string
		asked  int // how often
	}{
		"Basic alone":       {401, []string{`Basic realm="x"`}, CodeNoNTLM, "does not offer NTLM but Basic;", 1},
		"nothing":           {401, nil, CodeNoNTLM, "no sign-in at all", 1},
		"no sign-in needed": {200, nil, CodeNoNTLM, "no sign-in at all", 1},
		"Kerberos alone":    {401, []string{"Negotiate", "Basic realm=x"}, CodeNoNTLM, "Negotiate, Basic", 2},
		"SPNEGO":            {401, []string{"Negotiate YIIBAgYGKwYBBQUC"}, CodeNoNTLM, "Negotiate", 2},
		"Bearer":            {401, []string{"Bearer authorization_uri=x"}, CodeNoNTLM, "Bearer", 1},
		"no challenge":      {401, []string{"NTLM"}, CodeNTLM, "no challenge", 1},
		"broken challenge":  {401, []string{"NTLM " + base64.StdEncoding.EncodeToString([]byte("NTLMSSP\x00\x02\x00\x00\x00short"))}, CodeNTLM, "cannot be answered", 1},
		"hostile text":      {401, []string{"B\u202e" + strings.Repeat("x", 1000)}, CodeNoNTLM, "…", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeerInMemory(t)
				asked := 0
				p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
					asked++
					if leg != 1 {
						p.fault("another request: %s", r.Header)
					}
					for _, o := range c.offers {
						w.Header().Add("WWW-Authenticate", o)
					}
					w.WriteHeader(c.status)
					return true
				}
				_, _, err := post(t.Context(), p.client(t, NewNTLM(testUser, testPassword), 1), p.URL, true)
				if e := fault.Of(err); e.Code != c.code || e.Scope != fault.Account || e.Remedy != fault.Fix || !strings.Contains(e.Error(), c.text) || strings.Contains(e.Error(), "ss ") || len(e.Error()) > 400 {
					t.Errorf("%v", err)
				}
				if e := fault.Of(err); c.code == CodeNoNTLM && (e.Status != http.StatusUnauthorized || (e.Detail == fault.NoChallenge) != (len(c.offers) == 0) ||
					(len(e.Offers) == 0) != (len(c.offers) == 0)) {
					t.Errorf("the evidence is %+v", e.Evidence)
				}
				if conns, _, _ := p.counts(); conns != 1 || asked != c.asked {
					t.Errorf("it is asked %d times on %d connections: another offers no more", asked, conns)
				}
			})
		})
	}
}

func TestAnAnswerThatIsNotAboutSigningInIsReturned(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusMultipleChoices, http.StatusFound, http.StatusForbidden, http.StatusServiceUnavailable} {
		p := newPeer(t)
		p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.Header().Set("Content-Type", "text/html") // a page is none even with 200
			w.WriteHeader(status)
			io.WriteString(w, "busy")
			return true
		}
		rt := p.client(t, NewNTLM(testUser, testPassword), 1)
		for range 2 {
			if got, body, err := post(t.Context(), rt, p.URL, false); got != status || body != "busy" || err != nil {
				t.Errorf("%d %q %v", got, body, err)
			}
		}
	}
}

func TestNTLMGoesOverHTTPSOnly(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked over http") }))
	defer plain.Close()
	_, _, err := post(t.Context(), NewNTLM(testUser, testPassword).RoundTripper(here, proxy.Settings{}, 1), plain.URL, true)
	if e := fault.Of(err); e.Code != CodeHost || e.Scope != fault.Mailbox || e.Remedy != fault.Fix {
		t.Errorf("%v", err)
	}
}

func TestAWrongPasswordIsTriedAFewTimesAndNeverShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		rt := p.client(t, NewNTLM(testUser, "wrong-secret"), 8)
		statuses, held := make(chan int, 50), make(chan error, 50)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				status, _, err := post(t.Context(), rt, p.URL, true)
				statuses <- status
				if err != nil {
					held <- err
				}
			})
		}
		all.Wait()
		close(statuses)
		close(held)
		if _, signIns, refused := p.counts(); signIns != 3 || refused != 3 {
			t.Errorf("%d sign-ins, %d refused, want %d", signIns, refused, 3)
		}
		unauthorized := 0
		for s := range statuses {
			if s == http.StatusUnauthorized {
				unauthorized++
			}
		}
		if unauthorized != 3 {
			t.Errorf("%d answers 401", unauthorized)
		}
		for err := range held {
			if e := fault.Of(err); e.Code != CodeHeld || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestAProxyThatEndsTLSIsRefusedByExtendedProtection(t *testing.T) {
	for name, c := range map[string]struct {
		required bool
		status   int
	}{"required": {true, http.StatusUnauthorized}, "off": {false, http.StatusOK}} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			if !c.required {
				p.bindings = nil
			}
			front := newFront(t, p)
			rt := NewNTLM(testUser, testPassword).RoundTripper(here, front.settings, 1)
			defer rt.(*ntlm).CloseIdleConnections()
			status, _, err := post(t.Context(), rt, front.url, true)
			if status != c.status || err != nil {
				t.Errorf("%d %v, want %d", status, err, c.status)
			}
		})
	}
}

// front ends TLS with a certificate of its own, and forwards every connection to a connection of its own.
type front struct {
	url      string
	settings proxy.Settings
}

func newFront(t *testing.T, p *peer) front {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	tcptest.Serve(t, l, func(c net.Conn) {
		back, err := tls.Dial("tcp", p.Listener.Addr().String(), &tls.Config{RootCAs: p.settings.Roots, ServerName: "example.com"})
		if err != nil {
			return
		}
		defer back.Close()
		var answers sync.WaitGroup
		answers.Go(func() {
			io.Copy(c, back)
			c.Close()
		})
		io.Copy(back, c)
		back.Close()
		answers.Wait()
	})
	t.Cleanup(p.CloseClientConnections)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return front{"https://" + l.Addr().String(), proxy.Settings{Roots: roots}}
}

func TestManyRequestsShareFewConnectionsAndNeverAnIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		const most, requests = 4, 50
		var all sync.WaitGroup
		for _, who := range []string{testUser, "anna@contoso.com"} {
			rt := p.client(t, NewNTLM(who, Secret(p.passwords[who])), most)
			for range requests {
				all.Go(func() {
					if status, body, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || body != who+": <Envelope/>" || err != nil {
						t.Errorf("%s: %d %q %v", who, status, body, err)
					}
				})
			}
		}
		all.Wait()
		if conns, signIns, refused := p.counts(); conns > 2*most || signIns != conns || refused != 0 {
			t.Errorf("%d connections, %d sign-ins, %d refused", conns, signIns, refused)
		}
	})
}

// hangUp closes the connection of a request.
func hangUp(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	c.Close()
}

func TestAConnectionThatIsCutIsTriedAgainOnAFreshOne(t *testing.T) {
	closing := func(w http.ResponseWriter) { // after an answer
		w.Header().Set("Connection", "close")
		w.Header().Set("WWW-Authenticate", "NTLM "+base64.StdEncoding.EncodeToString(newChallenge(true)))
		w.WriteHeader(http.StatusUnauthorized)
	}
	for name, c := range map[string]struct {
		leg    int
		cut    func(http.ResponseWriter)
		times  int
		worked bool // the password has
		read   bool
		conns  int // that there are to be
		ok     bool
	}{
		"before the challenge":                      {1, hangUp, 1, false, false, 2, true},
		"before the challenge, twice":               {1, hangUp, 2, false, false, 3, true},
		"before the challenge, always":              {1, hangUp, 100, false, true, 3, false},
		"after the challenge":                       {1, closing, 2, false, false, 3, true},
		"after the challenge, always":               {1, closing, 100, false, true, 3, false},
		"at the request, if it reads":               {2, hangUp, 1, true, true, 2, true},
		"at the request, if it changes":             {2, hangUp, 1, true, false, 1, false},
		"at the request, always":                    {2, hangUp, 100, true, true, 3, false},
		"at the request, with an unproven password": {2, hangUp, 100, false, true, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeerInMemory(t)
				left := c.times
				p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
					p.mu.Lock()
					cut := leg == c.leg && left > 0
					if cut {
						left--
					}
					p.mu.Unlock()
					if cut {
						c.cut(w)
					}
					return cut
				}
				credential := NewNTLM(testUser, testPassword).(NTLM)
				credential.tries.proven = c.worked
				rt := p.client(t, credential, 1)
				status, body, err := post(t.Context(), rt, p.URL, c.read)
				if ok := err == nil && status == http.StatusOK && body == signedInAnswer; ok != c.ok {
					t.Errorf("%d %q %v", status, body, err)
				}
				if conns, _, _ := p.counts(); conns != c.conns {
					t.Errorf("%d connections, want %d", conns, c.conns)
				}
				if left = 0; !c.ok {
					if status, body, err := post(t.Context(), rt, p.URL, false); status != http.StatusOK || body != signedInAnswer || err != nil {
						t.Errorf("afterwards: %d %q %v", status, body, err)
					}
				}
			})
		})
	}
}

func TestADeadKeptConnectionIsReplaced(t *testing.T) {
	p := newPeer(t)
	rt := p.client(t, NewNTLM(testUser, testPassword), 1)
	for range 3 {
		if status, body, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || body != signedInAnswer || err != nil {
			t.Fatalf("%d %q %v", status, body, err)
		}
		p.CloseClientConnections() // whether the client has noticed by now or not
	}
	// One that dies as the request comes: it is sent again only if it may be.
	cut := true
	p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if cut && leg == 0 {
			cut = false
			hangUp(w)
			return true
		}
		return false
	}
	post(t.Context(), rt, p.URL, true)
	if status, body, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || body != signedInAnswer || err != nil || cut {
		t.Errorf("%d %q %v, cut %v", status, body, err, !cut)
	}
	cut = true
	if status, body, err := post(t.Context(), rt, p.URL, false); err == nil || cut {
		t.Errorf("%d %q %v, cut %v", status, body, err, !cut)
	}
}

func TestAServerThatForgetsIsSignedInToAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		rt := p.client(t, NewNTLM(testUser, testPassword), 1)
		forgotten := 0
		p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
			if leg != 0 {
				return false
			}
			forgotten++
			r.Context().Value(peerKey{}).(*peerConn).who = ""
			return false
		}
		for range 3 {
			if status, body, err := post(t.Context(), rt, p.URL, false); status != http.StatusOK || body != signedInAnswer || err != nil {
				t.Errorf("%d %q %v", status, body, err)
			}
		}
		if _, signIns, refused := p.counts(); signIns != 3 || refused != 0 || forgotten != 2 {
			t.Errorf("%d sign-ins, %d refused, forgotten %d times", signIns, refused, forgotten)
		}
		// Without a way to send the body again, the 401 stays.
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL, io.MultiReader(strings.NewReader("x")))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%v %v", resp, err)
		}
		resp.Body.Close()
	})
}

func TestAConnectionBelongsToItsAnswerUntilThatIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		next := make(chan struct{})
		p.then = func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "event")
			http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
			}
		}
		rt := p.client(t, NewNTLM(testUser, testPassword), 1)
		open := func(ctx context.Context) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			return rt.RoundTrip(req)
		}
		stream, err := open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := open(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "all 1 connections are in use") {
			t.Errorf("a second request while the first streams: %v", err)
		}
		close(next)
		if body, err := io.ReadAll(stream.Body); string(body) != "event" || err != nil {
			t.Errorf("%q %v", body, err)
		}
		stream.Body.Close()
		if conns, _, _ := p.counts(); conns != 1 {
			t.Errorf("%d connections", conns)
		}
		// Closed before its end, the connection is too.
		next = make(chan struct{})
		if stream, err = open(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream.Body.Close()
		<-p.closed
		if len(rt.idle) != 0 || len(rt.slots) != 0 {
			t.Errorf("%d idle, %d under way", len(rt.idle), len(rt.slots))
		}
	})
}

func TestWhereTheServerCannotBeReachedNobodyWaitsForTheSignInOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unreachable := &net.OpError{Op: "dial", Err: errors.New("no answer")}
		rt := NewNTLM(testUser, testPassword).RoundTripper(here, proxy.Settings{}, 64).(*ntlm)
		rt.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			<-time.After(5 * time.Second)
			return nil, unreachable
		}
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if _, _, err := post(ctx, rt, "https://127.0.0.1", true); !errors.Is(err, unreachable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

func TestCancellingEndsARequestAtAnyLeg(t *testing.T) {
	for leg, name := range []string{"on a kept connection", "before the challenge", "at the request"} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			rt := p.client(t, NewNTLM(testUser, testPassword), 1)
			if leg == 0 {
				if _, _, err := post(t.Context(), rt, p.URL, true); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := 0
			p.step = func(w http.ResponseWriter, r *http.Request, at int) bool {
				if at != leg {
					return false
				}
				io.Copy(io.Discard, r.Body) // from here on the server sees the client go
				asked++
				cancel()
				<-r.Context().Done()
				panic(http.ErrAbortHandler) // no answer, not even a late one
			}
			if _, _, err := post(ctx, rt, p.URL, true); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			<-p.closed
			if len(rt.slots) != 0 || asked != 1 {
				t.Errorf("%d under way, asked %d times", len(rt.slots), asked)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := newPeer(t)
	rt := p.client(t, NewNTLM(testUser, testPassword), 1)
	if _, _, err := post(ctx, rt, p.URL, true); !errors.Is(err, context.Canceled) || len(rt.slots) != 0 {
		t.Errorf("%v", err)
	}
}

func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		rt := p.client(t, NewNTLM(testUser, testPassword), 1)
		if rt.transport.IdleConnTimeout != (proxy.Settings{}).Transport().IdleConnTimeout || rt.transport.IdleConnTimeout <= 0 {
			t.Errorf("%v", rt.transport.IdleConnTimeout)
		}
		rt.transport.IdleConnTimeout = time.Millisecond
		if _, _, err := post(t.Context(), rt, p.URL, true); err != nil {
			t.Fatal(err)
		}
		<-p.closed
		rt.mu.Lock()
		defer rt.mu.Unlock()
		if len(rt.idle) != 0 {
			t.Errorf("%d idle", len(rt.idle))
		}
	})
}

func TestClosingIdleConnectionsClosesThoseThatComeBackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		rt := p.client(t, NewNTLM(testUser, testPassword), 2)
		if _, _, err := post(t.Context(), rt, p.URL, true); err != nil {
			t.Fatal(err)
		}
		rt.CloseIdleConnections()
		<-p.closed
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		rt.CloseIdleConnections()
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		<-p.closed
		if _, _, err := post(t.Context(), rt, p.URL, true); err != nil {
			t.Errorf("it cannot be used again: %v", err)
		}
	})
}

func TestConnectionsToAnotherHostMakeRoomWhereThereIsNone(t *testing.T) {
	for most, kept := range map[int]struct{ conns, idle int }{1: {2, 1}, 2: {1, 2}} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newPeerAtPort(t, 443), newPeerAtPort(t, 444)
				rt := a.client(t, NewNTLM(testUser, testPassword), most)
				rt.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if strings.HasSuffix(address, ":444") {
						return b.dial(ctx, network, address)
					}
					return a.dial(ctx, network, address)
				}
				for _, p := range []*peer{a, b, a} {
					if status, body, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || body != signedInAnswer || err != nil {
						t.Fatalf("%d %q %v", status, body, err)
					}
				}
				if conns, _, _ := a.counts(); conns != kept.conns || len(rt.idle) != kept.idle {
					t.Errorf("%d connections to the first, and %d are kept", conns, len(rt.idle))
				}
			})
		})
	}
}

func TestNTLMGoesThroughAProxyByCONNECT(t *testing.T) {
	p := newPeer(t)
	asked := make(chan string, 10)
	ended := make(chan struct{})
	tunnel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		asked <- r.Method + " " + r.Host + r.Header.Get("Authorization")
		back, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer back.Close()
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		var answers sync.WaitGroup
		answers.Go(func() { io.Copy(c, back) })
		io.Copy(back, c)
		back.Close()
		answers.Wait()
	}))
	defer tunnel.Close()
	s := p.settings
	s.Proxy = new(proxy.Current)
	s.Proxy.Set(must(proxy.ParseVia(tunnel.URL, "", "", nil)))
	rt := NewNTLM(testUser, testPassword).RoundTripper(here, s, 1)
	defer func() {
		rt.(*ntlm).CloseIdleConnections()
		<-ended
	}()
	for range 2 {
		if status, body, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || body != signedInAnswer || err != nil {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	if got := <-asked; got != "CONNECT "+p.Listener.Addr().String() || len(asked) != 0 {
		t.Errorf("%q and %d more", got, len(asked))
	}
}

func TestAKeptConnectionIsNotUsedOnceTheProxyHasChanged(t *testing.T) {
	p := newPeer(t)
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer closed.Close()
	var current proxy.Current
	p.settings.Proxy = &current
	rt := p.client(t, NewNTLM(testUser, testPassword), 1)
	for range 2 {
		if status, _, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || err != nil {
			t.Fatalf("%d %v", status, err)
		}
	}
	current.Set(must(proxy.ParseVia(closed.URL, "", "", nil)))
	if _, _, err := post(t.Context(), rt, p.URL, true); fault.Of(err).Code != proxy.CodeProxy {
		t.Errorf("it went around the proxy: %v", err)
	}
	current.Set(nil)
	if status, _, err := post(t.Context(), rt, p.URL, true); status != http.StatusOK || err != nil {
		t.Errorf("%d %v", status, err)
	}
}

func TestAnAnswerBeforeThePasswordWasUsedSaysNothingOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		p.step = func(w http.ResponseWriter, _ *http.Request, leg int) bool {
			w.Header().Set("Content-Type", "text/xml")
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		c := NewNTLM(testUser, testPassword).(NTLM)
		if status, _, err := post(t.Context(), p.client(t, c, 1), p.URL, true); status != http.StatusInternalServerError || err != nil {
			t.Fatal(status, err)
		}
		if c.tries.works {
			t.Error("the password is taken for right")
		}
		p.step = func(w http.ResponseWriter, _ *http.Request, leg int) bool {
			if leg == 2 {
				w.Header().Set("Content-Type", "text/xml")
				w.WriteHeader(http.StatusInternalServerError)
			}
			return leg == 2
		}
		if status, _, err := post(t.Context(), p.client(t, c, 1), p.URL, true); status != http.StatusInternalServerError || err != nil || !c.tries.works {
			t.Error(status, err, c.tries.works)
		}
	})
}

func TestABodyThatIsNeverSentIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeerInMemory(t)
		p.step = func(w http.ResponseWriter, r *http.Request, leg int) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		body := &closable{Reader: strings.NewReader("x")}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.client(t, NewNTLM(testUser, testPassword), 1).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if !body.closed {
			t.Error("it stays open")
		}
	})
}

type closable struct {
	io.Reader
	closed bool
}

func (c *closable) Close() error {
	c.closed = true
	return nil
}

func TestAChallengeWithoutATimeGetsNoMIC(t *testing.T) {
	certificate := &x509.Certificate{Raw: []byte("x")}
	for _, timestamp := range []bool{false, true} {
		message, err := NTLM{Username: testUser, Password: testPassword}.authenticate([]byte("negotiate"), newChallenge(timestamp), "ex01", certificate)
		if err != nil {
			t.Fatal(err)
		}
		// The first content stands right behind what comes before it: the fields alone, or the MIC too.
		first := slices.Min([]uint32{binary.LittleEndian.Uint32(message[24:]), binary.LittleEndian.Uint32(message[32:]), binary.LittleEndian.Uint32(message[40:])})
		if want := map[bool]uint32{false: 64, true: 88}[timestamp]; first != want {
			t.Errorf("timestamp %v: content from %d, want %d", timestamp, first, want)
		}
	}
}

// The simulator is an Exchange with a verifier of its own.
func TestNTLMSignsInToTheSimulatorsExchange(t *testing.T) {
	s, err := simulator.Start(t.Context(), simulator.Options{Mailboxes: 1, Auth: []string{simulator.AuthNTLM}, ExtendedProtection: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const getFolder = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"
		xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><s:Header><t:RequestServerVersion Version="Exchange2013_SP1"/></s:Header><s:Body><m:GetFolder>
		<m:FolderShape><t:BaseShape>Default</t:BaseShape></m:FolderShape><m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder></s:Body></s:Envelope>`
	for _, c := range []struct {
		username, password string
		want               int
	}{{s.Mailboxes()[0], s.Password, http.StatusOK}, {s.Mailboxes()[0], "wrong", http.StatusUnauthorized}} {
		rt := NewNTLM(c.username, Secret(c.password)).RoundTripper(here, proxy.Settings{Roots: s.RootCAs()}, 1).(*ntlm)
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.EWSURL, strings.NewReader(getFolder))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "text/xml; charset=utf-8")
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.want || err != nil || strings.Contains(string(body), "NoError") != (c.want == http.StatusOK) {
				t.Errorf("%d %s %v", resp.StatusCode, body, err)
			}
		}
		rt.CloseIdleConnections()
	}
}

func FuzzBind(f *testing.F) {
	certificate := &x509.Certificate{Raw: []byte("x")}
	challenge := newChallenge(true)
	f.Add(challenge)
	f.Add(newChallenge(false))
	f.Add(challenge[:50])
	f.Add(append(slices.Clone(challenge[:40]), 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF))
	f.Fuzz(func(t *testing.T, challenge []byte) {
		before := slices.Clone(challenge)
		bound, mic, err := bind(challenge, "ex01", certificate)
		if !bytes.Equal(before, challenge) {
			t.Fatal("the challenge was changed")
		}
		if err != nil {
			return
		}
		again, mic2, err := bind(bound, "ex01", certificate)
		if err != nil || mic != mic2 {
			t.Fatalf("what was bound cannot be read: %v", err)
		}
		info1, _ := fieldOf(bound, challengeInfo)
		info2, _ := fieldOf(again, challengeInfo)
		if len(info1) != len(info2) {
			t.Fatalf("%x became %x", info1, info2)
		}
		if _, err := ntlmssp.NewAuthenticateMessage(bound, "u", "p", nil); err == nil {
			if _, err := (NTLM{Username: "u", Password: "p"}).authenticate(nil, challenge, "ex01", certificate); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAChallengeIsThatOfItsScheme(t *testing.T) {
	challenge := base64.StdEncoding.EncodeToString(newChallenge(true))
	for offer, want := range map[string]bool{
		"NTLM " + challenge:                    true,
		"ntlm " + challenge:                    true,
		"Negotiate, NTLM " + challenge:         true,
		"Negotiate " + challenge:               false,
		"Negotiate " + challenge + ", NTLM":    false,
		"NTLM " + challenge + "!":              false,
		"NTLM YIIBAgYGKwYBBQUC":                false,
		`Basic realm="NTLM ` + challenge + `"`: false,
	} {
		if got := readOffers(http.Header{"Www-Authenticate": {offer}}).challenge("NTLM"); (got != nil) != want {
			t.Errorf("%s: %x", offer, got)
		}
	}
}

func FuzzReadOffers(f *testing.F) {
	f.Add("NTLM TlRMTVNTUAACAAAA")
	f.Add(`Negotiate, NTLM, Basic realm="a, b"`)
	f.Add(",, ,\x00")
	f.Fuzz(func(t *testing.T, line string) {
		got := readOffers(http.Header{"Www-Authenticate": {line}})
		if c := got.challenge("NTLM"); c != nil && !got.scheme("ntlm") {
			t.Errorf("%q: a challenge without an offer", line)
		}
		if s := got.String(); s == "" && strings.Trim(line, ", ") != "" && len(s) > 2*maxOffer {
			t.Errorf("%q: %q", line, s)
		}
	})
}
