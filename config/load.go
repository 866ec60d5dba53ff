package config

import (
	"cmp"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/certificate"
	"github.com/mailbell/mailbell/internal/pattern"
)

// Load reads a configuration file and everything that it names. Its error is an Errors with every mistake that was found.
func Load(file string) (*Config, error) {
	r := &reader{file: file, dir: filepath.Dir(file)}
	data, err := r.read(file)
	if err != nil {
		r.fail(1, "file", "%v", err)
		return nil, r.errs
	}
	return r.load(data)
}

// Changed tells whether this file, or one of those that it names, holds something else than it was loaded with, or cannot be read
// any more. What is changed while it is loaded is changed too.
func (c *Config) Changed() bool {
	r := &reader{}
	if _, err := r.read(c.File); err != nil {
		return true
	}
	for _, f := range c.Files {
		if _, err := r.read(f.Path); err != nil {
			return true
		}
	}
	return r.sum != c.Sum
}

func (r *reader) load(data []byte) (*Config, error) {
	root, mistake := parse(data)
	if mistake != nil {
		r.fail(mistake.Line, mistake.Key, "%s", mistake.Text)
		return nil, r.errs
	}
	top := value{r: r, line: 1}
	if root != nil {
		top.node = root
	}
	c := r.config(r.object(top))
	c.File, c.Warnings, c.Files, c.Sum = r.file, r.warnings, r.files, r.sum
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
		return nil, r.errs
	}
	return c, nil
}

func (r *reader) config(o *object) *Config {
	o.require("exchange", "apns")
	t := o.object("tls")
	c := &Config{
		Listen:         o.text("listen", DefaultListen, address),
		TLS:            t.tls(),
		BehindTLSProxy: o.boolean("behind_tls_proxy", false),
		State:          o.object("state").state(),
		Alerts:         o.object("alerts").alerts(),
		API:            o.object("api").api(),
		Log:            o.object("log").log(),
	}
	if !isSet(t.node) && !c.BehindTLSProxy && !loopback(c.Listen) {
		o.get("listen").fail("not loopback: tokens and addresses would cross the network in clear; set tls, or behind_tls_proxy: true")
	}
	// A listener account is one budget, and one name in metrics and answers, whichever entry it is in.
	entries, accounts := once{}, once{}
	for _, e := range o.objects("exchange") {
		x := e.exchange(accounts)
		c.Exchange = append(c.Exchange, x)
		entries.add(e.get("name"), x.Name)
	}
	topics := once{}
	for _, e := range o.objects("apns") {
		a := e.apns()
		c.APNs = append(c.APNs, a)
		if a.Topic != "" {
			topics.add(e.get("topic"), a.Topic+" ("+a.Environment+")")
		}
	}
	o.unavailable("public_url")
	o.unavailable("callbacks", "listen", "tls")
	c.Proxy = o.object("proxy").proxy()
	o.end()
	return c
}

// once finds names that are given twice: the line of each name.
type once map[string]int

// add reports a name that was there before. An empty one is reported already, as missing or wrong.
func (seen once) add(v value, name string) {
	if name == "" {
		return
	}
	if before, twice := seen[name]; twice {
		v.fail("%s is given twice; first in line %d", name, before)
		return
	}
	seen[name] = v.line
}

func (o *object) tls() *TLS {
	defer o.end()
	if !isSet(o.node) {
		o.asked = []string{"cert_file", "key_file", "key_env"}
		return nil
	}
	o.require("cert_file")
	cert, v := o.contents("cert_file")
	key, _ := o.secret("key")
	if cert == nil || key == "" {
		return nil
	}
	if _, err := tls.X509KeyPair(cert, []byte(key)); err != nil {
		v.fail("is no pair with its key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	return &TLS{CertPEM: cert, KeyPEM: key}
}

func (o *object) state() State {
	defer o.end()
	v := o.get("path")
	if redis := o.object("redis"); isSet(redis.node) {
		if isSet(v.node) {
			v.fail("the state is in a file or in Redis, never in both: leave out path or redis")
		}
		return State{Redis: redis.redis()}
	} else if !redis.wrong {
		redis.asked = redisKeys
		redis.end()
	}
	s := State{Path: filepath.Join(o.r.dir, DefaultStatePath)}
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

// redisKeys are those under state.redis.
var redisKeys = []string{"addresses", "mode", "master", "username", "password_file", "password_env", "sentinel_password_file", "sentinel_password_env",
	"tls", "ca_file", "prefix"}

func (o *object) redis() *Redis {
	o.require("addresses")
	o.choice("mode", "single", []string{"single"}, "sentinel", "cluster")
	o.unavailable("master")
	o.unavailable("sentinel_password_file")
	o.unavailable("sentinel_password_env")
	r := &Redis{
		Username: o.text("username", "", redisUser),
		TLS:      o.boolean("tls", false),
		CA:       o.authorities("ca_file"),
		Prefix:   o.text("prefix", DefaultRedisPrefix, redisPrefix),
	}
	addresses := o.addresses("addresses")
	switch v := o.get("addresses"); {
	case len(addresses) > 1:
		v.fail("has %d addresses: a single Redis has one", len(addresses))
	case len(addresses) == 1:
		r.Address = addresses[0]
	}
	if o.has("password_file") || o.has("password_env") {
		r.Password, _ = o.word("password")
	} else {
		o.asked = append(o.asked, "password_file", "password_env")
	}
	if v := o.get("ca_file"); isSet(v.node) && !r.TLS {
		v.fail("has no use without tls: true")
	}
	if v := o.get("username"); r.Username != "" && r.Password == "" && isSet(v.node) {
		v.fail("has no password: set password_file or password_env")
	}
	o.end()
	return r
}

var (
	redisUser   = matching(pattern.New(`^[^\s\x00-\x1f]{1,128}$`, "the name of an ACL user, without spaces"))
	redisPrefix = matching(pattern.New(`^[A-Za-z0-9._:-]{1,64}$`, "1 to 64 characters of A-Z a-z 0-9 . _ : -"))
)

// entryType reads the type of an exchange entry; "": what is there is none, and reported.
func (o *object) entryType() string {
	before := len(o.r.errs)
	if t := o.choice("type", OnPremises, []string{OnPremises, Online}); len(o.r.errs) == before {
		return t
	}
	return ""
}

func (o *object) exchange(accounts once) Exchange {
	o.require("name", "domains", "listener_accounts")
	o.choice("listen_by", "streaming", []string{"streaming"}, "push", "graph")
	e := Exchange{
		Name:                       o.text("name", "", matching(pattern.Name)),
		Type:                       o.entryType(),
		Domains:                    o.texts("domains", domain),
		EWSURL:                     o.text("ews_url", "", httpsURL),
		AutodiscoverURL:            o.text("autodiscover_url", "", httpsURL),
		TrustedHosts:               o.texts("trusted_hosts", hostName),
		CA:                         o.authorities("ca_file"),
		MailboxServers:             o.texts("mailbox_servers", hostName),
		Cloud:                      o.cloud(),
		MailboxesPerAccount:        o.integer("mailboxes_per_account", DefaultMailboxesPerAccount, 1, maxMailboxes),
		SubscriptionsPerConnection: o.integer("subscriptions_per_connection", DefaultSubscriptionsPerConnection, 1, maxSubscriptions),
		ConnectionTimeout:          o.duration("connection_timeout", DefaultConnectionTimeout, minConnectionTimeout, maxConnectionTimeout),
		SafetyPoll:                 o.duration("safety_poll", DefaultSafetyPoll, minSafetyPoll, maxSafetyPoll),
		RequestsPerSecond:          o.integer("requests_per_second", DefaultRequestsPerSecond, 1, maxRequestsPerSecond),
		RequestsInFlight:           o.integer("requests_in_flight", DefaultRequestsInFlight, 1, maxRequestsInFlight),
	}
	if v := o.get("autodiscover_url"); e.Type == Online && isSet(v.node) {
		v.fail("has no use with type: online: its cloud says where its Autodiscover is")
	}
	for _, l := range o.objects("listener_accounts") {
		a := l.account(e.Type, o.has("ews_url"))
		e.Accounts = append(e.Accounts, a)
		accounts.add(l.get("name"), a.Name)
	}
	o.end()
	return e
}

// appleID is the id of a key or a team.
var appleID = matching(pattern.New(`^[A-Z0-9]{10}$`, "10 capital letters and digits, as Apple's developer portal shows it"))

func (o *object) apns() APNs {
	o.require("topic")
	a := APNs{
		Topic:       o.text("topic", "", matching(pattern.Topic)),
		Environment: o.choice("environment", Production, []string{Production, Sandbox}),
		URL:         o.text("url", "", httpsURL),
		CA:          o.authorities("ca_file"),
	}
	t, c := o.object("token"), o.object("certificate")
	switch {
	case isSet(t.node) && isSet(c.node):
		c.fail("token and certificate are both given: want one")
	case !isSet(t.node) && !isSet(c.node) && !o.wrong:
		o.get("token").fail("is required (or certificate)")
	}
	if t.asked = []string{"key_file", "key_env", "key_id", "team_id"}; isSet(t.node) {
		t.require("key_id", "team_id")
		a.Token = Token{
			KeyPEM: t.signingKey("key"),
			KeyID:  t.text("key_id", "", appleID),
			TeamID: t.text("team_id", "", appleID),
		}
	}
	if c.asked = []string{"file", "password_file", "password_env"}; isSet(c.node) {
		a.Certificate = c.certificate()
	}
	t.end()
	c.end()
	o.end()
	return a
}

// certificate reads a client certificate with its key: a PFX file as OpenSSL and Windows write it, or both in PEM form.
func (o *object) certificate() *tls.Certificate {
	o.require("file")
	data, v := o.contents("file")
	if data != nil {
		o.r.files[len(o.r.files)-1].Secret = true
	}
	var password Secret
	if o.has("password_file") || o.has("password_env") {
		password, _ = o.word("password")
	}
	if data == nil {
		return nil
	}
	c, err := certificate.Load(data, string(password))
	switch {
	case errors.Is(err, certificate.ErrPassword):
		v.fail("cannot be opened: its password is another one (password_file)")
		return nil
	case err != nil:
		v.fail("%v", err)
		return nil
	}
	return c
}

func (o *object) alerts() Alerts {
	defer o.end()
	return Alerts{
		Content: o.choice("content", DefaultContent, []string{ContentGeneric, ContentSender, ContentSenderSubject, ContentSenderSubjectPreview}),
		MaxAge:  o.duration("max_age", DefaultMaxAge, minMaxAge, maxMaxAge),
		Send:    o.boolean("send", true),
	}
}

func (o *object) api() API {
	o.require("clients")
	var p API
	names, tokens := once{}, map[Secret]string{}
	for _, e := range o.objects("clients") {
		e.require("name", "role")
		c := Client{
			Name: e.text("name", "", matching(pattern.Name)),
			Role: e.choice("role", "", []string{RoleEnrol, RoleRead, RoleTest, RoleAdmin}),
		}
		var v value
		c.Token, v = e.word("token")
		switch other, twice := tokens[c.Token]; {
		case c.Token == "":
		case len(c.Token) < minToken:
			v.fail("holds a token of %d characters: want at least %d", len(c.Token), minToken)
		case strings.ContainsFunc(string(c.Token), func(r rune) bool { return r <= ' ' || r > '~' }):
			v.fail("holds a token that no Authorization header can carry: want visible ASCII characters without spaces")
		case twice:
			v.fail("holds the same token as the client %s", other)
		default:
			tokens[c.Token] = c.Name
		}
		names.add(e.get("name"), c.Name)
		p.Clients = append(p.Clients, c)
		e.end()
	}
	o.end()
	return p
}

func (o *object) log() Log {
	defer o.end()
	return Log{
		Level:  o.choice("level", DefaultLogLevel, []string{"debug", "info", "warn", "error"}),
		Format: o.choice("format", DefaultLogFormat, []string{"json", "console"}),
	}
}
