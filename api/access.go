package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Client may use the API.
type Client struct {
	Name  string
	Role  Role
	Token string // its bearer token (RFC 6750)
}

// Role of a client.
type Role string

// The roles.
const (
	RoleEnrol Role = "enrol" // devices
	RoleRead  Role = "read"  // all GETs and metrics
	RoleTest  Role = "test"  // read, and test notifications
	RoleAdmin Role = "admin" // all
)

type permission uint8

const (
	changeDevices permission = 1 << iota
	readDevices
	readAll
	testDevices
	changeListening
	readTokens
)

func (r Role) may(p permission) bool {
	var all permission
	switch r {
	case RoleEnrol:
		all = changeDevices | readDevices
	case RoleRead:
		all = readDevices | readAll
	case RoleTest:
		all = readDevices | readAll | testDevices
	case RoleAdmin:
		all = changeDevices | readDevices | readAll | testDevices | changeListening | readTokens
	}
	return all&p == p
}

// caller is a client for authentication: it has only the hash of the token.
type caller struct {
	name string
	role Role
	hash [sha256.Size]byte
}

// SetClients replaces the clients of the API. It does not affect open requests.
func (a *API) SetClients(clients []Client) {
	list := make([]caller, len(clients))
	for i, c := range clients {
		list[i] = caller{name: c.Name, role: c.Role, hash: sha256.Sum256([]byte(c.Token))}
	}
	a.callers.Store(&list)
}

// authenticate finds the caller by its bearer token. It compares the hashes of all tokens, so that the time it takes reveals nothing.
func (a *API) authenticate(r *http.Request) (caller, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return caller{}, errNoToken
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

// find finds the caller of a token.
func (a *API) find(token string) (caller, bool) {
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	found := -1
	callers := *a.callers.Load()
	for i := range callers {
		if subtle.ConstantTimeCompare(hash[:], callers[i].hash[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return caller{}, false
	}
	return callers[found], true
}

// allowed is the Allow header of a path.
func allowed(methods map[string]route) string {
	list := slices.Collect(maps.Keys(methods))
	if slices.Contains(list, http.MethodGet) {
		list = append(list, http.MethodHead)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// unclean reports whether the mux would redirect a path instead of answering it.
func unclean(escaped string) bool {
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, part := range parts {
		if part == "." || part == ".." || part == "" && i < len(parts)-1 {
			return true
		}
	}
	return false
}
