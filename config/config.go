// Package config reads the configuration file: one strict schema, its defaults and bounds, and secrets by reference.
// Load reports every mistake of a file at once, each with its line and key, and starts nothing.
// mailbell.example.yaml beside the module's go.mod is the manual.
//
// Each section of the configuration has a Go file: its type, the defaults and bounds of its keys, and the function that reads it. So a
// new key is added in one place. read.go has the functions for reading, files.go reads files and secrets, check.go checks texts.
package config

import (
	"cmp"
	"crypto/sha256"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// Config is a configuration that is complete and checked: it has the defaults, secrets and certificates are loaded, and paths
// are relative to the working directory of the process.
type Config struct {
	File           string // the path that Load got
	Listen         string // host:port of the API
	TLS            *TLS   // nil: the API speaks plain HTTP
	BehindTLSProxy bool   // plain HTTP beyond loopback is meant: a proxy in front of it ends TLS
	PublicURL      string // https://host or http://host: where Exchange reaches the callbacks; empty: nowhere
	Callbacks      Callbacks
	State          State
	Exchange       []Exchange // in the order in which they are asked for an address; never empty
	Proxy          *Proxy     // nil: connections are made directly
	APNs           []APNs     // never empty
	Alerts         Alerts
	API            API
	Admin          Admin
	Audit          Audit
	Webhooks       []Webhook // names differ
	Canary         Canary
	Log            Log
	Warnings       Errors // values that are allowed, but probably wrong
	Files          []File // the files that the configuration names
	Sum            Sum    // of what this file and those held
}

// File is a file that the configuration names.
type File struct {
	Key    string // exchange[0].listener_accounts[0].basic.password_file
	Path   string // as it is opened
	Secret bool   // it holds one: not for everybody to read
}

// Sum is a hash of the contents of files.
type Sum [sha256.Size]byte

// defaultListen is loopback, so that the API cannot be reached from the network.
const defaultListen = "127.0.0.1:8080"

// Load reads a configuration file and every file that it names. Its error is an Errors with all mistakes.
func Load(file string) (*Config, error) {
	r := &reader{file: file, dir: filepath.Dir(file)}
	data, err := r.read(file)
	if err != nil {
		r.fail(1, "file", "%v%s", err, another(err))
		return nil, r.errs
	}
	return r.load(data)
}

// listenLine is the line of the key in a file that is not YAML as a whole.
var listenLine = regexp.MustCompile(`(?m)^listen:.*`)

// Listen returns Config.Listen of a configuration file, whatever mistakes the rest of it has: a service that runs goes on with what it read before.
func Listen(file string) (string, error) {
	r := &reader{file: file, dir: filepath.Dir(file)}
	data, err := r.read(file)
	if err != nil {
		r.fail(1, "file", "%v", err)
		return "", r.errs
	}
	root, mistake := parse(data)
	if mistake != nil {
		root, mistake = parse(listenLine.Find(data))
	}
	if mistake != nil {
		r.fail(mistake.Line, mistake.Key, "%s", mistake.Text)
		return "", r.errs
	}
	listen := r.object(r.top(root)).text("listen", defaultListen, address)
	if wrong := slices.IndexFunc(r.errs, func(e Error) bool { return e.Key == "listen" }); wrong >= 0 {
		return "", r.errs[wrong]
	}
	return listen, nil
}

// Changed reports whether the content of this file, or of one that it names, differs from what was loaded, or can no longer be read. A
// change during the load counts too.
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
	c := r.config(r.object(r.top(root)))
	c.File, c.Warnings, c.Files, c.Sum = r.file, r.warnings, r.files, r.sum
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
		return nil, r.errs
	}
	return c, nil
}

// top is the value of a file; root may be nil: the file is empty.
func (r *reader) top(root *ast.MappingNode) value {
	v := value{r: r, line: 1}
	if root != nil {
		v.node = root
	}
	return v
}

func (r *reader) config(o *object) *Config {
	o.require("exchange", "apns")
	t, overTLS := o.optional("tls")
	c := &Config{
		Listen:         o.text("listen", defaultListen, address),
		TLS:            t.apiTLS(),
		BehindTLSProxy: o.boolean("behind_tls_proxy", false),
		State:          o.object("state").state(),
		Alerts:         o.object("alerts").alerts(),
		API:            o.object("api").api(t.has("client_ca_file")),
		Audit:          o.object("audit").audit(),
		Log:            o.object("log").log(),
	}
	if c.BehindTLSProxy && t.has("client_ca_file") {
		t.get("client_ca_file").fail("is of no use with behind_tls_proxy: the proxy ends TLS, so no certificate of a client gets to mailbell")
	}
	if !overTLS && !t.wrong && !c.BehindTLSProxy && !loopback(c.Listen) {
		o.get("listen").fail("not loopback: tokens and addresses would cross the network in clear text; set tls, or behind_tls_proxy: true")
	}
	// A listener account has one budget, and one name in metrics and answers, even if several entries used it.
	entries, accounts := once{}, once{}
	var by []value
	for _, e := range o.objects("exchange") {
		x := e.exchange(accounts)
		c.Exchange = append(c.Exchange, x)
		by = append(by, e.get("listen_by"))
		entries.add(e.get("name"), x.Name)
	}
	c.Canary = o.object("canary").canary(c.Exchange)
	topics, keys := once{}, signingKeys{}
	for _, e := range o.objects("apns") {
		a := e.apns(keys)
		c.APNs = append(c.APNs, a)
		if a.Topic != "" {
			topics.add(e.get("topic"), a.Topic+" ("+a.Environment+")")
		}
	}
	webhooks := once{}
	for _, e := range o.objects("webhooks") {
		w := e.webhook()
		webhooks.add(e.get("name"), w.Name)
		c.Webhooks = append(c.Webhooks, w)
	}
	if len(c.Webhooks) > maxWebhooks {
		o.get("webhooks").fail("has %d receivers: want at most %d", len(c.Webhooks), maxWebhooks)
	}
	c.PublicURL = o.text("public_url", "", publicURL)
	callbacks := o.object("callbacks")
	c.Callbacks = callbacks.callbacks()
	c.reachable(o.get("public_url"), callbacks.get("listen"), by)
	c.Proxy = o.proxy()
	c.Admin = o.object("admin").admin(c.PublicURL, c.Callbacks.Listen != "")
	o.end()
	return c
}

// once has the line of each name, to find names that are given twice.
type once map[string]int

// add reports a name that is given twice. An empty one is already reported, as missing or wrong.
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
