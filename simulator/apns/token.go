package apns

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Provider tokens: which are right, and how often they may change.

// Limits of Apple's.
const (
	tokenLife    = time.Hour
	tokenRenewal = 20 * time.Minute // tokens may not change more often
)

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
	wedged refusal // the answer to every request from here on; the zero value: none
}

// refusal is an answer that refuses.
type refusal struct {
	status int
	reason string
}

// wedges reports whether a connection is of no use any more once it has had this answer: it gives no other (pushy#408, its
// TokenAuthenticationApnsClientHandler, Apple's forum 675879).
func (r refusal) wedges() bool {
	switch r.reason {
	case "ExpiredProviderToken", "TooManyProviderTokenUpdates":
		return true
	}
	return r.status == http.StatusInternalServerError
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
		return http.StatusTooManyRequests, "TooManyProviderTokenUpdates"
	}
	u.token, u.issued = token, issued
	return 0, ""
}
