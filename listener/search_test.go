package listener

// The search for a mailbox by itself: what is known, what counts, and whom nobody has to ask.

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/mail"
)

const partnersUser = "bob@fabrikam.example"

func entryOf(name, url string, servers ...string) *entry {
	return &entry{Entry: &Entry{Name: name, Domains: []string{"contoso.example"}, URL: url, MailboxServers: servers}}
}

func TestAPrimaryAddressCountsInTheDomainsOfItsEntryOrWhereADeviceWasEnrolledWithIt(t *testing.T) {
	s := search{addresses: []string{partnersUser}}
	for address, want := range map[string]bool{alice: true, partnersUser: true, "carol@fabrikam.example": false} {
		if got := s.counts(entryOf("hq", hqURL), address); got != want {
			t.Errorf("%s counts: %v", address, got)
		}
	}
}

func TestAnEntryIsAskedForWhatItHasToldItselfAndMayTell(t *testing.T) {
	hq := entryOf("hq", "")
	for name, c := range map[string]struct {
		told, by string
		want     int
	}{
		"nothing":           {"", "", 1},
		"what it told":      {bob, "hq", 2},
		"another told it":   {bob, "cloud", 1},
		"not of its domain": {partnersUser, "hq", 1},
		"it is known":       {alice, "hq", 1},
	} {
		s := search{addresses: []string{alice}, told: c.told, toldBy: c.by}
		if got := s.of(hq); len(got) != c.want || got[0] != alice || len(s.addresses) != 1 {
			t.Errorf("%s: it is asked for %v", name, got)
		}
	}
}

func TestNobodyIsAskedWhereTheConfigurationAloneSaysWhereAMailboxLives(t *testing.T) {
	hq, cloud := entryOf("hq", hqURL), entryOf("cloud", "https://cloud.example")
	one, both, own := []*entry{hq}, []*entry{hq, cloud}, []string{alice}
	found, limited := []*entry{entryOf("found", "")}, []*entry{entryOf("limited", hqURL, "ex01")}
	for name, c := range map[string]struct {
		s    search
		want bool
	}{
		"one entry with its URL":         {search{covering: one, entries: one}, false},
		"two entries":                    {search{covering: both, entries: both}, true},
		"pinned to one of two":           {search{covering: both, entries: one}, true},
		"no URL":                         {search{covering: found, entries: found}, true},
		"some servers only":              {search{covering: limited, entries: limited}, true},
		"two addresses":                  {search{covering: one, entries: one, addresses: []string{alice, bob}}, true},
		"it has told another":            {search{covering: one, entries: one, addresses: own, told: bob, toldBy: "hq"}, true},
		"another entry has told another": {search{covering: one, entries: one, addresses: own, told: bob, toldBy: "x"}, false},
	} {
		if got := c.s.asks(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAMailboxIsAtHomeWhereItWasFoundLastUnlessTheConfigurationSaysOtherwise(t *testing.T) {
	cloud, hq := entryOf("cloud", "https://cloud.example"), entryOf("hq", hqURL)
	auto, limited := entryOf("hq", ""), entryOf("hq", hqURL, "ex01")
	known := func(change func(at *mail.Location)) mail.Location {
		at := mail.Location{Entry: "hq", URL: hqURL, Primary: alice, Found: time.Now()}
		change(&at)
		return at
	}
	for name, c := range map[string]struct {
		entry *entry
		known mail.Location
		want  bool
	}{
		"as it was found":                 {hq, known(func(*mail.Location) {}), true},
		"by Autodiscover":                 {auto, known(func(at *mail.Location) { at.URL = "https://told.example" }), true},
		"it has another URL now":          {hq, known(func(at *mail.Location) { at.URL = "https://former.example" }), false},
		"it was given up":                 {hq, known(func(at *mail.Location) { at.Found = time.Time{} }), false},
		"at another entry":                {hq, known(func(at *mail.Location) { at.Entry = "former" }), false},
		"on a server that is served":      {limited, known(func(at *mail.Location) { at.Server = "EX01" }), true},
		"on a server that is not":         {limited, known(func(at *mail.Location) { at.Server = "ex02" }), false},
		"by an address that counts":       {hq, known(func(at *mail.Location) { at.Primary = bob }), true},
		"by an address that does not":     {hq, known(func(at *mail.Location) { at.Primary = partnersUser }), false},
		"by Autodiscover, by no such one": {auto, known(func(at *mail.Location) { at.Primary = partnersUser }), false},
	} {
		s := search{entries: []*entry{cloud, c.entry}, known: c.known}
		if got := s.lastEntry(); (got == c.entry) != c.want || got == cloud {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestALocationIsFreshForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for age, want := range map[time.Duration]bool{0: true, locationAge - 1: true, locationAge: false, -1: false} {
			s := search{known: mail.Location{Found: time.Now().Add(-age)}}
			if got := s.fresh(); got != want {
				t.Errorf("after %v: %v", age, got)
			}
		}
	})
}
