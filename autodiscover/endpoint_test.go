package autodiscover

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestTheEndpointThatWorkedIsAskedFirstUntilItFails(t *testing.T) {
	const moved = "https://new.contoso.com/autodiscover/autodiscover.svc"
	good := page{body: soap(userSettings(mailURL))}
	n := &internet{t: t, web: map[string]page{namedSOAP: good}}
	c := n.client(Options{})
	find := func(name string, want error, asked ...string) {
		t.Helper()
		n.asked = nil
		_, err := c.Find(t.Context(), "user@contoso.com")
		if (err == nil) != (want == nil) || !slices.Equal(n.asked, asked) {
			t.Errorf("%s: %v, %q", name, err, n.asked)
		}
	}
	one, other := both("contoso.com"), both("autodiscover.contoso.com")
	find("first", nil, one[0], other[0])
	find("then", nil, other[0])

	n.web[namedSOAP] = page{status: 302, location: moved}
	n.web[moved] = good
	find("it redirects everybody", nil, other[0], "SOAP "+moved+user)
	n.web[namedSOAP] = page{status: 503} // the known endpoint fails, and so do the other candidates
	find("it is busy", &fault.Error{}, other[0], one[0], "GET "+plain, srvName)
	n.web[namedSOAP] = page{status: 302, location: moved}
	find("after that", nil, one[0], other[0], "SOAP "+moved+user)
	find("where the redirect led is remembered", nil, "SOAP "+moved+user)

	n.web[moved] = page{body: soap(userError("InvalidUser"))} // its word is taken
	find("unknown there", &fault.Error{}, "SOAP "+moved+user)
	n.web[moved] = page{body: "<Envelope>"} // perhaps this user's settings only: POX may know better
	n.web["https://new.contoso.com/autodiscover/autodiscover.xml"] = page{body: settings(mailURL)}
	find("POX in place of SOAP", nil, "SOAP "+moved+user, "POX https://new.contoso.com/autodiscover/autodiscover.xml"+user)
	n.web[moved] = good
	find("SOAP is still the one", nil, "SOAP "+moved+user)
	n.web[moved] = page{status: 401}
	find("refused, and nobody else is asked", &fault.Error{}, "SOAP "+moved+user)
}

func TestWhatAFailureOfAMomentTaughtIsForgottenWithinTheHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// While the server starts, POX answers and SOAP does not.
		n := &internet{t: t, web: map[string]page{namedSOAP: {status: 500}, named: {body: settings(mailURL)}}}
		c := n.client(Options{})
		find := func(want ...string) {
			t.Helper()
			n.asked = nil
			if _, err := c.Find(t.Context(), "user@contoso.com"); err != nil || !slices.Equal(n.asked, want) {
				t.Errorf("%v, %q", err, n.asked)
			}
		}
		one, other := both("contoso.com"), both("autodiscover.contoso.com")
		find(one[0], other[0], other[1])
		n.web[namedSOAP] = page{body: soap(userSettings(mailURL))}
		<-time.After(time.Hour - time.Second)
		find(other[1])
		<-time.After(time.Second)
		find(one[0], other[0])
		find(other[0])
	})
}

func TestARedirectOfOneUserIsNotFollowedForOthers(t *testing.T) {
	const site = "https://site2.contoso.com/autodiscover/autodiscover.svc"
	n := &internet{t: t, web: map[string]page{
		namedSOAP + user: {body: soap(userRedirect("RedirectUrl", site))}, site: {body: soap(userSettings(mailURL))},
		namedSOAP: {body: soap(userSettings(mailURL))},
	}}
	c := n.client(Options{})
	for _, u := range []string{"user@contoso.com", "other@contoso.com"} {
		if _, err := c.Find(t.Context(), u); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"SOAP " + bareSOAP + user, "SOAP " + namedSOAP + user, "SOAP " + site + user, "SOAP " + namedSOAP + " other@contoso.com"}; !slices.Equal(n.asked, want) {
		t.Errorf("%q", n.asked)
	}
}

func TestWhatOneMailDomainIsLedToAnotherIsNot(t *testing.T) {
	// contoso.com serves its subsidiary's mailboxes, whose own domain redirects an address into contoso.com.
	const foreign = "https://autodiscover.fabrikam.com/autodiscover/autodiscover.svc"
	n := &internet{t: t, web: map[string]page{
		namedSOAP:                     {body: soap(userSettings(mailURL))},
		foreign + " bob@fabrikam.com": {body: soap(userRedirect("RedirectAddress", "bob@contoso.com"))},
	}}
	c := n.client(Options{})
	if _, err := c.Find(t.Context(), "user@contoso.com"); err != nil {
		t.Fatal(err)
	}
	_, err := c.Find(t.Context(), "bob@fabrikam.com")
	if fault.Of(err).Code != CodeHost || slices.Contains(n.asked, "SOAP "+namedSOAP+" bob@contoso.com") {
		t.Errorf("%v, %q", err, n.asked)
	}
	n.asked = nil
	if _, err := c.Find(t.Context(), "user@contoso.com"); err != nil || len(n.asked) != 1 {
		t.Errorf("%v, %q", err, n.asked)
	}
}

func TestAnEndpointThatIsForOneMailDomainOnlyIsNotAskedForAnother(t *testing.T) {
	// A mailbox of fabrikam.com is redirected into contoso.com, which leads back to a host of fabrikam.com.
	const back = "https://autodiscover.fabrikam.com/autodiscover/autodiscover.svc"
	n := &internet{t: t, web: map[string]page{
		back + " bob@fabrikam.com": {body: soap(userRedirect("RedirectAddress", "bob@contoso.com"))},
		plain:                      {status: 302, location: back}, back: {body: soap(userSettings("https://mail.fabrikam.com/EWS/Exchange.asmx"))},
		namedSOAP: {body: soap(userSettings(mailURL))},
	}}
	c := n.client(Options{})
	if p, err := c.Find(t.Context(), "bob@fabrikam.com"); err != nil || p.URL != "https://mail.fabrikam.com/EWS/Exchange.asmx" {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err := c.Find(t.Context(), "user@contoso.com"); err != nil || p.URL != mailURL || slices.Contains(n.asked, "SOAP "+back+user) {
		t.Errorf("%+v, %v, %q", p, err, n.asked)
	}
}

func TestAnEndpointThatFailedIsTriedAgainOnceOthersHaveFoundItGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &internet{t: t, web: map[string]page{namedSOAP: {body: soap(userSettings(mailURL))}}}
		c := n.client(Options{})
		s := &search{Client: c, enrolled: "contoso.com", hosts: c.o.Hosts, asked: map[string]bool{namedSOAP + user: true}} // it failed a moment ago
		domain := s.domain("user@contoso.com")
		_, w, _ := c.turn(domain, false)
		found := make(chan *fault.Error)
		go func() {
			_, err := s.look(t.Context(), "user@contoso.com")
			found <- err
		}()
		synctest.Wait()
		c.walked(domain, w, endpoint{namedSOAP, true}, nil)
		if err := <-found; err != nil || c.known[domain].endpoint != (endpoint{namedSOAP, true}) {
			t.Errorf("%v, %v", err, c.known)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	c := New(Options{})
	for i := range 3000 {
		domain := strconv.Itoa(i)
		_, w, _ := c.turn(domain, false)
		c.walked(domain, w, endpoint{url: "https://contoso.com/x"}, nil)
	}
	if n := len(c.known); n > 1000 || len(c.walks) != 0 {
		t.Errorf("%d endpoints, %d walks", n, len(c.walks))
	}
}

func TestAWalkThatFindsNobodyIsMadeOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, status: 401}
		errs := s.search(t.Context(), s.client(Options{}), names(1000))
		if failures(errs) != 1000 || fault.Of(errs[500]).Code != codeRefused {
			t.Errorf("%d failures: %v", failures(errs), errs[500])
		}
		if len(s.batches) != 1 || s.plain.Load() != 2 { // the mail domain's own host, and the plain redirect
			t.Errorf("%d refusals, %d other requests", len(s.batches), s.plain.Load())
		}
	})
	synctest.Test(t, func(t *testing.T) { // where it fails for one user, the next one looks
		s := &server{t: t, answer: func(users []string) string {
			if slices.Contains(users, "user0000@contoso.com") {
				return soap(userError("InvalidUser"))
			}
			return soap(each(users)...)
		}}
		c := s.client(Options{})
		users := names(100)
		first := make(chan error)
		go func() {
			_, err := c.Find(t.Context(), users[0])
			first <- err
		}()
		synctest.Wait()
		if errs := s.search(t.Context(), c, users[1:]); failures(errs) != 0 {
			t.Errorf("%d failures: %v", failures(errs), errs)
		}
		if err := <-first; !fault.Of(err).Elsewhere || !strings.Contains(err.Error(), "InvalidUser") {
			t.Errorf("%v", err)
		}
	})
}

// A domain of which this Exchange has nobody, or whose Autodiscover leads to a host that is not trusted, holds up no other.
func TestWalksThatFindOneUserNotAreNotMadeOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, answer: func(users []string) string {
			return soap(slices.Repeat([]string{userError("InvalidUser")}, len(users))...)
		}}
		c, start := s.client(Options{}), time.Now()
		if errs := s.search(t.Context(), c, names(64)); failures(errs) != 64 { // as many as the workers of an entry
			t.Errorf("%d failures", failures(errs))
		}
		// A walk takes two seconds: the mail domain's own host, and the plain redirect, are not there.
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		if len(c.walks) != 0 || len(c.queues) != 0 {
			t.Errorf("left behind: %v %v", c.walks, c.queues)
		}
	})
}

func TestEndpointsAreToldApartByTheirNames(t *testing.T) {
	for u, want := range map[string]endpoint{
		bare:     {bareSOAP, true},
		bareSOAP: {bareSOAP, true},
		"https://contoso.com/Autodiscover/Autodiscover.XML": {"https://contoso.com/Autodiscover/Autodiscover.svc", true},
		"https://contoso.com/x":                             {"https://contoso.com/x", false},
		"https://contoso.com/notautodiscover.xml":           {"https://contoso.com/notautodiscover.xml", false},
		"": {},
	} {
		if got := candidate(u); got != want {
			t.Errorf("%s: %v", u, got)
		}
	}
	soap, pox := endpoint{bareSOAP, true}, endpoint{bare, false}
	for _, c := range []struct {
		from endpoint
		to   string
		want endpoint
	}{
		{soap, "https://contoso.com/x", endpoint{"https://contoso.com/x", true}},
		{soap, bare, pox},
		{pox, bareSOAP, soap},
		{pox, "https://contoso.com/x", endpoint{"https://contoso.com/x", false}},
	} {
		if got := c.from.to(c.to); got != c.want {
			t.Errorf("%v to %s: %v", c.from, c.to, got)
		}
	}
}
