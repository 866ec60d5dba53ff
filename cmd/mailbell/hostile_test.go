package main_test

// Servers that mean harm, or are somebody else's: what they say leads neither mail nor a password astray.

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/subscriptions"
)

// site is a web server under names of our domain and of others, with a certificate that is valid for all of them. It asks everybody for
// Basic, and takes down what it gets.
type site struct {
	answer func(w http.ResponseWriter, r *http.Request) // to who gives a password

	mu        sync.Mutex
	asked     []string // hosts
	passwords []string // hosts that were sent one
}

// Names of the site.
const (
	bareDomain = simulator.Domain                   // often a web hoster's
	hoster     = "autodiscover." + simulator.Domain // likewise
	evil       = "evil.example"
)

// newSite starts a site, and has the service reach everything through a proxy that knows the site's names.
func newSite(inst *installation, answer func(w http.ResponseWriter, r *http.Request)) *site {
	inst.t.Helper()
	s := &site{answer: answer}
	names := []string{bareDomain, hoster, evil}
	url := inst.serve(trusted, func(_, leaf *x509.Certificate) { leaf.IPAddresses, leaf.DNSNames = nil, names }, s)
	socks := proxytest.StartSOCKS(inst.t)
	for _, name := range names {
		socks.Resolve(name+":443", strings.TrimPrefix(url, "https://"))
	}
	inst.secret("proxy-password", proxytest.Password)
	inst.extend(fmt.Sprintf("proxy: {url: 'socks5://%s', username: %s, password_file: proxy-password}\n", socks.Address, proxytest.Username))
	return s
}

// ServeHTTP asks for a password, or answers.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Host)
	given := r.Header.Get("Authorization") != ""
	if given {
		s.passwords = append(s.passwords, r.Host)
	}
	s.mu.Unlock()
	if !given {
		w.Header().Set("WWW-Authenticate", `Basic realm="Customers"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.answer(w, r)
}

// at returns whether a host of the site was asked, and whether it was sent a password.
func (s *site) at(host string) (asked, password bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.asked, host), slices.Contains(s.passwords, host)
}

// pox is an answer of Autodiscover: what stands in its Response.
func pox(response string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(strings.ToLower(r.URL.Path), "/autodiscover.xml") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006">`+
			`<Response xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a">%s</Response></Autodiscover>`, response)
	}
}

// settings is what Autodiscover says of a mailbox that it calls primary.
func settings(primary, ews string) string {
	return "<User><AutoDiscoverSMTPAddress>" + primary + "</AutoDiscoverSMTPAddress></User><Account><AccountType>email</AccountType><Action>settings</Action>" +
		"<Protocol><Type>EXPR</Type><EwsUrl>" + ews + "</EwsUrl></Protocol></Account>"
}

const evilEWS = "https://" + evil + "/EWS/Exchange.asmx"

func TestNoPasswordGoesToAHostThatTheConfigurationDoesNotTrust(t *testing.T) {
	t.Parallel()
	// Autodiscover is where the configuration says, and gets a password; where it leads gets none.
	at := func(inst *installation) {
		inst.edit(inst.sim.AutodiscoverURL, "https://"+hoster+"/autodiscover/autodiscover.xml")
	}
	for _, c := range []struct {
		name    string
		answer  func(w http.ResponseWriter, r *http.Request)
		prepare func(inst *installation)
		asked   []string // hosts of the site
		named   string   // the one of them that the configuration names
		says    string   // in the reason of the mailbox
	}{
		{"a hoster has the mail domain, and its autodiscover name", pox(settings(first, evilEWS)),
			func(inst *installation) { inst.edit("  autodiscover_url: "+inst.sim.AutodiscoverURL+"\n", "") },
			[]string{bareDomain, hoster}, "", "host not trusted"},
		{"Autodiscover redirects by HTTP", http.RedirectHandler("https://"+evil+"/autodiscover/autodiscover.xml", http.StatusFound).ServeHTTP, at, []string{hoster}, hoster, evil},
		{"Autodiscover redirects to a URL",
			pox("<Account><Action>redirectUrl</Action><RedirectUrl>https://" + evil + "/autodiscover/autodiscover.xml</RedirectUrl></Account>"), at, []string{hoster}, hoster, evil},
		{"Autodiscover names an EWS elsewhere", pox(settings(first, evilEWS)), at, []string{hoster}, hoster, evil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inst := install(t, simulator.Options{Mailboxes: 1})
			s := newSite(inst, c.answer)
			c.prepare(inst)
			inst.start()
			inst.enrolAll()
			var m mailbox
			if !waitUntil(t.Context(), soon, func() bool {
				m = inst.mailbox(inst.boxes[0])
				return m.State == "failing" && strings.Contains(m.Reason, c.says)
			}) {
				t.Errorf("the mailbox is %s (%s), and it does not say %q", m.State, m.Reason, c.says)
			}
			for _, host := range []string{bareDomain, hoster, evil} {
				asked, password := s.at(host)
				if slices.Contains(c.asked, host) && !asked {
					t.Errorf("%s was not asked", host)
				}
				if password && host != c.named {
					t.Errorf("%s was sent a password", host)
				}
			}
		})
	}
}

// Whoever can write into the state sends no password anywhere.
func TestALocationThatIsWrittenIntoTheStateGetsNoPassword(t *testing.T) {
	t.Parallel()
	for name, redis := range map[string]bool{"file": false, "Redis": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inst := install(t, simulator.Options{Mailboxes: 3})
			s := newSite(inst, http.NotFound)
			address := ""
			if redis {
				address = "127.0.0.1:" + inst.inRedis().port
			}
			inst.startWithDevices()
			inst.stop()
			inst.relocate(address, evilEWS)
			inst.start()
			inst.awaitListening()
			inst.deliverTo(inst.boxes...)
			inst.balance(0)
			for _, host := range []string{bareDomain, hoster, evil} {
				if _, password := s.at(host); password {
					t.Errorf("%s was sent a password", host)
				}
			}
		})
	}
}

// relocate writes a location into every record of the state: of the Redis at an address, else of the file.
func (inst *installation) relocate(redis, url string) {
	inst.t.Helper()
	ctx := context.Background()
	var store subscriptions.Store
	var err error
	if redis == "" {
		store, err = subscriptions.OpenEmbedded(inst.stateFile())
	} else {
		var r *subscriptions.Redis
		if r, _, err = subscriptions.OpenRedis(ctx, subscriptions.RedisOptions{Address: redis, Prefix: "mailbell"}); err == nil {
			store, err = r, r.Hold(ctx, func(string, error) {})
		}
	}
	if err != nil {
		inst.t.Fatal(err)
	}
	defer store.Close()
	book, err := subscriptions.Open(ctx, store)
	if err != nil {
		inst.t.Fatal(err)
	}
	for _, m := range book.Mailboxes() {
		at := m.Record().Location()
		at.URL, at.Found = url, time.Now().Add(-time.Minute)
		err := m.Update(ctx, func(d *subscriptions.Draft) { d.At = &at })
		if err != nil {
			inst.t.Fatal(err)
		}
	}
}

// A partner's Autodiscover calls the partner's own mailbox by the address of one of ours, and the partner's server has a mailbox of that
// address too. Neither phone shows the other's mail, and none is silent, whoever was enrolled first, and after a restart.
func TestAPartnersAutodiscoverTakesNobodysMail(t *testing.T) {
	t.Parallel()
	const theirs = "bob@fabrikam.example"
	for order, enrolled := range map[string][]string{"the owner first": {first, theirs}, "the partner first": {theirs, first}} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			inst := install(t, simulator.Options{Mailboxes: 1})
			partner, err := simulator.Start(context.Background(), simulator.Options{Addresses: []string{theirs, first}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = partner.Close() })
			claims := pox(settings(first, partner.EWSURL))
			url := inst.serve(trusted, good, http.HandlerFunc(claims))
			roots, err := os.ReadFile(inst.sim.CAFile)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(inst.dir, "partner.pem"), append(roots, partner.CAPEM...), 0o600); err != nil {
				t.Fatal(err)
			}
			inst.secret("partner-password", partner.Password)
			inst.edit("apns:\n", fmt.Sprintf(`- name: partner
  domains: [fabrikam.example]
  autodiscover_url: %s/autodiscover/autodiscover.xml
  ca_file: partner.pem
  listener_accounts: [{name: partner-01, basic: {username: '%s', password_file: partner-password}}]
apns:
`, url, partner.Username))
			inst.start()
			tokens := map[string]string{}
			inst.boxes = nil
			for _, address := range enrolled {
				b := &box{address: address}
				tokens[address] = inst.enrol(b, "phone-of-"+strings.ReplaceAll(address, "@", "-at-"))
				inst.boxes = append(inst.boxes, b)
				inst.awaitListening()
			}
			expected := map[string][]string{}
			deliver := func(sim *simulator.Server, address, owner string) {
				t.Helper()
				subject := fmt.Sprintf("number %d for %s", len(expected[first])+len(expected[theirs]), owner)
				message := fmt.Sprintf("From: a@fabrikam.example\r\nSubject: %s\r\nMessage-ID: <%s@x>\r\n\r\n\r\n", subject, strings.ReplaceAll(subject, " ", "-"))
				if _, err := sim.Deliver(address, time.Time{}, []byte(message)); err != nil {
					t.Fatal(err)
				}
				if tokens[owner] != "" {
					expected[owner] = append(expected[owner], subject)
				}
			}
			for range 2 {
				deliver(partner, first, "nobody: who has the partner's mailbox of our address")
				deliver(inst.sim, first, first)
				deliver(partner, theirs, theirs)
				for address, token := range tokens {
					eventually(t, soon, address+" has its alerts", func() bool { return len(alertsOf(inst.sim, token)) >= len(expected[address]) })
				}
				inst.restart()
				inst.awaitListening()
			}
			for address, token := range tokens {
				var got []string
				for _, a := range alertsOf(inst.sim, token) {
					p, err := read(a)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, p.APS.Alert.Body)
				}
				if !slices.Equal(got, expected[address]) {
					t.Errorf("the phone of %s shows %q, want %q", address, got, expected[address])
				}
			}
			if said := inst.tells(theirs); !strings.Contains(said, "does not count") {
				t.Errorf("why does not say that the address which the partner tells does not count:\n%s", said)
			}
		})
	}
}
