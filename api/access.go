package api

// What each role may do, and which paths and methods there are.

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

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
