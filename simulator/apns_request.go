package simulator

// What APNs accepts and what it refuses: headers, tokens, payloads, and the reasons in Apple's words.

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Limits of Apple's.
const (
	maxPayload     = 4096
	maxVoIPPayload = 5120 // apns-push-type voip
	maxCollapseID  = 64
	tokenLife      = time.Hour
	tokenRenewal   = 20 * time.Minute // tokens may not change more often
)

// pushRequest is what came on a stream.
type pushRequest struct {
	method, path  string
	token         string // of the device, from the path
	authorization string
	apns          map[string]string // headers that begin with apns-
	payload       []byte
}

func (r *pushRequest) read(f *http2.MetaHeadersFrame) {
	r.apns = make(map[string]string, 8)
	for _, h := range f.Fields {
		switch {
		case h.Name == ":method":
			r.method = h.Value
		case h.Name == ":path":
			r.path = h.Value
		case h.Name == "authorization":
			r.authorization = h.Value
		case strings.HasPrefix(h.Name, "apns-"):
			r.apns[h.Name] = h.Value
		}
	}
	r.token, _ = strings.CutPrefix(r.path, "/3/device/")
}

var pushTypes = []string{"alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk", "widgets", "controls"}

// decide takes or refuses a request.
func (s *apns) decide(use *tokenUse, st *pushStream) Alert {
	r := &st.request
	a := Alert{At: time.Now(), Token: r.token, Headers: r.apns, Payload: r.payload}
	if !json.Valid(r.payload) {
		a.Payload, _ = json.Marshal(string(r.payload)) // a string
	}
	if r.apns["apns-id"] == "" {
		r.apns["apns-id"] = strings.ToUpper(newGUID().String())
	}
	if f, ok := s.faults.hit(apnsAnswer, "", r.token); ok {
		a.Status, a.Reason = answerOfFault(f)
		if a.Status == http.StatusServiceUnavailable {
			st.retryAfter = max(seconds(f.Seconds), time.Second)
		}
		return a
	}
	a.Status, a.Reason = s.refusal(use, st)
	return a
}

// refusals are the reasons that Apple names, the likeliest of each status first.
var refusals = []struct {
	status  int
	reasons []string
}{
	{http.StatusInternalServerError, []string{"InternalServerError"}},
	{http.StatusBadRequest, []string{"BadDeviceToken", "BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority", "BadTopic",
		"DeviceTokenNotForTopic", "DuplicateHeaders", "IdleTimeout", "InvalidPushType", "MissingDeviceToken", "MissingTopic", "PayloadEmpty", "TopicDisallowed"}},
	{http.StatusForbidden, []string{"InvalidProviderToken", "BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken",
		"ExpiredProviderToken", "Forbidden", "MissingProviderToken", "UnrelatedKeyIdInToken"}},
	{http.StatusNotFound, []string{"BadPath"}},
	{http.StatusMethodNotAllowed, []string{"MethodNotAllowed"}},
	{http.StatusGone, []string{"Unregistered", "ExpiredToken"}},
	{http.StatusRequestEntityTooLarge, []string{"PayloadTooLarge"}},
	{http.StatusTooManyRequests, []string{"TooManyRequests", "TooManyProviderTokenUpdates"}},
	{http.StatusServiceUnavailable, []string{"ServiceUnavailable", "Shutdown"}},
}

// answerOfFault completes status and reason, the one by the other. What Apple does not name stays as it is asked for.
func answerOfFault(f Fault) (status int, reason string) {
	status, reason = f.Status, f.Reason
	for _, r := range refusals {
		if status == 0 && (reason == "" || slices.Contains(r.reasons, reason)) {
			status = r.status
		}
		if status == r.status && reason == "" {
			reason = r.reasons[0]
		}
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	return status, reason
}

// refusal checks a request in Apple's order as far as it is known: the connection's right first, the device last.
func (s *apns) refusal(use *tokenUse, st *pushStream) (int, string) {
	r := &st.request
	bad := func(reason string) (int, string) { return http.StatusBadRequest, reason }
	if status, reason := use.check(s.tokens, r.authorization); reason != "" {
		return status, reason
	}
	priority, topic := r.apns["apns-priority"], r.apns["apns-topic"]
	expiration, expires := r.apns["apns-expiration"]
	limit := maxPayload
	if r.apns["apns-push-type"] == "voip" {
		limit = maxVoIPPayload
	}
	switch {
	case r.method != http.MethodPost:
		return http.StatusMethodNotAllowed, "MethodNotAllowed"
	case !strings.HasPrefix(r.path, "/3/device/"):
		return http.StatusNotFound, "BadPath"
	case r.token == "":
		return bad("MissingDeviceToken")
	case st.tooBig || len(r.payload) > limit:
		return http.StatusRequestEntityTooLarge, "PayloadTooLarge"
	case !isUUID(r.apns["apns-id"]):
		return bad("BadMessageId")
	case len(r.apns["apns-collapse-id"]) > maxCollapseID:
		return bad("BadCollapseId")
	case expires && !isNumber(expiration):
		return bad("BadExpirationDate")
	case priority != "" && priority != "10" && priority != "5" && priority != "1":
		return bad("BadPriority")
	case !slices.Contains(pushTypes, r.apns["apns-push-type"]):
		return bad("InvalidPushType")
	case topic == "":
		return bad("MissingTopic")
	case strings.ContainsFunc(topic, func(r rune) bool { return r <= ' ' || r > '~' }):
		return bad("BadTopic")
	case topic != s.topic:
		return bad("TopicDisallowed")
	case !isObject(r.payload):
		return bad("PayloadEmpty") // Apple names no other reason for what is no payload
	case !isDeviceToken(r.token):
		return bad("BadDeviceToken")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, gone := s.unregistered[strings.ToLower(r.token)]; gone {
		return http.StatusGone, "Unregistered"
	}
	return http.StatusOK, ""
}

// unregisteredAt is the time, in milliseconds, that an answer 410 carries.
func (s *apns) unregisteredAt(a Alert) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.unregistered[strings.ToLower(a.Token)]; ok {
		return t.UnixMilli()
	}
	return a.At.UnixMilli()
}

func isNumber(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil
}

// isUUID checks the canonical form, 8-4-4-4-12.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (r == '-') || !dash && !isHex(r) {
			return false
		}
	}
	return true
}

func isHex(r rune) bool { return '0' <= r && r <= '9' || 'a' <= r && r <= 'f' || 'A' <= r && r <= 'F' }

func isDeviceToken(s string) bool {
	return len(s) >= 64 && len(s) <= 200 && len(s)%2 == 0 && !strings.ContainsFunc(s, func(r rune) bool { return !isHex(r) })
}

// isObject reports whether a payload is a JSON object with something in it.
func isObject(payload []byte) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(payload, &m) == nil && len(m) > 0
}

// tokenChecker verifies provider tokens (ES256 JWT). Each is verified once: clients use one for the best part of an hour.
type tokenChecker struct {
	key         *ecdsa.PublicKey
	keyID, team string
	mu          sync.Mutex
	issued      map[string]time.Time // tokens that were right, by their text
}

// maxTokens that are remembered; a client has one an hour.
const maxTokens = 1000

// check returns when a token was issued; reason is APNs' own for one that is not right.
func (t *tokenChecker) check(token string) (issued time.Time, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	issued, ok := t.issued[token]
	if !ok {
		if issued, ok = t.verify(token); !ok {
			return issued, "InvalidProviderToken"
		}
		if len(t.issued) >= maxTokens {
			clear(t.issued)
		}
		t.issued[token] = issued
	}
	switch age := time.Since(issued); {
	case age > tokenLife:
		return issued, "ExpiredProviderToken"
	case age < -time.Minute:
		return issued, "InvalidProviderToken"
	}
	return issued, ""
}

func (t *tokenChecker) verify(token string) (issued time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > 4096 {
		return issued, false
	}
	var (
		header struct{ Alg, Kid string }
		claims struct {
			Iss string
			Iat int64
		}
	)
	if !decodePart(parts[0], &header) || !decodePart(parts[1], &claims) {
		return issued, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 || header.Alg != "ES256" || header.Kid != t.keyID || claims.Iss != t.team || claims.Iat == 0 {
		return issued, false
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return time.Unix(claims.Iat, 0), ecdsa.Verify(t.key, sum[:], r, s)
}

func decodePart(s string, into any) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && json.Unmarshal(b, into) == nil
}

// tokenUse is what a connection has seen of tokens.
type tokenUse struct {
	token  string // the last that was right
	issued time.Time
	worn   bool // changed too often: the connection is of no use any more
}

// check refuses a token that is wrong, or that came too soon after another one on this connection.
func (u *tokenUse) check(t *tokenChecker, authorization string) (int, string) {
	token, ok := strings.CutPrefix(authorization, "bearer ")
	if !ok {
		token, ok = strings.CutPrefix(authorization, "Bearer ")
	}
	if !ok || token == "" {
		return http.StatusForbidden, "MissingProviderToken"
	}
	issued, reason := t.check(token)
	if reason != "" {
		return http.StatusForbidden, reason
	}
	if u.token != "" && u.token != token && issued.Sub(u.issued).Abs() < tokenRenewal {
		u.worn = true
	}
	if u.worn {
		return http.StatusTooManyRequests, "TooManyProviderTokenUpdates"
	}
	u.token, u.issued = token, issued
	return 0, ""
}
