package listener

// Nobody else's mail: what a server may say of whose mailbox it is.

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	finding "github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const partnersBob = "bob@fabrikam.example"

// partnership is the entry hq with alice, and the entry partner with bob, each with an Autodiscover. The partner covers these domains.
func (s *scene) partnership(domains ...string) (partner *exchange, hqFinder, partnerFinder *finder) {
	s.hq.url, s.hq.homes = hqURL, map[string]bool{alice: true, bob: true}
	hqFinder = &finder{url: hqURL, primary: map[string]string{}, homes: map[string]bool{alice: true, bob: true}}
	s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", hqFinder }
	partner = s.second("partner")
	partner.homes = map[string]bool{partnersBob: true, alice: true} // it answers for whomever it is asked
	partnerFinder = &finder{url: partner.url, primary: map[string]string{partnersBob: alice}, homes: map[string]bool{partnersBob: true}}
	s.also[0].Domains, s.also[0].URL, s.also[0].Accounts[0].Finder = domains, "", partnerFinder
	return partner, hqFinder, partnerFinder
}

// A partner's Autodiscover calls its own mailbox by the address of one of ours. The phones of the two stood in one record.
func TestNobodysPhoneShowsTheMailOfAnotherEntrysMailbox(t *testing.T) {
	for name, domains := range map[string][]string{"another domain": {"fabrikam.example"}, "the same domain too": {"fabrikam.example", "contoso.example"}} {
		for order, enrolled := range map[string][]string{"the owner first": {alice, partnersBob}, "the partner first": {partnersBob, alice}} {
			t.Run(name+", "+order, func(t *testing.T) {
				inScene(t, func(s *scene) {
					partner, _, _ := s.partnership(domains...)
					s.start()
					for _, address := range enrolled {
						s.enrol(strings.SplitN(address, "@", 2)[0], address)
						s.pass(time.Minute)
					}
					s.listening("hq", alice)
					s.listening("partner", partnersBob)
					if s.book.Mailbox(alice) == s.book.Mailbox(partnersBob) {
						t.Fatal("they are one mailbox")
					}
					for range 2 {
						ours := s.hq.come(alice)
						theirs := partner.come(s.status(partnersBob).Location.Primary)
						s.pass(time.Second)
						s.accepted(1, "alice", ours)
						s.accepted(1, "bob", theirs)
						if got := len(s.apns.got["alice"]) + len(s.apns.got["bob"]); got%2 != 0 {
							t.Errorf("%d alerts", got)
						}
						s.stop()
						s.start() // and as it was stored
						s.pass(time.Minute)
					}
					if a, b := len(s.apns.got["alice"]), len(s.apns.got["bob"]); a != 2 || b != 2 {
						t.Errorf("alice's phone has %d alerts, bob's %d", a, b)
					}
				})
			})
		}
	}
}

func TestAPrimaryAddressThatDoesNotCountIsSaid(t *testing.T) {
	inScene(t, func(s *scene) {
		s.partnership("fabrikam.example")
		s.start()
		core, logs := observer.New(zap.WarnLevel)
		s.l.log = zap.New(core)
		s.enrol("bob", partnersBob)
		s.pass(time.Minute)
		at := s.status(partnersBob).Location
		if at.Primary != partnersBob || !strings.Contains(at.How, alice) || !strings.Contains(at.How, "does not count") {
			t.Errorf("%+v", at)
		}
		s.pass(50 * time.Hour) // it is looked up each day
		said := logs.FilterMessageSnippet("does not count").All()
		if len(said) != 1 || said[0].ContextMap()["exchange"] != "partner" || said[0].ContextMap()["primary"] != alice {
			t.Errorf("the log says %v", logs.All())
		}
	})
}

// The web site of the mail domain, which is asked without credentials, calls everybody's mailbox alice's.
func TestAWebSiteDecidesNotWhoseMailIsRead(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.url, s.hq.homes = hqURL, map[string]bool{alice: true, bob: true}
		settings := func(r *http.Request, primary string) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(strings.NewReader(`<Autodiscover><Response><User><AutoDiscoverSMTPAddress>` + primary +
				`</AutoDiscoverSMTPAddress></User><Account><Action>settings</Action><Protocol><Type>EXPR</Type><EwsUrl>` + hqURL + `</EwsUrl></Protocol></Account></Response></Autodiscover>`))}, nil
		}
		o := finding.Options{
			Plain: roundTrip(func(r *http.Request) (*http.Response, error) { return settings(r, alice) }),
			HTTP:  roundTrip(func(r *http.Request) (*http.Response, error) { return settings(r, r.Header.Get("X-AnchorMailbox")) }),
		}
		o.Hosts.Domains = []string{"contoso.example"}
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", finding.New(o) }
		s.start()
		s.enrol("alice", alice)
		s.enrol("bob", bob)
		s.pass(time.Minute)
		m := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "alice", m)
		if got := s.apns.got["bob"]; len(got) != 0 || s.book.Mailbox(bob) == s.book.Mailbox(alice) || s.status(bob).Location.Primary != bob {
			t.Errorf("bob's phone has %d alerts of %+v", len(got), s.status(bob).Location)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Two addresses of one mailbox are joined where one entry has both, whichever was enrolled first, and also where the owner of the primary
// address comes later.
func TestWithinAnEntryTheAddressesOfAMailboxAreJoinedWhicheverWasEnrolledFirst(t *testing.T) {
	const alias = "a.smith@contoso.example"
	for _, enrolled := range [][]string{{alice, alias}, {alias, alice}} {
		inScene(t, func(s *scene) {
			_, f, _ := s.partnership("fabrikam.example")
			f.primary[alias], f.homes[alias] = alice, true
			s.start()
			for i, address := range enrolled {
				s.enrol([]string{"first", "second"}[i], address)
				s.pass(time.Minute)
			}
			if s.book.Mailbox(alice) != s.book.Mailbox(alias) || s.hq.subscribed() != 1 {
				t.Errorf("%v: they are not one mailbox, or have %d subscriptions", enrolled, s.hq.subscribed())
			}
			m := s.hq.come(alice)
			s.pass(time.Second)
			s.accepted(1, "first", m)
			s.accepted(1, "second", m)
		})
	}
}

// What one entry told is nothing that another is asked for: there it may be anybody's.
func TestNoEntryIsAskedForAnAddressThatAnotherHasTold(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.url, s.hq.homes = hqURL, map[string]bool{alice: true, bob: true}
		f := &finder{url: hqURL, primary: map[string]string{bob: carol}, homes: map[string]bool{bob: true}}
		s.hq.homes[carol] = true
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
		cloud := s.second("cloud")
		there := &finder{url: cloud.url, primary: map[string]string{}, homes: map[string]bool{carol: true}}
		s.also[0].URL, s.also[0].Accounts[0].Finder = "", there
		cloud.homes[carol] = true
		s.start()
		s.enrol("b", bob)
		s.pass(time.Minute)
		s.listening("hq", bob)
		f.set(func() { f.homes = map[string]bool{} }) // now hq knows nobody
		s.hq.set(func() { s.hq.homes = map[string]bool{} })
		s.hq.end(errReset)
		s.pass(2 * time.Hour)
		asked := there.askedFor()
		if slices.Contains(asked, carol) || s.status(bob).Location.Entry == "cloud" {
			t.Errorf("cloud was asked for %q", asked)
		}
	})
}

// The mailbox server that answers name (X-CalculatedBETarget) counts within the entry whose server says so: a partner that names one of our
// servers gets its mailbox neither to our entry nor to another account, and takes none of ours out.
func TestAMailboxServerThatAnEntryTellsIsOneOfThatEntry(t *testing.T) {
	inScene(t, func(s *scene) {
		partner, hqFinder, partnerFinder := s.partnership("fabrikam.example")
		withFinder := s.entry
		s.entry = func(e *Entry) { withFinder(e); e.MailboxServers = []string{"ex01"} }
		s.also[0].MailboxServers = []string{"px01"}
		delete(partnerFinder.primary, partnersBob)
		s.hq.servers = map[string]string{alice: "EX01.contoso.example"}
		partner.servers = map[string]string{partnersBob: "px01.fabrikam.example"}
		s.start()
		s.enrol("alice", alice)
		s.enrol("bob", partnersBob)
		s.pass(time.Minute)
		s.listening("hq", alice)
		s.listening("partner", partnersBob)
		partner.set(func() { partner.servers[partnersBob], partner.servers[alice] = "EX01.contoso.example", "px01" })
		theirs := partner.come(partnersBob) // the answer about it names our server
		ours := s.hq.come(alice)
		s.pass(5 * time.Minute)
		s.accepted(1, "bob", theirs)
		s.accepted(1, "alice", ours)
		if h := s.wantState(subscriptions.OutOfScope, partnersBob); !strings.Contains(h.Reason, "not among the mailbox_servers of partner") {
			t.Errorf("%+v", h)
		}
		s.listening("hq", alice)
		ofOurs, ofTheirs := hqFinder.askedFor(), partnerFinder.askedFor()
		if slices.Contains(ofOurs, partnersBob) || slices.Contains(ofTheirs, alice) {
			t.Errorf("hq was asked for %q, the partner for %q", ofOurs, ofTheirs)
		}
		partner.set(func() { partner.servers[partnersBob] = "PX01.fabrikam.example" })
		s.pass(75 * time.Minute)
		s.listening("partner", partnersBob)
		m := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "alice", m)
	})
}

// Whoever can write to the state cannot make a location last that nobody has looked up.
func TestALocationFromTheFutureIsLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		_, f, _ := s.partnership("fabrikam.example")
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		stored := func(d *subscriptions.Draft) {
			d.At = &mail.Location{Entry: "hq", URL: "https://evil.example/EWS/Exchange.asmx", Primary: alice, Found: time.Now().AddDate(1, 0, 0)}
		}
		if err := s.book.Mailbox(alice).Update(s.t.Context(), stored); err != nil {
			t.Fatal(err)
		}
		s.stop()
		f.asked = 0
		s.start() // where the exchange sees to it that nothing is asked elsewhere
		s.pass(time.Minute)
		s.listening("hq", alice)
		if at := s.status(alice).Location; at.URL != hqURL || f.asked != 1 {
			t.Errorf("%+v, asked %d times", at, f.asked)
		}
	})
}
