package setup

// The questions, in parts. Each is a flag of its name too.

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/certificate"
	"github.com/mailbell/mailbell/internal/challenge"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/service"
)

// part is a group of questions that belong together.
type part struct {
	title     string
	survey    bool // Autodiscover is asked before
	questions []question
	plan      bool         // what the answers take is said after
	try       service.Part // what is tried after; Everything: nothing is
	steps     []string     // the steps of that check that the answers are about
}

// question asks for one answer.
type question struct {
	name     string                       // of the answer and of its flag
	ask      string                       // what a person is asked
	help     string                       // a sentence before
	key      string                       // where config reports a mistake in the answer; METHOD is the authentication method
	also     string                       // another such key
	secret   bool                         // not shown; its flags name a file or a variable
	file     bool                         // the answer is the path of a file, which is there
	local    bool                         // the answer is a path, relative to mailbell.yaml
	optional bool                         // none is an answer
	later    bool                         // asked only where the part is asked again
	quiet    bool                         // never asked: a flag only
	confirm  bool                         // the default takes a person's consent
	choices  func(answers) []string       // nil: any text
	preset   func(answers) string         // the default; nil: none
	when     func(answers) bool           // nil: always
	right    func(string) (string, error) // checks what config does not, and returns how the answer is kept; nil: nothing
}

func parts() []part {
	return []part{
		{title: "The proxy", questions: outward(), steps: []string{check.StepProxy}},
		{title: "The mailbox", survey: true, questions: mailbox(), steps: []string{"", check.StepLocation}},
		{title: "The listener account", questions: account(), plan: true, try: service.OnlyExchange,
			steps: []string{check.StepCredential, check.StepSignIn, check.StepImpersonation}},
		{title: "The app and APNs", questions: app(), try: service.OnlyAPNs, steps: []string{check.StepAPNs}},
		{title: "This machine", questions: machine(), try: service.OnlyState, steps: []string{check.StepState}},
	}
}

// words are the choices of a question.
func words(list ...string) func(answers) []string { return func(answers) []string { return list } }

// always is the same default whatever was answered.
func always(v string) func(answers) string { return func(answers) string { return v } }

func outward() []question {
	proxied := func(a answers) bool { return a.value["proxy"] != "" }
	return []question{
		{name: "proxy", ask: "URL of the proxy", key: "proxy.url", optional: true,
			help: "mailbell connects to Exchange and to APNs. If this takes a proxy, give its URL:\n" +
				"http://proxy.contoso.com:3128, https:// or socks5://."},
		{name: "proxy-bypass", ask: "Hosts that are reached without the proxy, with commas between them", key: "proxy.bypass", optional: true,
			when: proxied,
			help: "For example the Exchange servers: .contoso.com is every host below contoso.com, 10.0.0.0/8 is a network."},
		{name: "proxy-username", ask: "User name at the proxy", key: "proxy.username", optional: true, when: proxied},
		{name: "proxy-password", ask: "Password at the proxy", key: "proxy.password_file", secret: true,
			when: func(a answers) bool { return proxied(a) && a.value["proxy-username"] != "" }},
	}
}

func mailbox() []question {
	custom := func(a answers) bool { return a.online() && a.value["cloud"] == "custom" }
	ca := caFile()
	ca.later = true
	return []question{
		{name: addressQuestion, ask: "Mail address", later: true, right: mail.ParseAddress},
		{name: "type", ask: "Where is the mailbox", choices: words(config.OnPremises, config.Online), preset: answers.likelyType,
			help: "exchange is an Exchange Server of your own, online is Exchange Online."},
		{name: "domains", ask: "Mail domains of the mailboxes, with commas between them", key: "exchange[0].domains",
			preset: func(a answers) string { return mail.Domain(a.value[addressQuestion]) }},
		{name: "cloud", ask: "Microsoft's cloud", key: "exchange[0].cloud", when: answers.online,
			choices: words("global", "gcc", "gcc-high", "dod", "china", "custom"), preset: always("global")},
		{name: "cloud-ews", ask: "URL of EWS of the custom cloud", key: "exchange[0].cloud_urls.ews", when: custom},
		{name: "cloud-autodiscover", ask: "URL of Autodiscover of the custom cloud, https://host", key: "exchange[0].cloud_urls.autodiscover", when: custom},
		{name: "cloud-authority", ask: "URL of Entra ID of the custom cloud, https://host", key: "exchange[0].cloud_urls.authority", when: custom},
		{name: "cloud-graph", ask: "URL of Microsoft Graph of the custom cloud, https://host", key: "exchange[0].cloud_urls.graph", when: custom},
		{name: "listen-by", ask: "How does mailbell listen in Exchange Online", key: "exchange[0].listen_by", when: answers.online,
			choices: words(config.ByGraph, config.ByStreaming), preset: always(config.ByGraph),
			help: "graph is Microsoft Graph. streaming is EWS, which ends in Exchange Online on 2027-04-01."},
		{name: "public-url", ask: "URL at which Microsoft reaches mailbell", key: "public_url", optional: true,
			when: func(a answers) bool { return a.online() && a.value["listen-by"] == config.ByGraph },
			help: "Microsoft Graph posts there when mail comes, from the internet: https://mailbell.contoso.com.\n" +
				"Without one the mailboxes are polled."},
		{name: "autodiscover-url", ask: "URL of Autodiscover", key: "exchange[0].autodiscover_url", optional: true,
			preset: answers.likelyAutodiscover, confirm: true, when: answers.takesAutodiscover,
			help: "As in https://mail.contoso.com/autodiscover/autodiscover.xml. mailbell sends the password to this host.\n" +
				"Without one mailbell finds it from the mail domain."},
		{name: "ews-url", ask: "URL of EWS", key: "exchange[0].ews_url", optional: true, when: answers.takesEWS,
			help: "Only without Autodiscover: https://mail.contoso.com/EWS/Exchange.asmx, the same for all mailboxes."},
		{name: "trusted-hosts", ask: "More hosts that may get the password, with commas between them", key: "exchange[0].trusted_hosts",
			optional: true, later: true, when: answers.onPremises},
		ca,
	}
}

// Names of questions that are not only asked.
const (
	addressQuestion = "address"
	caQuestion      = "ca-file"
)

// caFile is asked where a server's certificate is not trusted.
func caFile() question {
	return question{
		name: caQuestion, ask: "File with the certificate authority of the Exchange servers (PEM)", key: "exchange[0].ca_file",
		file: true, optional: true, help: "Without one the system's trusted roots count.",
	}
}

func account() []question {
	const key = "exchange[0].listener_accounts[0].METHOD."
	by := func(methods ...string) func(answers) bool {
		return func(a answers) bool { return slices.Contains(methods, a.value["method"]) }
	}
	byPassword, byApp := by(credential.Basic, credential.NTLM), by(credential.ClientSecret, credential.Certificate)
	return []question{
		{name: "method", ask: "How does the listener account sign in", choices: answers.methods, preset: answers.likelyMethod,
			help: "basic and ntlm take a user and a password. client_secret and certificate take an app of Entra ID."},
		{name: "username", ask: `User name of the listener account, DOMAIN\name or name@domain`, key: key + "username", when: byPassword},
		{name: "password", ask: "Password of the listener account", key: key + "password_file", secret: true, when: byPassword},
		{name: "tenant-id", ask: "Directory (tenant) ID, or a domain of the tenant", key: key + "tenant_id", when: byApp},
		{name: "client-id", ask: "Application (client) ID", key: key + "client_id", when: byApp},
		{name: "client-secret", ask: "Value of the client secret", key: key + "secret_file", secret: true, when: by(credential.ClientSecret)},
		{name: "client-secret-expires", ask: "Day on which the client secret expires, as in 2027-05-01", key: key + "expires",
			optional: true, when: by(credential.ClientSecret), help: "mailbell warns before that day."},
		{name: "certificate", ask: "File with the certificate of the app and its key (PFX or PEM)", file: true,
			when: by(credential.Certificate), right: certificateFile},
		{name: "certificate-password", ask: "Password of the file of the certificate", key: key + "password_file", also: key + "file",
			secret: true, optional: true, when: by(credential.Certificate)},
		{name: "mailboxes", ask: "How many mailboxes will have alerts, about", preset: always("100"), right: number(1, maxMailboxes)},
	}
}

// maxMailboxes is more than any organisation has.
const maxMailboxes = 1_000_000

func app() []question {
	return []question{
		{name: "apns-topic", ask: "Bundle id of the mail app", key: "apns[0].topic", help: "The topic of its alerts, as in com.contoso.mail."},
		{name: "apns-environment", ask: "Environment of APNs", key: "apns[0].environment",
			choices: words(config.Production, config.Sandbox), preset: always(config.Production),
			help: "production for an app from the App Store, TestFlight or an MDM; sandbox for one that runs from Xcode."},
		{name: "apns-key", ask: "File with the key for APNs (.p8)", key: "apns[0].token.key_file", file: true},
		{name: "apns-key-id", ask: "Id of the key for APNs", key: "apns[0].token.key_id", preset: answers.likelyKeyID},
		{name: "apns-team-id", ask: "Team id", key: "apns[0].token.team_id", help: "Under Membership in Apple's developer account."},
		{name: "apns-url", ask: "URL of another APNs, for tests", key: "apns[0].url", optional: true, quiet: true},
		{name: "apns-ca-file", ask: "File with the certificate authority of another APNs (PEM)", key: "apns[0].ca_file",
			file: true, optional: true, quiet: true},
	}
}

// Where the state is.
const (
	stateFile  = "file"
	stateRedis = "redis"
)

func machine() []question {
	inRedis := func(a answers) bool { return a.value["state"] == stateRedis }
	return []question{
		{name: "state", ask: "Where are the enrolments stored", choices: words(stateFile, stateRedis), preset: always(stateFile),
			help: "file is a file of mailbell's own. redis allows a second instance that takes over."},
		{name: "state-path", ask: "File of the enrolments", key: "state.path", preset: always(defaultState), local: true,
			when: func(a answers) bool { return !inRedis(a) }, help: "A name without a folder is a file beside mailbell.yaml."},
		{name: "redis", ask: "Redis, host:port", key: "state.redis.addresses", when: inRedis},
		{name: "redis-tls", ask: "Is Redis reached by TLS", key: "state.redis.tls", when: inRedis,
			choices: words("no", "yes"), preset: always("no")},
		{name: "redis-ca-file", ask: "File with the certificate authority of Redis (PEM)", key: "state.redis.ca_file",
			file: true, optional: true, when: func(a answers) bool { return inRedis(a) && a.value["redis-tls"] == "yes" }},
		{name: "redis-password", ask: "Password at Redis", key: "state.redis.password_file", secret: true, optional: true, when: inRedis},
		{name: "redis-username", ask: "User name at Redis, if it is an ACL user's", key: "state.redis.username", optional: true,
			when: func(a answers) bool { return inRedis(a) && a.value["redis-password"] != "" }},
		{name: "listen", ask: "Where does the API listen, host:port", key: "listen", preset: always("127.0.0.1:8080"), right: fixedPort,
			help: "127.0.0.1 is this machine only. Another address needs TLS: set it in mailbell.yaml later."},
	}
}

// certificateFile checks a file with a certificate and its key. One that takes a password cannot be read yet.
func certificateFile(name string) (string, error) {
	path, content, err := readFile(name)
	if err != nil {
		return "", err
	}
	_, err = certificate.Load(content, "")
	if errors.Is(err, certificate.ErrPassword) {
		return path, nil
	}
	return path, err
}

// number checks a number with its bounds.
func number(least, most int) func(string) (string, error) {
	return func(v string) (string, error) {
		if n, err := strconv.Atoi(v); err != nil || n < least || n > most {
			return "", fmt.Errorf("want a number from %d to %d", least, most)
		}
		return v, nil
	}
}

// atoi reads a number that was checked.
func atoi(v string) int {
	n, err := strconv.Atoi(v)
	if err != nil {
		return 1
	}
	return n
}

// fixedPort refuses an address whose port is another one at each start: the MDM portal has to find it.
func fixedPort(v string) (string, error) {
	if _, port, err := net.SplitHostPort(v); err == nil && strings.Trim(port, "0") == "" {
		return "", fmt.Errorf("want a port other than 0")
	}
	return v, nil
}

func (a answers) online() bool { return a.value["type"] == config.Online }

func (a answers) onPremises() bool { return a.value["type"] == config.OnPremises }

// takesAutodiscover says whether a URL of Autodiscover is asked for: where none was found, or one to which no password goes by itself.
func (a answers) takesAutodiscover() bool {
	return a.onPremises() && (a.foundHere() == nil || a.likelyAutodiscover() != "" || a.value["autodiscover-url"] != "")
}

// takesEWS says whether a URL of EWS is asked for: where there is no Autodiscover.
func (a answers) takesEWS() bool {
	return a.onPremises() && (a.foundHere() == nil && a.value["autodiscover-url"] == "" || a.value["ews-url"] != "")
}

// likelyType is what the likeliest finding says; empty: there is none.
func (a answers) likelyType() string {
	switch {
	case len(a.found.Findings) > 0 && a.found.Findings[0].Online:
		return config.Online
	case len(a.found.Findings) > 0, a.value["autodiscover-url"] != "", a.value["ews-url"] != "":
		return config.OnPremises
	}
	return ""
}

// likelyAutodiscover is the URL that has to be configured, because mailbell sends no password there by itself; empty: none has to be.
func (a answers) likelyAutodiscover() string {
	p := a.foundHere()
	if p == nil {
		return ""
	}
	if host := hostOf(p.URL); hostname.Below(host, mail.Domain(a.value[addressQuestion])) {
		return ""
	}
	return p.URL
}

// methods are the authentication methods that fit: an app of Entra ID signs in on premises only where EWS has one URL.
func (a answers) methods() []string {
	byApp := []string{credential.ClientSecret, credential.Certificate}
	byPassword := []string{credential.Basic, credential.NTLM}
	switch {
	case a.online():
		return byApp
	case a.onPremises() && a.value["ews-url"] == "":
		return byPassword
	}
	return append(byPassword, byApp...)
}

// likelyMethod is the authentication method that the server offers: NTLM before Basic, because it does not send the password.
func (a answers) likelyMethod() string {
	if a.online() {
		return credential.ClientSecret
	}
	p := a.foundHere()
	switch {
	case p == nil:
		return credential.Basic
	case challenge.Has(p.Offers, "NTLM"):
		return credential.NTLM
	}
	return credential.Basic
}

// keyName is how Apple names the files of keys.
var keyName = regexp.MustCompile(`^AuthKey_([A-Z0-9]{10})\.p8$`)

func (a answers) likelyKeyID() string {
	if m := keyName.FindStringSubmatch(filepath.Base(a.value["apns-key"])); m != nil {
		return m[1]
	}
	return ""
}

// entryName is the name of the exchange entry.
func (a answers) entryName() string {
	if a.online() {
		return "cloud"
	}
	return "headquarters"
}

// listenBy is how the entry listens.
func (a answers) listenBy() string { return cmp.Or(a.value["listen-by"], config.ByStreaming) }
