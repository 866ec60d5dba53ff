package apns

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

const deviceToken = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// jwt signs a provider token.
func jwt(t *testing.T, s *service, kid, team string, issued time.Time) string {
	t.Helper()
	block, _ := pem.Decode(s.KeyPEM())
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return signJWT(t, key.(*ecdsa.PrivateKey), kid, team, issued)
}

func signJWT(t *testing.T, key *ecdsa.PrivateKey, kid, team string, issued time.Time) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"`+kid+`"}`)) + "." +
		base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":"%s","iat":%d}`, team, issued.Unix()))
	sum := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func pushClient(t *testing.T, s *service) *http.Client {
	t.Helper()
	var h2 http.Protocols
	h2.SetHTTP2(true)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, Protocols: &h2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

type push struct {
	method, path, body string
	header             map[string]string
}

func goodPush(t *testing.T, s *service) push {
	return push{"POST", "/3/device/" + deviceToken, `{"aps":{"alert":"hi"}}`, map[string]string{
		"authorization": "bearer " + jwt(t, s, keyID, teamID, time.Now()), "apns-topic": topic, "apns-push-type": "alert",
		"apns-id": "123e4567-e89b-12d3-a456-42661417400a", "apns-collapse-id": "c", "apns-priority": "10", "apns-expiration": "0"}}
}

func (p push) with(header, value string) push {
	h := map[string]string{}
	maps.Copy(h, p.header)
	h[header] = value
	if value == "" {
		delete(h, header)
	}
	p.header = h
	return p
}

func (p push) request(ctx context.Context, t *testing.T, s *service) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, p.method, s.url+p.path, strings.NewReader(p.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range p.header {
		r.Header.Set(k, v)
	}
	return r
}

func (p push) send(t *testing.T, s *service, c *http.Client) (status int, reason string, header http.Header) {
	t.Helper()
	resp, err := c.Do(p.request(t.Context(), t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Reason    string
		Timestamp int64
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
	}
	if (resp.StatusCode == 410) != (answer.Timestamp > 0) {
		t.Errorf("%d with the timestamp %d", resp.StatusCode, answer.Timestamp)
	}
	return resp.StatusCode, answer.Reason, resp.Header
}

func TestPushIsTakenOrRefusedInApplesWords(t *testing.T) {
	s := start(t)
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := goodPush(t, s)
	at := func(path string) push { p := good; p.path = path; return p }
	body := func(b string) push { p := good; p.body = b; return p }
	bearer := func(kid, team string, issued time.Time) push {
		return good.with("authorization", "bearer "+jwt(t, s, kid, team, issued))
	}
	large := func(p push, size int) push { p.body = `{"a":"` + strings.Repeat("x", size-8) + `"}`; return p }
	voip := good.with("apns-push-type", "voip").with("apns-topic", topic+".voip")
	get := good
	get.method = "GET"
	gone := strings.Repeat("ab", 32)
	s.Unregister(gone, time.Now().Add(-time.Hour))
	for name, tc := range map[string]struct {
		p      push
		status int
		reason string
	}{
		"good":                      {good, 200, ""},
		"without optional headers":  {good.with("apns-id", "").with("apns-collapse-id", "").with("apns-priority", "").with("apns-expiration", ""), 200, ""},
		"a payload at its limit":    {large(good, maxPayload), 200, ""},
		"a payload over its limit":  {large(good, maxPayload+1), 413, "PayloadTooLarge"},
		"a payload far over it":     {body(strings.Repeat("x", 300_000)), 413, "PayloadTooLarge"},
		"no payload":                {body(""), 400, "PayloadEmpty"},
		"a payload that is no JSON": {body("hello"), 400, "PayloadEmpty"},
		"no token":                  {good.with("authorization", ""), 403, "MissingProviderToken"},
		"another scheme":            {good.with("authorization", "basic abc"), 403, "MissingProviderToken"},
		"a token that is none":      {good.with("authorization", "bearer a.b.c"), 403, "InvalidProviderToken"},
		"a token of another key":    {good.with("authorization", "bearer "+signJWT(t, otherKey, keyID, teamID, time.Now())), 403, "InvalidProviderToken"},
		"a token of another key id": {bearer("OTHER", teamID, time.Now()), 403, "InvalidProviderToken"},
		"a token of another team":   {bearer(keyID, "OTHER", time.Now()), 403, "InvalidProviderToken"},
		"an old token":              {bearer(keyID, teamID, time.Now().Add(-61*time.Minute)), 403, "ExpiredProviderToken"},
		"a token of tomorrow":       {bearer(keyID, teamID, time.Now().Add(24*time.Hour)), 403, "InvalidProviderToken"},
		"no topic":                  {good.with("apns-topic", ""), 400, "MissingTopic"},
		"another topic":             {good.with("apns-topic", "com.other"), 400, "TopicDisallowed"},
		"a topic that is none":      {good.with("apns-topic", "com contoso"), 400, "BadTopic"},
		"no push type":              {good.with("apns-push-type", ""), 400, "InvalidPushType"},
		"a voip push":               {voip, 200, ""},
		"one that is too large":     {large(voip, maxVoIPPayload+1), 413, "PayloadTooLarge"},
		"one at its limit":          {large(voip, maxVoIPPayload), 200, ""},
		"one to the app":            {voip.with("apns-topic", topic), 400, "TopicDisallowed"},
		"an alert to the voip app":  {good.with("apns-topic", topic+".voip"), 400, "TopicDisallowed"},
		"a background push":         {good.with("apns-push-type", "background").with("apns-priority", "5"), 200, ""},
		"a loud one":                {good.with("apns-push-type", "background"), 400, "BadPriority"},
		"a bad priority":            {good.with("apns-priority", "7"), 400, "BadPriority"},
		"a bad expiration":          {good.with("apns-expiration", "soon"), 400, "BadExpirationDate"},
		"a bad id":                  {good.with("apns-id", "123"), 400, "BadMessageId"},
		"a collapse id at its end":  {good.with("apns-collapse-id", strings.Repeat("c", 64)), 200, ""},
		"a long collapse id":        {good.with("apns-collapse-id", strings.Repeat("c", 65)), 400, "BadCollapseId"},
		"a short device token":      {at("/3/device/0011"), 400, "BadDeviceToken"},
		"a token that is not hex":   {at("/3/device/" + strings.Repeat("xy", 32)), 400, "BadDeviceToken"},
		"a device token of 200":     {at("/3/device/" + strings.Repeat("a", 200)), 200, ""},
		"a device token of 202":     {at("/3/device/" + strings.Repeat("a", 202)), 400, "BadDeviceToken"},
		"no device token":           {at("/3/device/"), 400, "MissingDeviceToken"},
		"another path":              {at("/4/device/" + deviceToken), 404, "BadPath"},
		"another method":            {get, 405, "MethodNotAllowed"},
		"an unregistered device":    {at("/3/device/" + strings.ToUpper(gone)), 410, "Unregistered"},
	} {
		status, reason, header := tc.p.send(t, s, pushClient(t, s))
		if status != tc.status || reason != tc.reason {
			t.Errorf("%s: %d %s, want %d %s", name, status, reason, tc.status, tc.reason)
		}
		id := header.Get("apns-id")
		if want := tc.p.header["apns-id"]; want != "" && id != want || want == "" && !guid.Valid(id) {
			t.Errorf("%s: answered with the apns-id %q", name, id)
		}
		list := s.Alerts(0)
		last := list[len(list)-1]
		if last.Status != tc.status || last.Reason != tc.reason || last.N != len(list) || !json.Valid(last.Payload) || last.Headers["apns-topic"] != tc.p.header["apns-topic"] {
			t.Errorf("%s: recorded as %+v", name, last)
		}
		if _, err := json.Marshal(last); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, v := range last.Headers {
			if strings.Contains(v, "bearer") {
				t.Errorf("%s: the provider token is recorded", name)
			}
		}
	}
}

// failing is a listener whose first Accept fails.
type failing struct {
	net.Listener
	failed atomic.Bool
}

func (l *failing) Accept() (net.Conn, error) {
	if l.failed.CompareAndSwap(false, true) {
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestAnErrorOfAcceptIsNotTheEnd(t *testing.T) {
	s := startOn(t, func(l net.Listener) net.Listener { return &failing{Listener: l} })
	if status, _, _ := goodPush(t, s).send(t, s, pushClient(t, s)); status != 200 {
		t.Errorf("%d", status)
	}
}

func TestTokenThatChangesTooOftenSpoilsItsConnection(t *testing.T) {
	s := start(t)
	c := pushClient(t, s)
	p := goodPush(t, s)
	young := p.with("authorization", "bearer "+jwt(t, s, keyID, teamID, time.Now().Add(-time.Minute)))
	old := p.with("authorization", "bearer "+jwt(t, s, keyID, teamID, time.Now().Add(-30*time.Minute)))
	for _, step := range []struct {
		p      push
		status int
	}{{old, 200}, {p, 200}, {young, 429}, {p, 429}} {
		if status, reason, _ := step.p.send(t, s, c); status != step.status || status == 429 && reason != "TooManyProviderTokenUpdates" {
			t.Errorf("%d %s, want %d", status, reason, step.status)
		}
	}
	if status, _, _ := p.send(t, s, pushClient(t, s)); status != 200 {
		t.Errorf("%d on a new connection", status)
	}
}

func TestAConnectionIsOfNoUseAfterAnInternalErrorOrATokenThatIsTooOld(t *testing.T) {
	s := start(t)
	good := goodPush(t, s)
	old := good.with("authorization", "bearer "+jwt(t, s, keyID, teamID, time.Now().Add(-61*time.Minute)))
	for name, tc := range map[string]struct {
		fault  faults.Fault
		p      push
		status int
		reason string
	}{
		"an internal error":  {faults.Fault{Count: 1}, good, 500, "InternalServerError"},
		"a token by a fault": {faults.Fault{Count: 1, Reason: "ExpiredProviderToken"}, good, 403, "ExpiredProviderToken"},
		"a token":            {faults.Fault{Count: 1, Token: "ab"}, old, 403, "ExpiredProviderToken"},
	} {
		set(t, s, apnsAnswer, tc.fault)
		c := pushClient(t, s)
		for _, p := range []push{tc.p, good, good} {
			if status, reason, _ := p.send(t, s, c); status != tc.status || reason != tc.reason {
				t.Errorf("%s: %d %s", name, status, reason)
			}
		}
		if status, reason, _ := good.send(t, s, pushClient(t, s)); status != 200 {
			t.Errorf("%s: %d %s on another connection", name, status, reason)
		}
	}
	set(t, s, apnsAnswer, faults.Fault{Token: deviceToken})
	c, other := pushClient(t, s), good
	other.path = "/3/device/" + strings.Repeat("cd", 32)
	for i, p := range []push{good, other} {
		if status, reason, _ := p.send(t, s, c); (status == 200) != (i == 1) {
			t.Errorf("a fault of one device, device %d: %d %s", i, status, reason)
		}
	}
}

// frames is a client at the level of frames.
type frames struct {
	t    *testing.T
	s    *service
	conn *tls.Conn
	*http2.Framer
	next uint32
}

func dialFrames(t *testing.T, s *service, settings ...http2.Setting) *frames {
	t.Helper()
	return dialOffering(t, s, []string{"h2"}, settings...)
}

// dialOffering is dialFrames with other offers in ALPN.
func dialOffering(t *testing.T, s *service, protocols []string, settings ...http2.Setting) *frames {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{RootCAs: s.roots, NextProtos: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(soon))
	io.WriteString(conn, http2.ClientPreface)
	f := &frames{t: t, s: s, conn: conn, Framer: http2.NewFramer(conn, conn), next: 1}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.WriteSettings(settings...)
	return f
}

// push sends a request and returns its stream.
func (f *frames) push(p push) uint32 {
	f.t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range [][2]string{{":method", p.method}, {":scheme", "https"}, {":path", p.path}, {":authority", "x"}} {
		e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	for k, v := range p.header {
		e.WriteField(hpack.HeaderField{Name: k, Value: v})
	}
	id := f.next
	f.next += 2
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true})
	f.WriteData(id, true, []byte(p.body))
	return id
}

// until reads to the first frame that fits; settings are acknowledged.
func (f *frames) until(fits func(http2.Frame) bool) http2.Frame {
	f.t.Helper()
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			f.t.Fatal(err)
		}
		if s, ok := fr.(*http2.SettingsFrame); ok && !s.IsAck() {
			f.WriteSettingsAck()
		}
		if fits(fr) {
			return fr
		}
	}
}

// ends reads to the end of the connection, which has to be a clean one.
func (f *frames) ends() {
	f.t.Helper()
	for {
		if _, err := f.ReadFrame(); err == io.EOF {
			return
		} else if err != nil {
			f.t.Fatalf("the connection ends with %v", err)
		}
	}
}

func maxStreamsOf(fr http2.Frame) (uint32, bool) {
	if s, ok := fr.(*http2.SettingsFrame); ok && !s.IsAck() {
		return s.Value(http2.SettingMaxConcurrentStreams)
	}
	return 0, false
}

func limitIs(n uint32) func(http2.Frame) bool {
	return func(fr http2.Frame) bool { v, ok := maxStreamsOf(fr); return ok && v == n }
}

func answerOf(id uint32, status string) func(http2.Frame) bool {
	return func(fr http2.Frame) bool {
		h, ok := fr.(*http2.MetaHeadersFrame)
		return ok && h.StreamID == id && h.PseudoValue("status") == status
	}
}

func TestStreamLimitIsOneUntilAPushIsAcceptedAndAgainAfterARefusal(t *testing.T) {
	s := start(t)
	f := dialFrames(t, s)
	f.until(limitIs(1))
	good := goodPush(t, s)
	bad := good
	bad.path = "/3/device/00"
	f.until(answerOf(f.push(bad), "400"))
	id := f.push(good)
	f.until(limitIs(1000)) // before the answer
	f.until(answerOf(id, "200"))
	id = f.push(bad)
	f.until(limitIs(1))
	f.until(answerOf(id, "400"))
	f.until(func(fr http2.Frame) bool { d, ok := fr.(*http2.DataFrame); return ok && d.StreamEnded() })
	if err := s.faults.Set(apnsStall, faults.Fault{}); err != nil {
		t.Fatal(err)
	}
	first := f.push(good)
	f.push(good)
	g := f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if g.LastStreamID != first || g.ErrCode != http2.ErrCodeRefusedStream || string(g.DebugData()) != "Maximum active streams violated for this endpoint" {
		t.Errorf("GOAWAY %d %v %q", g.LastStreamID, g.ErrCode, g.DebugData())
	}
	f.push(good)
	if err := s.faults.Clear(apnsStall); err != nil {
		t.Fatal(err)
	}
	f.until(answerOf(first, "200"))
	f.ends()
	if n := s.Counts().RefusedStreams; n != 1 || len(s.Alerts(0)) != 4 {
		t.Errorf("%d refused streams are counted, %d alerts", n, len(s.Alerts(0)))
	}
}

func TestStandardClientOverManyStreamsLosesNothing(t *testing.T) {
	s := start(t)
	c := pushClient(t, s)
	p := goodPush(t, s)
	p.send(t, s, c) // opens the limit
	p.body = `{"a":"` + strings.Repeat("x", 3000) + `"}`
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				if status, reason, _ := p.send(t, s, c); status != 200 {
					t.Errorf("%d %s", status, reason)
				}
			}
		})
	}
	wg.Wait()
	if n := s.Counts(); n.Accepted != 1001 || n.Ever != 1 || n.RefusedStreams != 0 {
		t.Errorf("%+v", n)
	}
}

func TestAClientThatOffersNoProtocolIsTakenAtItsPreface(t *testing.T) {
	s := start(t)
	f := dialOffering(t, s, nil) // as aioapns: HTTP/2 with prior knowledge
	f.until(answerOf(f.push(goodPush(t, s)), "200"))
	address := strings.TrimPrefix(s.url, "https://")
	for offer, protocols := range map[string][]string{"HTTP/1.1": {"http/1.1"}, "nothing": nil} {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: s.roots, NextProtos: protocols})
		if err != nil {
			continue // refused in the handshake
		}
		conn.SetDeadline(time.Now().Add(soon))
		io.WriteString(conn, "POST /3/device/00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		answer, _ := io.ReadAll(conn) // how it ends is the system's
		conn.Close()
		if bytes.Contains(answer, []byte("HTTP/1.1 200")) {
			t.Errorf("a client that offers %s is answered in HTTP/1.1", offer)
		}
	}
}

func TestFlowControlIsHonoured(t *testing.T) {
	s := start(t)
	f := dialFrames(t, s, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
	bad := goodPush(t, s)
	bad.path = "/3/device/00"
	id := f.push(bad)
	var body []byte
	for done := false; !done; {
		d := f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.DataFrame); return ok }).(*http2.DataFrame)
		if len(d.Data()) > 3 {
			t.Fatalf("%d bytes into a window of 3", len(d.Data()))
		}
		body = append(body, d.Data()...)
		done = d.StreamEnded()
		f.WriteWindowUpdate(id, 3)
	}
	if string(body) != `{"reason":"BadDeviceToken"}` {
		t.Errorf("the body came as %q", body)
	}
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	id = f.push(bad)
	f.until(answerOf(id, "400"))
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100}) // opens the windows of open streams too
	f.until(func(fr http2.Frame) bool { d, ok := fr.(*http2.DataFrame); return ok && d.StreamEnded() })

	// What the client sends is bounded as well.
	flood := dialFrames(t, s)
	flood.until(limitIs(1))
	var b bytes.Buffer
	hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":method", Value: "POST"})
	hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":path", Value: "/3/device/" + deviceToken})
	hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":scheme", Value: "https"})
	flood.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes(), EndHeaders: true})
	flood.WriteData(1, false, make([]byte, 16<<10))
	flood.until(func(fr http2.Frame) bool {
		r, ok := fr.(*http2.RSTStreamFrame)
		return ok && r.ErrCode == http2.ErrCodeNo
	})
}

func TestPingIsAnsweredAlsoInAStall(t *testing.T) {
	s := start(t)
	if err := s.faults.Set(apnsStall, faults.Fault{}); err != nil {
		t.Fatal(err)
	}
	f := dialFrames(t, s)
	id := f.push(goodPush(t, s))
	f.WritePing(false, [8]byte{1, 2, 3})
	p := f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.PingFrame); return ok }).(*http2.PingFrame)
	if !p.IsAck() || p.Data != [8]byte{1, 2, 3} {
		t.Errorf("PING came back as %v", p)
	}
	if n := len(s.Alerts(0)); n != 0 {
		t.Errorf("%d alerts were taken in a stall", n)
	}
	if err := s.faults.Clear(apnsStall); err != nil {
		t.Fatal(err)
	}
	f.until(answerOf(id, "200"))
}

func TestStallEndsByItself(t *testing.T) {
	s := start(t)
	if err := s.faults.Set(apnsStall, faults.Fault{Seconds: 0.05}); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := goodPush(t, s).send(t, s, pushClient(t, s)); status != 200 {
		t.Errorf("%d after the stall", status)
	}
}

func TestRequestThatTheClientTookBackInAStallIsNotTaken(t *testing.T) {
	s := start(t)
	if err := s.faults.Set(apnsStall, faults.Fault{}); err != nil {
		t.Fatal(err)
	}
	f := dialFrames(t, s)
	id := f.push(goodPush(t, s))
	f.WriteRSTStream(id, http2.ErrCodeCancel)
	f.WritePing(false, [8]byte{1})
	f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.PingFrame); return ok })
	if err := s.faults.Clear(apnsStall); err != nil {
		t.Fatal(err)
	}
	f.until(answerOf(f.push(goodPush(t, s)), "200"))
	if n := len(s.Alerts(0)); n != 1 {
		t.Errorf("%d alerts", n)
	}
}

func TestCutLosesAnswersOfAlertsThatWereTaken(t *testing.T) {
	s := start(t)
	if err := s.faults.Set(apnsCut, faults.Fault{Count: 1}); err != nil {
		t.Fatal(err)
	}
	c := pushClient(t, s)
	p := goodPush(t, s)
	if resp, err := c.Do(p.request(t.Context(), t, s)); err == nil {
		resp.Body.Close()
		t.Fatalf("the answer came: %d", resp.StatusCode)
	}
	if status, _, _ := p.send(t, s, c); status != 200 {
		t.Errorf("%d on the next connection", status)
	}
	list := s.Alerts(0)
	if len(list) != 2 || !list[0].Accepted() || !list[0].Cut || list[1].Cut {
		t.Errorf("recorded as %+v", list)
	}
	if err := s.faults.Set(apnsDelay, faults.Fault{Seconds: 60}); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := c.Do(p.request(t.Context(), t, s))
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	if _, err := s.WaitAlerts(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := s.faults.Set(apnsCut, faults.Fault{}); err != nil { // at once
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the answer came through the cut")
	}
	waitFor(t, "the mark of a cut", func() bool { return s.Alerts(2)[0].Cut })
}

func TestAnswersAndDelaysByFault(t *testing.T) {
	s := start(t)
	c := pushClient(t, s)
	p := goodPush(t, s)
	other := p
	other.path = "/3/device/" + strings.Repeat("cd", 32)
	if err := s.faults.Set(apnsAnswer, faults.Fault{Token: strings.ToUpper(deviceToken), Status: 429, Reason: "TooManyRequests", Count: 2}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{429, 429, 200} {
		if status, _, _ := p.send(t, s, c); status != want {
			t.Errorf("push %d: %d, want %d", i, status, want)
		}
		if status, _, _ := other.send(t, s, c); status != 200 {
			t.Errorf("another device: %d", status)
		}
	}
	if err := s.faults.Set(apnsAnswer, faults.Fault{Share: 0.5, Status: 429}); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 200 {
		if status, reason, _ := p.send(t, s, c); status == 429 && reason == "TooManyRequests" {
			refused++
		}
	}
	if refused < 60 || refused > 140 {
		t.Errorf("a share of 0.5 met %d of 200", refused)
	}
	if err := s.faults.Clear(apnsAnswer); err != nil {
		t.Fatal(err)
	}
	if err := s.faults.Set(apnsDelay, faults.Fault{Seconds: 0.05}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if status, _, _ := p.send(t, s, c); status != 200 || time.Since(began) < 50*time.Millisecond {
		t.Errorf("%d after %v", status, time.Since(began))
	}
}

func TestGoAwayAnswersWhatIsOpenAndClosesThen(t *testing.T) {
	s := start(t)
	if err := s.faults.Set(apnsStall, faults.Fault{}); err != nil {
		t.Fatal(err)
	}
	f := dialFrames(t, s)
	f.until(limitIs(1))
	id := f.push(goodPush(t, s))
	f.WritePing(false, [8]byte{1})
	f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.PingFrame); return ok })
	if err := s.faults.Set(apnsGoAway, faults.Fault{}); err != nil {
		t.Fatal(err)
	}
	g := f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if g.LastStreamID != id || g.ErrCode != http2.ErrCodeNo || string(g.DebugData()) != `{"reason":"Shutdown"}` {
		t.Errorf("GOAWAY %d %v %q", g.LastStreamID, g.ErrCode, g.DebugData())
	}
	if err := s.faults.Clear(apnsStall); err != nil {
		t.Fatal(err)
	}
	f.until(answerOf(id, "200"))
	f.ends()
	c := pushClient(t, s)
	for range 20 { // a client that uses GOAWAY rightly loses nothing
		if status, _, _ := goodPush(t, s).send(t, s, c); status != 200 {
			t.Errorf("%d", status)
		}
		if err := s.faults.Set(apnsGoAway, faults.Fault{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoAwayThatClosesLosesTheAnswersInFlight(t *testing.T) {
	s := start(t)
	f := dialFrames(t, s)
	f.until(limitIs(1))
	f.until(answerOf(f.push(goodPush(t, s)), "200"))
	set(t, s, apnsDelay, faults.Fault{Seconds: 60})
	id := f.push(goodPush(t, s))
	if _, err := s.WaitAlerts(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	set(t, s, apnsGoAwayClose, faults.Fault{})
	g := f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if g.LastStreamID != id || g.ErrCode != http2.ErrCodeNo {
		t.Errorf("GOAWAY %d %v", g.LastStreamID, g.ErrCode)
	}
	if fr, err := f.ReadFrame(); err != io.EOF {
		t.Errorf("behind GOAWAY came %v, %v", fr, err)
	}
	// The answer before may have lain unread in the client's socket, where a reset discards it.
	waitFor(t, "the marks of a cut", func() bool { return s.Alerts(0)[0].Cut && s.Alerts(0)[1].Cut })
	clearFault(t, s, apnsDelay)
	if status, _, _ := goodPush(t, s).send(t, s, pushClient(t, s)); status != 200 {
		t.Errorf("%d on a new connection", status)
	}
}

func TestDeadConnectionIsNeitherReadNorWrittenNorClosed(t *testing.T) {
	s := start(t)
	f := dialFrames(t, s)
	f.until(limitIs(1))
	f.until(answerOf(f.push(goodPush(t, s)), "200"))
	set(t, s, apnsDead, faults.Fault{})
	f.WritePing(false, [8]byte{1})
	f.push(goodPush(t, s))
	f.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if fr, err := f.ReadFrame(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a dead connection said %v, %v", fr, err)
	}
	if status, _, _ := goodPush(t, s).send(t, s, pushClient(t, s)); status != 200 {
		t.Errorf("%d on a new connection", status)
	}
	if n := s.Counts().Open; n != 2 {
		t.Errorf("%d connections are open, want the dead one and the new one", n)
	}
	for _, name := range []string{apnsGoAway, apnsGoAwayClose} {
		set(t, s, name, faults.Fault{}) // reaches the living only
	}
	waitFor(t, "the end of the new connection", func() bool { return s.Counts().Open == 1 })
	clearFault(t, s, apnsDead)
	waitFor(t, "the end of the dead connection", func() bool { return s.Counts().Open == 0 })
	if list := s.Alerts(0); len(list) != 2 {
		t.Errorf("%d alerts, want none from the dead connection", len(list)-2)
	}
	dialFrames(t, s).until(limitIs(1))
	waitFor(t, "a connection", func() bool { return s.Counts().Open == 1 })
	set(t, s, apnsDead, faults.Fault{Seconds: 0.05})
	waitFor(t, "the end by itself", func() bool { return s.Counts().Open == 0 })
}

func TestAnAnswerThatDiesWithItsConnectionBeforeItIsSentIsLost(t *testing.T) {
	s := start(t)
	f := dialFrames(t, s)
	f.until(limitIs(1))
	var request bytes.Buffer
	f.Framer = http2.NewFramer(&request, f.conn)
	f.push(goodPush(t, s))
	request.WriteByte(0) // the next frame begins: the answer waits for what comes with it
	f.conn.Write(request.Bytes())
	if _, err := s.WaitAlerts(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	set(t, s, apnsDead, faults.Fault{})
	s.each(func(c *pushConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := c.flush(); err != nil || len(c.unsent) != 1 || len(c.sent) != 0 {
			t.Errorf("%d answers are not sent, %d are: %v", len(c.unsent), len(c.sent), err)
		}
	})
	clearFault(t, s, apnsDead)
	waitFor(t, "the mark of a cut", func() bool { return s.Alerts(0)[0].Cut })
}

func TestStreamLimitChangesWhileAConnectionIsOpen(t *testing.T) {
	s := start(t)
	f := dialFrames(t, s)
	f.until(limitIs(1))
	good := goodPush(t, s)
	f.push(good)
	f.until(limitIs(1000))
	set(t, s, apnsStreams, faults.Fault{Limit: 10})
	f.until(limitIs(10))
	bad := good
	bad.path = "/3/device/00"
	f.push(bad)
	f.until(limitIs(1))
	f.push(good)
	f.until(limitIs(10))
	set(t, s, apnsStreams, faults.Fault{})
	f.until(limitIs(1))
	clearFault(t, s, apnsStreams)
	f.until(limitIs(1000))
	set(t, s, apnsLimitKept, faults.Fault{})
	id := f.push(bad)
	f.until(func(fr http2.Frame) bool {
		if n, ok := maxStreamsOf(fr); ok {
			t.Errorf("the limit is %d after a refusal", n)
		}
		return answerOf(id, "400")(fr)
	})
	untrusted := dialFrames(t, s)
	untrusted.until(limitIs(1)) // also then
	clearFault(t, s, apnsLimitKept)
	f.push(bad)
	f.until(limitIs(1))
}

func TestEveryRefusalOfApplesCanBeHad(t *testing.T) {
	s := start(t)
	p := goodPush(t, s)
	n := 0
	for _, row := range refusals {
		for i, reason := range row.reasons {
			n++
			given := []faults.Fault{{Reason: reason}, {Status: row.status, Reason: reason}}
			if i == 0 {
				given = append(given, faults.Fault{Status: row.status})
			}
			for _, f := range given {
				set(t, s, apnsAnswer, f)
				status, got, header := p.send(t, s, pushClient(t, s))
				if status != row.status || got != reason {
					t.Errorf("%+v: answered %d %s", f, status, got)
				}
				if retry := header.Get("Retry-After"); (retry != "") != (status == 503) {
					t.Errorf("%+v: Retry-After %q", f, retry)
				}
			}
		}
	}
	if n != 33 {
		t.Errorf("%d reasons, Apple's documentation has 33", n)
	}
	set(t, s, apnsAnswer, faults.Fault{Reason: "Shutdown", Seconds: 4.5})
	if _, _, header := p.send(t, s, pushClient(t, s)); header.Get("Retry-After") != "5" {
		t.Errorf("Retry-After %q of 4.5 s", header.Get("Retry-After"))
	}
	set(t, s, apnsAnswer, faults.Fault{Reason: "NoSuchReason"})
	if status, reason, _ := p.send(t, s, pushClient(t, s)); status != 500 || reason != "NoSuchReason" {
		t.Errorf("a reason that Apple does not have: %d %s", status, reason)
	}
}

func TestBrokenFramesEndTheConnectionWithGoAway(t *testing.T) {
	s := start(t)
	for name, send := range map[string]func(*frames){
		"PUSH_PROMISE": func(f *frames) {
			f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true, BlockFragment: []byte{0x82}})
		},
		"an even stream id": func(f *frames) { f.next = 2; f.push(goodPush(t, s)) },
		"a large frame":     func(f *frames) { f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 17<<10)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := dialFrames(t, s)
			f.until(limitIs(1))
			send(f)
			for {
				fr, err := f.ReadFrame()
				if err != nil {
					t.Fatalf("no GOAWAY before %v", err)
				}
				if g, ok := fr.(*http2.GoAwayFrame); ok {
					if g.ErrCode == http2.ErrCodeNo {
						t.Errorf("GOAWAY %v", g.ErrCode)
					}
					return
				}
			}
		})
	}
}

func TestAlertLogIsBounded(t *testing.T) {
	for _, limit := range []int{-1, 10} {
		var told int
		l := newAlertLog(limit, func(Alert) { told++ })
		for range 1000 {
			l.add(Alert{Status: 200})
		}
		n := l.add(Alert{Status: 400})
		l.markCut(n)
		l.markCut(1)
		list, _ := l.after(0)
		if limit < 0 && len(list) != 0 || limit > 0 && (len(list) < limit || len(list) > 2*limit || list[len(list)-1].N != 1001 || !list[len(list)-1].Cut) {
			t.Errorf("limit %d: %d kept", limit, len(list))
		}
		if accepted, refused := l.counts(); accepted != 1000 || refused != 1 || told != 1001 {
			t.Errorf("limit %d: %d accepted, %d refused, %d told", limit, accepted, refused, told)
		}
		if list, _ := l.after(1001); len(list) != 0 {
			t.Errorf("limit %d: %d after the last", limit, len(list))
		}
	}
}

func TestWaitAlertsEndsWithItsContext(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.WaitAlerts(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// waitFor polls a state that has no channel to wait on.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(soon)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not come within %v", what, soon)
		}
	}
}

func TestWhatStalledOnAConnectionThatDiedOrEndedIsNotTaken(t *testing.T) {
	for _, first := range []string{apnsStall, apnsDead} { // is cleared first
		s := start(t)
		set(t, s, apnsStall, faults.Fault{})
		f := dialFrames(t, s)
		f.push(goodPush(t, s))
		f.WritePing(false, [8]byte{1})
		f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.PingFrame); return ok })
		set(t, s, apnsDead, faults.Fault{})
		clearFault(t, s, first)
		clearFault(t, s, map[string]string{apnsStall: apnsDead, apnsDead: apnsStall}[first])
		if n := len(s.Alerts(0)); n != 0 {
			t.Errorf("%s was cleared first: %d alerts were taken on a connection that had died", first, n)
		}
	}
}
