package setup

// mailbell.yaml and the secrets, from the answers.

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/credential"
)

// Names of files, in the folder of the configuration.
const (
	configFile   = "mailbell.yaml"
	secretsDir   = "secrets"
	defaultState = "mailbell.db"
)

// Secrets of a configuration, in secretsDir.
const (
	accountFile   = "listener-01"
	appFile       = "app"
	appKeyFile    = "app-certificate"
	appKeyWord    = "app-certificate-password"
	pushKeyFile   = "apns.p8"
	proxyFile     = "proxy"
	redisFile     = "redis"
	tokenBytes    = 32 // as many as `openssl rand -hex 32` has
	standInTopic  = "com.example.not-answered-yet"
	standInKeyID  = "AAAAAAAAAA"
	standInTeamID = "AAAAAAAAAA"
)

// clients are those of the API.
var clients = []config.Client{
	{Name: "mdm", Role: config.RoleEnrol}, {Name: "helpdesk", Role: config.RoleTest}, {Name: "operator", Role: config.RoleAdmin},
}

// file is one to write.
type file struct {
	name string // with secretsDir
	data []byte
}

// generated is what mailbell makes up.
type generated struct {
	tokens  [][]byte // of clients
	standIn []byte   // a key for APNs, before there is one
	day     time.Time
}

// generate makes tokens.
func generate() (g generated, err error) {
	for range clients {
		token := make([]byte, tokenBytes)
		rand.Read(token)
		g.tokens = append(g.tokens, []byte(hex.EncodeToString(token)))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return g, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return g, err
	}
	g.standIn, g.day = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), time.Now()
	return g, nil
}

// files are all files. Of a key that is not answered yet nothing is written; the apns entry has a stand-in until its first answer, so that
// the exchange entry can be tried.
func (a answers) files() []file {
	list := []file{{configFile, []byte(a.yaml())}}
	add := func(name string, data []byte) {
		if len(data) > 0 {
			list = append(list, file{filepath.Join(secretsDir, name), data})
		}
	}
	line := func(name string) []byte {
		if v := a.value[name]; v != "" {
			return []byte(v + "\n")
		}
		return nil
	}
	for i, c := range clients {
		add(c.Name, append(slices.Clone(a.tokens[i]), '\n'))
	}
	add(accountFile, line("password"))
	add(appFile, line("client-secret"))
	add(appKeyFile, a.data["certificate"])
	add(appKeyWord, line("certificate-password"))
	add(proxyFile, line("proxy-password"))
	add(redisFile, line("redis-password"))
	if a.noApp() {
		add(pushKeyFile, a.standIn)
	} else {
		add(pushKeyFile, a.data["apns-key"])
	}
	return list
}

// noApp says whether nothing about the app is answered yet.
func (a answers) noApp() bool {
	return a.value["apns-topic"] == "" && a.value["apns-key"] == "" && a.value["apns-key-id"] == "" && a.value["apns-team-id"] == ""
}

// yaml is the text of mailbell.yaml.
func (a answers) yaml() string {
	y := &writer{}
	y.line(0, "# Written by mailbell init on %s for %s.", a.day.Format(time.DateOnly), a.value["address"])
	y.line(0, "# mailbell.example.yaml is the manual: every key with its default, its bounds and the reason.")
	y.line(0, "# No secret is in this file: they are in %s/.", secretsDir)
	y.comment("Where the API, the admin page and the metrics are. Not loopback takes tls, or behind_tls_proxy: true.")
	y.line(0, "listen: %s", quoted(cmp.Or(a.value["listen"], "127.0.0.1:8080")))
	if v := a.value["public-url"]; v != "" {
		y.comment("Where Microsoft Graph reaches mailbell, from the internet.")
		y.line(0, "public_url: %s", quoted(v))
	}
	a.state(y)
	a.proxy(y)
	a.exchange(y)
	a.apns(y)
	y.comment("Programs and people that use the API. Roles: enrol devices; test: read, and test notifications; admin: all.")
	y.line(0, "api:")
	y.line(1, "clients:")
	for _, c := range clients {
		y.line(2, "- {name: %s, role: %s, token_file: %s/%s}", c.Name, c.Role, secretsDir, c.Name)
	}
	return y.String()
}

func (a answers) state(y *writer) {
	y.comment("The enrolments, and how far each mailbox is read. Never content.")
	y.line(0, "state:")
	if a.value["state"] != stateRedis {
		y.line(1, "path: %s", quoted(cmp.Or(a.value["state-path"], defaultState)))
		return
	}
	y.line(1, "redis:")
	y.line(2, "addresses: [%s]", quotedList(a.value["redis"]))
	y.key(2, "username", a.value["redis-username"])
	y.secret(2, "password_file", redisFile, a.value["redis-password"])
	if a.value["redis-tls"] == "yes" {
		y.line(2, "tls: true")
	}
	y.key(2, "ca_file", a.value["redis-ca-file"])
}

func (a answers) proxy(y *writer) {
	if a.value["proxy"] == "" {
		return
	}
	y.comment("For all connections to Exchange, Autodiscover, Entra ID and APNs, but for those to bypass.")
	y.line(0, "proxy:")
	y.key(1, "url", a.value["proxy"])
	y.key(1, "username", a.value["proxy-username"])
	y.secret(1, "password_file", proxyFile, a.value["proxy-password"])
	y.list(1, "bypass", a.value["proxy-bypass"])
}

func (a answers) exchange(y *writer) {
	y.comment("The Exchange organisations. More entries are possible, of the same domain too.")
	y.line(0, "exchange:")
	y.line(1, "- name: %s", a.entryName())
	y.key(2, "type", a.value["type"])
	y.line(2, "listen_by: %s", a.listenBy())
	y.list(2, "domains", a.value["domains"])
	if a.online() {
		y.key(2, "cloud", a.value["cloud"])
		if a.value["cloud"] == "custom" {
			y.line(2, "cloud_urls:")
			for _, name := range []string{"ews", "autodiscover", "authority", "graph"} {
				y.key(3, name, a.value["cloud-"+name])
			}
		}
	}
	y.key(2, "ews_url", a.value["ews-url"])
	y.key(2, "autodiscover_url", a.value["autodiscover-url"])
	y.list(2, "trusted_hosts", a.value["trusted-hosts"])
	y.key(2, "ca_file", a.value[caQuestion])
	y.line(2, "# The accounts with which mailbell listens: another for each 1,250 mailboxes by EWS (mailbell check --plan N).")
	y.line(2, "listener_accounts:")
	y.line(3, "- name: listener-01")
	method := a.value["method"]
	if method == "" {
		return
	}
	y.line(4, "%s:", method)
	switch method {
	case credential.Basic, credential.NTLM:
		y.key(5, "username", a.value["username"])
		y.secret(5, "password_file", accountFile, a.value["password"])
	default:
		y.key(5, "tenant_id", a.value["tenant-id"])
		y.key(5, "client_id", a.value["client-id"])
		y.secret(5, "secret_file", appFile, a.value["client-secret"])
		y.key(5, "expires", a.value["client-secret-expires"])
		y.secret(5, "file", appKeyFile, a.value["certificate"])
		y.secret(5, "password_file", appKeyWord, a.value["certificate-password"])
	}
}

func (a answers) apns(y *writer) {
	y.comment("The apps that get alerts, by their bundle ids.")
	y.line(0, "apns:")
	if a.noApp() {
		y.line(1, "- topic: %s", standInTopic)
		y.line(2, "token: {key_file: %s/%s, key_id: %s, team_id: %s}", secretsDir, pushKeyFile, standInKeyID, standInTeamID)
		return
	}
	y.line(1, "- topic: %s", quoted(a.value["apns-topic"]))
	y.key(2, "environment", a.value["apns-environment"])
	y.key(2, "url", a.value["apns-url"])
	y.key(2, "ca_file", a.value["apns-ca-file"])
	y.line(2, "token:")
	y.secret(3, "key_file", pushKeyFile, a.value["apns-key"])
	y.key(3, "key_id", a.value["apns-key-id"])
	y.key(3, "team_id", a.value["apns-team-id"])
}

// writer writes YAML.
type writer struct{ strings.Builder }

// line writes a line, indented by so many steps.
func (w *writer) line(steps int, format string, args ...any) {
	w.WriteString(strings.Repeat("  ", steps))
	fmt.Fprintf(w, format+"\n", args...)
}

// comment begins a section.
func (w *writer) comment(text string) { fmt.Fprintf(w, "\n# %s\n", text) }

// key writes a key with its value, if there is one.
func (w *writer) key(steps int, name, v string) {
	if v != "" {
		w.line(steps, "%s: %s", name, quoted(v))
	}
}

// secret writes a key with the name of a file, if there is an answer that the file holds.
func (w *writer) secret(steps int, name, file, v string) {
	if v != "" {
		w.line(steps, "%s: %s/%s", name, secretsDir, file)
	}
}

// list writes a key with the parts of an answer, if there is one.
func (w *writer) list(steps int, name, v string) {
	if v != "" {
		w.line(steps, "%s: [%s]", name, quotedList(v))
	}
}

func quotedList(v string) string {
	parts := list(v)
	for i := range parts {
		parts[i] = quoted(parts[i])
	}
	return strings.Join(parts, ", ")
}

// bare are texts that are the same without quotes, wherever they stand in YAML.
var bare = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/@-]*$`)

// otherwise are those that YAML reads as something else than a text.
var otherwise = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

// quoted writes a text of one line for YAML.
func quoted(v string) string {
	if bare.MatchString(v) && !slices.Contains(otherwise, strings.ToLower(v)) {
		return v
	}
	return "'" + strings.ReplaceAll(v, "'", "''") + "'"
}
