package api

// The clients of the API: who sent a request, and when each token was used last, so that an operator knows when the old one may go.

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Client may use the API.
type Client struct {
	Name      string
	Role      Role
	Token     string // its bearer token (RFC 6750)
	NextToken string // a second one, while clients go over to it; empty: none
	// Certificate is a name of its certificate, which is signed by an authority of SetAuthorities; empty: none.
	Certificate string
	Limit       Limit
}

// The ways to sign in, as the keys of the configuration are called.
const (
	byToken     = "token"
	byNextToken = "next_token"

	byCertificate = "certificate"
)

// caller is one way in which a client signs in: it has only the hash of the token, or the name of a certificate.
type caller struct {
	name        string
	role        Role
	by          string
	certificate string            // the name, where it is by one
	hash        [sha256.Size]byte // of the token, or of that name
	used        *atomic.Int64     // when last, in nanoseconds since 1970; 0: not since the start
	limit       *limiter          // one for all the ways of a client
}

// SetClients replaces the clients of the API. It does not affect open requests. A token that was there before keeps when it was used, also
// where it was the next one, and a client keeps what is left of its limit.
func (a *API) SetClients(clients []Client) {
	used, limits := map[[sha256.Size]byte]*atomic.Int64{}, map[string]*limiter{}
	if before := a.callers.Load(); before != nil {
		for _, c := range *before {
			used[c.hash], limits[c.name] = c.used, c.limit
		}
	}
	var list []caller
	for _, c := range clients {
		limit := limits[c.Name]
		if limit == nil || limit.Limit != c.Limit {
			limit = newLimiter(c.Limit)
		}
		for _, t := range []struct{ by, value string }{{byToken, c.Token}, {byNextToken, c.NextToken}, {byCertificate, c.Certificate}} {
			if t.value == "" {
				continue
			}
			one := caller{name: c.Name, role: c.Role, by: t.by, hash: sha256.Sum256([]byte(t.value)), limit: limit}
			if t.by == byCertificate {
				one.certificate = t.value
			}
			one.used = used[one.hash]
			if one.used == nil {
				one.used = &atomic.Int64{}
			}
			list = append(list, one)
		}
	}
	a.callers.Store(&list)
}

// authenticate finds the caller by its bearer token or, if it sends none, by its certificate. It compares the hashes of all tokens, so that
// the time it takes reveals nothing.
func (a *API) authenticate(r *http.Request) (caller, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		if a.origin.Check(r) != nil { // a browser shows a certificate to whatever another site has it post
			return caller{}, errNoToken
		}
		who, ok, err := a.byCertificateOf(r)
		if !ok {
			return caller{}, errNoToken
		}
		return who, err
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return caller{}, errBadToken
	}
	who, ok := a.find(token)
	if !ok {
		return caller{}, errBadToken
	}
	return who, nil
}

// find finds the caller of a token, and notes that it is used.
func (a *API) find(token string) (caller, bool) {
	return a.ofHash(sha256.Sum256([]byte(strings.TrimSpace(token))))
}

// ofHash finds the caller of the hash of a token, and notes that the token is used.
func (a *API) ofHash(hash [sha256.Size]byte) (caller, bool) {
	found := -1
	callers := *a.callers.Load()
	for i := range callers {
		if subtle.ConstantTimeCompare(hash[:], callers[i].hash[:]) == 1 && callers[i].by != byCertificate {
			found = i
		}
	}
	if found < 0 {
		return caller{}, false
	}
	callers[found].used.Store(time.Now().UnixNano())
	return callers[found], true
}

// signIns tells of each client when it signed in last, and by what.
func (a *API) signIns() []ClientStatus {
	list := []ClientStatus{}
	for _, c := range *a.callers.Load() {
		if len(list) == 0 || list[len(list)-1].Name != c.name {
			list = append(list, ClientStatus{Name: c.name, Role: c.role})
		}
		one := SignIn{By: c.by}
		if at := c.used.Load(); at != 0 {
			one.Last = time.Unix(0, at).UTC()
		}
		last := &list[len(list)-1]
		last.SignIns = append(last.SignIns, one)
	}
	return list
}
