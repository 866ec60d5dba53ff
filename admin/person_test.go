package admin

import (
	"html"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestASearchForOnePersonLeadsToTheirPage(t *testing.T) {
	s := newSite(t)
	s.enter(t, readToken)
	for part, want := range map[string]string{
		"ann@":             "/admin/mailboxes/ann@contoso.com",
		" ANN@contoso":     "/admin/mailboxes/ann@contoso.com",
		"behind":           "/admin/mailboxes/ann@contoso.com?device=behind-ann",
		"eve":              "/admin/mailboxes/eve@fabrikam.com",
		"BOB-PHONE":        "/admin/mailboxes/bob@contoso.com?device=bob-phone",
		"fabrikam":         "/admin/mailboxes/eve@fabrikam.com",
		"eve@fabrikam.com": "/admin/mailboxes/eve@fabrikam.com",
	} {
		s.get(t, "/admin/search?q="+url.QueryEscape(part)).leads(t, want)
	}
	s.get(t, "/admin/search?q=contoso").shows(t, 200, "3 devices", "ann@contoso.com", "bob@contoso.com", "behind-ann", "throttled")
	s.get(t, "/admin/search?q=nobody").shows(t, 200, "No device is enrolled", "nobody")
	s.get(t, "/admin/search?q=").shows(t, 200, "Type a part")
	s.get(t, "/admin/search?q="+strings.Repeat("a", maxPart+1)).shows(t, 200, "No device is enrolled")
}

func TestADeviceIsFoundAndShownByItsLabel(t *testing.T) {
	s := newSite(t)
	s.enter(t, testToken)
	d := s.devices["eve"]
	d.Label = "Eve's <old> iPhone"
	s.devices["eve"] = d
	s.get(t, "/admin/search?q="+url.QueryEscape("OLD> iph")).leads(t, "/admin/mailboxes/eve@fabrikam.com?device=eve")
	s.get(t, "/admin/search?q=e").shows(t, 200, "<td>Eve&#39;s &lt;old&gt; iPhone</td>")
	s.get(t, "/admin/mailboxes/eve@fabrikam.com").shows(t, 200, "eve</a><br>Eve&#39;s &lt;old&gt; iPhone", `<option value="eve">eve (Eve&#39;s &lt;old&gt; iPhone)</option>`)
}

func TestThePageSaysWhetherThePhoneAnswers(t *testing.T) {
	s := newSite(t)
	s.enter(t, readToken)
	s.get(t, "/admin/mailboxes/ann@contoso.com").shows(t, 200, "The app sends none.")
	d := s.devices["ann-phone"]
	d.ReceiptKey = "BA=="
	s.devices["ann-phone"] = d
	s.get(t, "/admin/mailboxes/ann@contoso.com").shows(t, 200, "The phone has not confirmed its last alert.")
	st := s.statuses["ann@contoso.com"]
	st.Decisions = slices.Clone(st.Decisions)
	st.Decisions[0].Shown = st.Decisions[0].Came.Add(1700 * time.Millisecond)
	s.statuses["ann@contoso.com"] = st
	s.get(t, "/admin/mailboxes/ann@contoso.com").shows(t, 200, "The phone has confirmed its last alert.", `<td class="n">1.7 s</td>`)
}

func TestASearchThatFindsTooManySaysSo(t *testing.T) {
	s := newSite(t)
	s.enter(t, readToken)
	for i := range maxFound + 1 {
		id := "desk-" + strings.Repeat("x", i)
		s.devices[id] = subscriptions.Device{ID: id, Mailbox: "desk@contoso.com", Token: deviceHex}
	}
	a := s.get(t, "/admin/search?q=desk-")
	a.shows(t, 200, "the first 50 devices", "Type more")
	if n := strings.Count(a.text, "<tr>"); n != maxFound+1 {
		t.Errorf("%d rows, want the head and %d", n, maxFound)
	}
}

func TestThePageOfAPersonSaysWhyThePhoneIsSilent(t *testing.T) {
	s := newSite(t)
	s.enter(t, readToken)
	s.get(t, "/admin/mailboxes/bob@contoso.com").shows(t, 200, "cannot read this mailbox", "failing", "HTTP 401: the password is wrong", "Mend HTTP 401", "in 59 s")
	s.get(t, "/admin/mailboxes/ann@contoso.com").shows(t, 200,
		"a device of it is not sent to", "https://ex.contoso.com/EWS/Exchange.asmx", "Autodiscover (SOAP)", "EX01", "g1", "listener-01", "9 s ago",
		"accepted", "340 ms", "429 throttled", "1.0 s", string(outcome.Throttled), "The message left the Inbox", "9c1d2e3f…", "com.contoso.mail, production")
	one := s.get(t, "/admin/mailboxes/ann@contoso.com?device=ann-phone")
	one.shows(t, 200, "The last outcomes for ann-phone", "340 ms", "The message left the Inbox")
	if strings.Contains(one.text, "1.0 s") {
		t.Error("the page of one device has the outcomes of another")
	}
	s.get(t, "/admin/mailboxes/ann@contoso.com?device=behind-ann").shows(t, 200, "The device behind-ann is behind.")
	s.get(t, "/admin/mailboxes/ann@contoso.com?device=other").shows(t, 200, "The last outcomes<")
	s.get(t, "/admin/mailboxes/nobody@contoso.com").shows(t, 404, "No device is enrolled for this address", "Enrol")
	s.get(t, "/admin/mailboxes/no-address").shows(t, 404, "No device is enrolled")
	s.get(t, "/admin/devices/eve").leads(t, "/admin/mailboxes/eve@fabrikam.com?device=eve")
	s.get(t, "/admin/devices/nobody").shows(t, 404, "no device is enrolled")
}

func TestEveryStateHasItsSentence(t *testing.T) {
	seen := map[string]bool{}
	for _, state := range subscriptions.States() {
		b := mailboxBody{}
		b.State = state
		if v := b.verdict(); v == "" || seen[v] {
			t.Errorf("%s: %q", state, v)
		} else {
			seen[v] = true
		}
	}
}

func TestTheListOfMailboxesIsByStateAndPages(t *testing.T) {
	s := newSite(t)
	s.enter(t, readToken)
	s.get(t, "/admin/mailboxes").shows(t, 200, "ann@contoso.com", "bob@contoso.com", "eve@fabrikam.com")
	a := s.get(t, "/admin/mailboxes?state=failing")
	a.shows(t, 200, "bob@contoso.com", "Mailboxes: failing")
	if strings.Contains(a.text, "ann@contoso.com") {
		t.Error("a mailbox that is listened to is among the failing")
	}
	s.get(t, "/admin/mailboxes?state=nonsense").shows(t, 404)
	for i := range 120 {
		id := "more-" + strings.Repeat("x", i)
		s.devices[id] = subscriptions.Device{ID: id, Mailbox: "x" + strings.Repeat("x", i) + "@contoso.com", Token: deviceHex}
	}
	a = s.get(t, "/admin/mailboxes")
	_, next, ok := strings.Cut(a.text, `<p><a href="/admin/mailboxes?`)
	next, _, _ = strings.Cut(next, `"`)
	if !ok {
		t.Fatal("a long list has no next page")
	}
	a = s.get(t, "/admin/mailboxes?"+html.UnescapeString(next))
	a.shows(t, 200, strings.Repeat("x", 120)+"@contoso.com")
	if strings.Contains(a.text, "ann@contoso.com") || strings.Contains(a.text, "The next page") {
		t.Error("the next page has what the first has, or no end")
	}
}

// An address may have any of these in its local part.
func TestEveryAddressHasAPageThatItsLinkLeadsTo(t *testing.T) {
	for _, address := range []string{"a/b@contoso.com", "a?b@contoso.com", "a#b@contoso.com", "a%2fb@contoso.com", "o'neil+x@contoso.com", "a&b=c@contoso.com", "..@contoso.com", "tom@xn--mller-kva.example"} {
		if _, err := mail.ParseAddress(address); err != nil {
			t.Logf("%s is none: %v", address, err)
			continue
		}
		s := newSite(t)
		s.devices["odd"] = subscriptions.Device{ID: "odd", Mailbox: address, Token: deviceHex, Created: time.Now()}
		s.enter(t, readToken)
		list := s.get(t, "/admin/mailboxes").text
		found := false
		for _, part := range strings.Split(list, `href="`)[1:] {
			target, _, _ := strings.Cut(part, `"`)
			target = html.UnescapeString(target)
			if strings.HasPrefix(target, "/admin/mailboxes/") && !strings.Contains(target, "ann@") && !strings.Contains(target, "bob@") && !strings.Contains(target, "eve@") {
				s.get(t, target).shows(t, 200, "odd")
				found = true
			}
		}
		if !found {
			t.Errorf("the list has no link to %s", address)
		}
	}
}
