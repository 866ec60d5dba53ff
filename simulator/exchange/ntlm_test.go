package exchange

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The values of MS-NLMP 4.2.4.
func TestNTLMVerifiesWithTheExamplesOfTheSpecification(t *testing.T) {
	key := ntlmHash("User", "Domain", "Password")
	if want := unhex(t, "0c868a403bfd7a93a3001ef22ef02e3f"); !bytes.Equal(key, want) {
		t.Errorf("NTOWFv2 %x, want %x", key, want)
	}
	blob := unhex(t, "0101000000000000 0000000000000000 aaaaaaaaaaaaaaaa 00000000 02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000 00000000")
	proof := keyed(key, unhex(t, "0123456789abcdef"), blob)
	if want := unhex(t, "68cd0ab851e51c96aabc927bebef6a1c"); !bytes.Equal(proof, want) {
		t.Errorf("NTProofStr %x, want %x", proof, want)
	}
	if session, want := keyed(key, proof), unhex(t, "8de40ccadbc14a82f15cb0ad0de95ca3"); !bytes.Equal(session, want) {
		t.Errorf("SessionBaseKey %x, want %x", session, want)
	}
}

// The example of Microsoft's Open Specifications team in "NTLM and Channel Binding Hash".
func TestTheServersChannelBindingIsThatOfThePublishedExample(t *testing.T) {
	got := bindingsOf(unhex(t, "ea05fefecc6b0bd571dbbc5baa3ed45386d0446835f7b74c85621b9983475f95"))
	if want := unhex(t, "6586e99d81c2fc984e47172fd4dd0310"); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	for by, want := range map[x509.SignatureAlgorithm]int{
		x509.SHA1WithRSA: 32, x509.SHA256WithRSA: 32, x509.ECDSAWithSHA256: 32, x509.SHA384WithRSAPSS: 48, x509.ECDSAWithSHA384: 48, x509.SHA512WithRSA: 64, x509.ECDSAWithSHA512: 64,
	} {
		if got := endPointHash(&x509.Certificate{SignatureAlgorithm: by}); len(got) != want {
			t.Errorf("%v: %d bytes, want %d", by, len(got), want)
		}
	}
}

var testNegotiate = append([]byte("NTLMSSP\x00\x01\x00\x00\x00"), append(binary.LittleEndian.AppendUint32(nil, ntlmUnicode|ntlmTarget|ntlmV|ntlmExtended|ntlmTargetInfo), make([]byte, 16)...)...)

// ntlmAnswer is what a client makes of a CHALLENGE.
type ntlmAnswer struct {
	user, domain, password string
	bindings               []byte
	mic, ascii             bool
	at                     time.Time
}

// message makes the AUTHENTICATE.
func (a ntlmAnswer) message(challenge []byte) []byte {
	info, _ := fieldAt(challenge, 40)
	info = slices.Clone(info[:len(info)-4])
	if a.mic {
		info = appendAttribute(info, attributeFlags, []byte{attributeFlagMIC, 0, 0, 0})
	}
	if a.bindings != nil {
		info = appendAttribute(info, attributeBindings, a.bindings)
	}
	info = appendAttribute(info, attributeEnd, nil)
	blob := append([]byte{1, 1, 0, 0, 0, 0, 0, 0}, binary.LittleEndian.AppendUint64(nil, windowsTime(a.at))...)
	blob = slices.Concat(blob, []byte("clientch"), make([]byte, 4), info, make([]byte, 4))
	key := ntlmHash(a.user, a.domain, a.password)
	proof := keyed(key, challenge[24:32], blob)
	encode, flags := wide, uint32(ntlmUnicode|ntlmV)
	if a.ascii {
		encode, flags = func(s string) []byte { return []byte(s) }, ntlmOEM|ntlmV
	}
	contents := [][]byte{nil, slices.Concat(proof, blob), encode(a.domain), encode(a.user), nil, nil}
	message := []byte("NTLMSSP\x00\x03\x00\x00\x00")
	from := 88
	for _, c := range contents {
		message = appendField(message, len(c), from)
		from += len(c)
	}
	message = binary.LittleEndian.AppendUint32(message, flags)
	message = append(message, make([]byte, 24)...)
	message = slices.Concat(message, slices.Concat(contents...))
	if a.mic {
		copy(message[72:], keyed(keyed(key, proof), testNegotiate, challenge, message))
	}
	return message
}

func testAccount(user string) (name, password string, ok bool) {
	if user == `CONTOSO\svc-bell` || user == "svc-bell@contoso.example" {
		return "svc", "pä:ss", true
	}
	return "", "", false
}

func TestNTLMTakesWhatIISTakesAndNothingElse(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	right := bindingsOf([]byte("the certificate"))
	other := bindingsOf([]byte("another"))
	good := ntlmAnswer{user: "svc-bell", domain: "CONTOSO", password: "pä:ss", bindings: right, mic: true, at: now}
	with := func(change func(*ntlmAnswer)) ntlmAnswer {
		a := good
		change(&a)
		return a
	}
	tamper := func(at int) func([]byte) []byte {
		return func(m []byte) []byte {
			if at < 0 {
				at += len(m)
			}
			m[at] ^= 1
			return m
		}
	}
	for _, c := range []struct {
		name       string
		protection extendedProtection
		answer     ntlmAnswer
		change     func([]byte) []byte
		want       error
	}{
		{"all right", protectionRequired, good, nil, nil},
		{"by the address", protectionRequired, with(func(a *ntlmAnswer) { a.user, a.domain = "svc-bell@contoso.example", "" }), nil, nil},
		{"without Unicode", protectionRequired, with(func(a *ntlmAnswer) { a.ascii = true }), nil, nil},
		{"no MIC", protectionRequired, with(func(a *ntlmAnswer) { a.mic = false }), nil, nil},
		{"a wrong password", protectionRequired, with(func(a *ntlmAnswer) { a.password = "x" }), nil, errProof},
		{"an unknown user", protectionRequired, with(func(a *ntlmAnswer) { a.user = "x" }), nil, errNoAccount},
		{"another domain", protectionRequired, with(func(a *ntlmAnswer) { a.domain = "OTHER" }), nil, errNoAccount},
		{"a proof that was tampered with", protectionRequired, good, tamper(88), errProof},
		{"bindings that were tampered with", protectionRequired, good, func(m []byte) []byte {
			m[bytes.Index(m, right)] ^= 1
			return m
		}, errProof},
		{"a MIC that was tampered with", protectionRequired, good, tamper(72), errMIC},
		{"flags that were tampered with", protectionRequired, good, tamper(62), errMIC},
		{"a version that was tampered with", protectionRequired, good, tamper(64), errMIC},
		{"too short for its MIC", protectionRequired, good, func(m []byte) []byte {
			short := slices.Concat(m[:64], m[88:])
			for at := 12; at < 60; at += 8 {
				binary.LittleEndian.PutUint32(short[at+4:], binary.LittleEndian.Uint32(short[at+4:])-24)
			}
			return short
		}, errMIC},
		{"required, and none", protectionRequired, with(func(a *ntlmAnswer) { a.bindings = nil }), nil, errBindings},
		{"required, and all zero", protectionRequired, with(func(a *ntlmAnswer) { a.bindings = make([]byte, 16) }), nil, errBindings},
		{"required, and another connection's", protectionRequired, with(func(a *ntlmAnswer) { a.bindings = other }), nil, errBindings},
		{"allowed, and right", protectionAllowed, good, nil, nil},
		{"allowed, and none", protectionAllowed, with(func(a *ntlmAnswer) { a.bindings = nil }), nil, nil},
		{"allowed, and all zero", protectionAllowed, with(func(a *ntlmAnswer) { a.bindings = make([]byte, 16) }), nil, nil},
		{"allowed, and another connection's", protectionAllowed, with(func(a *ntlmAnswer) { a.bindings = other }), nil, errBindings},
		{"off, and another connection's", protectionOff, with(func(a *ntlmAnswer) { a.bindings = other }), nil, nil},
		{"a clock a day off", protectionRequired, with(func(a *ntlmAnswer) { a.at = now.Add(-24 * time.Hour) }), nil, nil},
		{"a clock two days behind", protectionRequired, with(func(a *ntlmAnswer) { a.at = now.Add(-48 * time.Hour) }), nil, errTime},
		{"a clock two days ahead", protectionRequired, with(func(a *ntlmAnswer) { a.at = now.Add(48 * time.Hour) }), nil, errTime},
		{"NTLMv1", protectionRequired, good, func(m []byte) []byte {
			m[20] = 24
			m[21] = 0
			return m
		}, errMessage},
		{"a field outside", protectionRequired, good, func(m []byte) []byte {
			m[24+3] = 0xFF
			return m
		}, errMessage},
		{"nothing but the head", protectionRequired, good, func(m []byte) []byte { return m[:60] }, errMessage},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &ntlmServer{bindings: right, protection: c.protection, account: testAccount}
			challenge := newChallenge(testNegotiate, now)
			message := c.answer.message(challenge)
			if c.change != nil {
				message = c.change(message)
			}
			name, err := n.verify(testNegotiate, challenge, message, now)
			if !errors.Is(err, c.want) || c.want == nil && (err != nil || name != "svc") || c.want != nil && name != "" {
				t.Errorf("%q, %v, want %v", name, err, c.want)
			}
			if _, err := n.verify(testNegotiate, newChallenge(testNegotiate, now), message, now); err == nil {
				t.Error("it is good for another challenge")
			}
		})
	}
}

func TestAChallengeTellsTheServersNamesAndTime(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c := newChallenge(testNegotiate, now)
	target, _ := fieldAt(c, 12)
	info, _ := fieldAt(c, 40)
	attributes, ok := readAttributes(info)
	if !ok || narrow(target) != "CONTOSO" || narrow(attributes[attributeDomain]) != "CONTOSO" || narrow(attributes[attributeComputer]) != ntlmComputer ||
		narrow(attributes[attributeDNSDomain]) != Domain || narrow(attributes[attributeDNSComputer]) != mailboxServer || narrow(attributes[attributeDNSTree]) != Domain {
		t.Errorf("%q: %v", narrow(target), attributes)
	}
	// In 100 ns since 1601, which is 11 644 473 600 seconds before 1970.
	if got, want := binary.LittleEndian.Uint64(attributes[attributeTime]), uint64(now.Unix()+11_644_473_600)*10_000_000; got != want {
		t.Errorf("the time is %d, want %d", got, want)
	}
	if bytes.Equal(c[24:32], newChallenge(testNegotiate, now)[24:32]) {
		t.Error("two challenges are the same")
	}
	// Python's ntlm-auth asks so: by the extended session security, without the flag for NTLM.
	python := slices.Clone(testNegotiate)
	binary.LittleEndian.PutUint32(python[12:], binary.LittleEndian.Uint32(python[12:])&^ntlmV)
	if c := newChallenge(python, now); c == nil || binary.LittleEndian.Uint32(c[20:])&(ntlmV|ntlmExtended) != ntlmV|ntlmExtended {
		t.Errorf("to a client without the flag for NTLM: %x", c)
	}
	binary.LittleEndian.PutUint32(python[12:], ntlmUnicode)
	if newChallenge(python, now) != nil {
		t.Error("it answers a client that asks for neither kind of NTLM")
	}
	bare := slices.Clone(testNegotiate)
	bare[12] &^= ntlmUnicode
	if newChallenge(bare, now) != nil || newChallenge(testNegotiate[:15], now) != nil {
		t.Error("it answers what it cannot go on with")
	}
	bare[12] |= ntlmOEM
	c = newChallenge(bare, now)
	if target, _ = fieldAt(c, 12); string(target) != "CONTOSO" || c[20]&(ntlmUnicode|ntlmOEM) != ntlmOEM {
		t.Errorf("to a client without Unicode: %q, %x", target, c[20:24])
	}
}

// ntlmListener is a TLS server that wants NTLM and tells who signed in.
func ntlmListener(t *testing.T) *httptest.Server {
	t.Helper()
	var n *ntlmServer
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, ok := n.authenticate(w, r); ok {
			io.WriteString(w, "hello "+name)
		}
	}))
	srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return withNTLM(ctx) }
	srv.StartTLS()
	t.Cleanup(srv.Close)
	var err error
	n, err = newNTLM(srv.TLS.Certificates[0], testAccount, func(w http.ResponseWriter) {
		offerNTLM(w.Header())
		w.WriteHeader(http.StatusUnauthorized)
	})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// ntlmDialog is a connection to such a server.
type ntlmDialog struct {
	t    *testing.T
	conn *tls.Conn
	in   *bufio.Reader
}

func dialog(t *testing.T, srv *httptest.Server) *ntlmDialog {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &ntlmDialog{t, c, bufio.NewReader(c)}
}

// say sends a request with an Authorization header and returns the status, the offers, and the body.
func (d *ntlmDialog) say(authorization string) (int, []string, string) {
	d.t.Helper()
	header := ""
	if authorization != "" {
		header = "Authorization: " + authorization + "\r\n"
	}
	fmt.Fprintf(d.conn, "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n%s\r\n", header)
	resp, err := http.ReadResponse(d.in, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Values("WWW-Authenticate"), string(body)
}

// challenge goes the first leg.
func (d *ntlmDialog) challenge(scheme string) []byte {
	d.t.Helper()
	status, offers, _ := d.say(scheme + " " + base64.StdEncoding.EncodeToString(testNegotiate))
	if status != http.StatusUnauthorized || len(offers) != 1 {
		d.t.Fatalf("%d %q", status, offers)
	}
	got, token, _ := strings.Cut(offers[0], " ")
	challenge, err := base64.StdEncoding.DecodeString(token)
	if got != scheme || err != nil || ntlmType(challenge) != 2 {
		d.t.Fatalf("%q %v", offers, err)
	}
	return challenge
}

func TestNTLMSignsInAConnection(t *testing.T) {
	srv := ntlmListener(t)
	answer := ntlmAnswer{user: "svc-bell", domain: "CONTOSO", password: "pä:ss", bindings: bindingsOf(endPointHash(srv.Certificate())), mic: true, at: time.Now()}
	refused := func(what string, status int, offers []string) {
		t.Helper()
		if status != http.StatusUnauthorized || !slices.Equal(offers, []string{"Negotiate", "NTLM"}) {
			t.Errorf("%s: %d %q", what, status, offers)
		}
	}
	for _, scheme := range []string{"NTLM", "Negotiate"} {
		a, b := dialog(t, srv), dialog(t, srv)
		status, offers, _ := a.say("")
		refused("nothing", status, offers)
		challenge := a.challenge(scheme)
		proof := scheme + " " + base64.StdEncoding.EncodeToString(answer.message(challenge))

		status, offers, _ = b.say(proof)
		refused("the answer on another connection", status, offers)
		b.challenge(scheme)
		status, offers, _ = b.say(proof)
		refused("the answer to another challenge", status, offers)

		if status, _, body := a.say(proof); status != http.StatusOK || body != "hello svc" {
			t.Errorf("%d %q", status, body)
		}
		for range 2 {
			if status, _, body := a.say(""); status != http.StatusOK || body != "hello svc" {
				t.Errorf("afterwards: %d %q", status, body)
			}
		}
		status, offers, _ = b.say("")
		refused("another connection", status, offers)
		status, offers, _ = a.say(proof)
		refused("the answer again", status, offers)
		status, offers, _ = a.say("")
		refused("after a refusal", status, offers)
	}
}

func TestNTLMRefusesWhatIsNoNTLM(t *testing.T) {
	srv := ntlmListener(t)
	d := dialog(t, srv)
	for _, a := range []string{"Basic eDp5", "NTLM", "NTLM !!", "NTLM AAAA", "Negotiate YIIBAgYGKwYBBQUC", "Bearer x", "NTLM " + base64.StdEncoding.EncodeToString(make([]byte, maxNTLM+1))} {
		if status, offers, _ := d.say(a); status != http.StatusUnauthorized || len(offers) != 2 {
			t.Errorf("%.20s: %d %q", a, status, offers)
		}
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	challenge := newChallenge(testNegotiate, now)
	n := &ntlmServer{bindings: bindingsOf(nil), account: testAccount}
	for _, domain := range []string{"CONTOSO", "OTHER"} {
		// None of them has the challenge's answer.
		m := ntlmAnswer{user: "svc-bell", domain: domain, password: "x", bindings: bindingsOf(nil), mic: true, at: now}.message(challenge)
		f.Add(m)
		f.Add(m[:64])
		f.Add(m[:100])
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		before := slices.Clone(message)
		if name, err := n.verify(testNegotiate, challenge, message, now); err == nil {
			t.Fatalf("%q has signed in", name)
		}
		if !bytes.Equal(before, message) {
			t.Fatal("the message was changed")
		}
		if c := newChallenge(message, now); c != nil && ntlmType(c) != 2 {
			t.Fatal("no challenge")
		}
	})
}
