package config

// Where mailbell stores the state: in a file, or in Redis.

import (
	"crypto/x509"
	"os"
	"path/filepath"

	"github.com/mailbell/mailbell/internal/pattern"
)

// State says where mailbell stores enrolments and the records of mailboxes: in a file, or in Redis.
type State struct {
	Path  string // of the embedded store's file; empty if Redis is set
	Redis *Redis
}

// Redis is a single Redis server.
type Redis struct {
	Address  string // host:port
	Username string // of an ACL user; empty: the default user
	Password Secret
	TLS      bool
	CA       *x509.CertPool // nil: the system's roots
	Prefix   string         // of every key
}

const (
	defaultStatePath   = "mailbell.db" // beside the configuration file
	defaultRedisPrefix = "mailbell"    // a Redis may serve others too
)

func (o *object) state() State {
	defer o.end()
	v := o.get("path")
	section, given := o.optional("redis")
	redis := section.redis()
	if given {
		if isSet(v.node) {
			v.fail("the state is either in a file or in Redis: leave out path or redis")
		}
		return State{Redis: redis}
	}
	s := State{Path: filepath.Join(o.r.dir, defaultStatePath)}
	if path, ok := v.file(); ok {
		s.Path = path
	}
	if info, err := os.Stat(filepath.Dir(s.Path)); err != nil || !info.IsDir() {
		v.fail("the folder %s does not exist", shown(filepath.Dir(s.Path)))
	} else if info, err := os.Stat(s.Path); err == nil && !info.Mode().IsRegular() {
		v.fail("%s is not a regular file", shown(s.Path))
	}
	return s
}

func (o *object) redis() *Redis {
	defer o.end()
	o.require("addresses")
	o.choice("mode", "single", []string{"single"}, "sentinel", "cluster")
	o.unavailable("master")
	o.unavailable("sentinel_password_file")
	o.unavailable("sentinel_password_env")
	r := &Redis{
		Username: o.text("username", "", redisUser),
		TLS:      o.boolean("tls", false),
		CA:       o.authorities("ca_file"),
		Prefix:   o.text("prefix", defaultRedisPrefix, redisPrefix),
	}
	addresses := o.addresses("addresses")
	switch v := o.get("addresses"); {
	case len(addresses) > 1:
		v.fail("has %d addresses: a single Redis has one", len(addresses))
	case len(addresses) == 1:
		r.Address = addresses[0]
	}
	r.Password, _ = o.optionalWord("password")
	if v := o.get("ca_file"); isSet(v.node) && !r.TLS {
		v.fail("is only for tls: true")
	}
	if r.Address != "" && !r.TLS && !loopback(r.Address) {
		o.get("tls").warn("is false, and %s is not this machine: anybody who can read the traffic gets the password of Redis and the device "+
			"tokens, and anybody who can change it can enrol devices for any mailbox; set tls: true", r.Address)
	}
	if v := o.get("username"); r.Username != "" && r.Password == "" && isSet(v.node) {
		v.fail("has no password: set password_file or password_env")
	}
	return r
}

var (
	redisUser   = matching(pattern.New(`^[^\s\x00-\x1f]{1,128}$`, "the name of an ACL user, without spaces"))
	redisPrefix = matching(pattern.New(`^[A-Za-z0-9._:-]{1,64}$`, "1 to 64 characters of A-Z a-z 0-9 . _ : -"))
)
