package apns

// What APNs accepts and what it refuses: headers, payloads, and the reasons in Apple's words.

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// Limits of Apple's.
const (
	maxPayload     = 4096
	maxVoIPPayload = 5120 // apns-push-type voip
	maxCollapseID  = 64
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

// pushTypes are the values of apns-push-type, each with what follows the bundle id in its topic.
// https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
var pushTypes = map[string]string{
	"alert": "", "background": "", "mdm": "", "location": ".location-query", "voip": ".voip", "complication": ".complication", "fileprovider": ".pushkit.fileprovider",
	"liveactivity": ".push-type.liveactivity", "pushtotalk": ".voip-ptt", "widgets": ".push-type.widgets", "controls": ".push-type.controls",
}

// decide accepts or refuses a request.
func (s *Server) decide(use *tokenUse, st *pushStream) Alert {
	r := &st.request
	a := Alert{At: time.Now(), Token: r.token, Headers: r.apns, Payload: r.payload}
	if !json.Valid(r.payload) {
		a.Payload, _ = json.Marshal(string(r.payload)) // a string
	}
	if r.apns["apns-id"] == "" {
		r.apns["apns-id"] = strings.ToUpper(guid.New().String())
	}
	a.Status, a.Reason = s.answerTo(use, st)
	return a
}

// answerTo is the status and the reason that a request is answered with.
func (s *Server) answerTo(use *tokenUse, st *pushStream) (status int, reason string) {
	if use.wedged.status != 0 {
		return use.wedged.status, use.wedged.reason
	}
	f, ok := s.faults.Hit(apnsAnswer, "", st.request.token)
	if !ok {
		status, reason = s.refusal(use, st)
	} else {
		status, reason = answerOfFault(f)
	}
	if status == http.StatusServiceUnavailable {
		st.retryAfter = max(f.Duration(), time.Second)
	}
	if answer := (refusal{status, reason}); answer.wedges() && f.Token == "" { // a fault of one device is no other's
		use.wedged = answer
	}
	return status, reason
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

// answerOfFault completes the status by the reason, or the reason by the status. An unknown one stays as the fault has it.
func answerOfFault(f faults.Fault) (status int, reason string) {
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
func (s *Server) refusal(use *tokenUse, st *pushStream) (int, string) {
	r := &st.request
	bad := func(reason string) (int, string) { return http.StatusBadRequest, reason }
	if status, reason := use.check(s.tokens, r.authorization); reason != "" {
		return status, reason
	}
	priority, topic := r.apns["apns-priority"], r.apns["apns-topic"]
	expiration, expires := r.apns["apns-expiration"]
	limit, pushType := maxPayload, r.apns["apns-push-type"]
	suffix, typed := pushTypes[pushType]
	if pushType == "voip" {
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
	case !guid.Valid(r.apns["apns-id"]):
		return bad("BadMessageId")
	case len(r.apns["apns-collapse-id"]) > maxCollapseID:
		return bad("BadCollapseId")
	case expires && !isNumber(expiration):
		return bad("BadExpirationDate")
	case priority != "" && priority != "10" && priority != "5" && priority != "1":
		return bad("BadPriority")
	case pushType == "background" && priority == "10":
		return bad("BadPriority")
	case !typed:
		return bad("InvalidPushType")
	case topic == "":
		return bad("MissingTopic")
	case strings.ContainsFunc(topic, func(r rune) bool { return r <= ' ' || r > '~' }):
		return bad("BadTopic")
	case topic != s.topic+suffix:
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
func (s *Server) unregisteredAt(a Alert) int64 {
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

func isHex(r rune) bool { return '0' <= r && r <= '9' || 'a' <= r && r <= 'f' || 'A' <= r && r <= 'F' }

func isDeviceToken(s string) bool {
	return len(s) >= 64 && len(s) <= 200 && len(s)%2 == 0 && !strings.ContainsFunc(s, func(r rune) bool { return !isHex(r) })
}

// isObject reports whether a payload is a JSON object with something in it.
func isObject(payload []byte) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(payload, &m) == nil && len(m) > 0
}
