package admin

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/api"
)

// withCloud is a site with an exchange entry in Exchange Online.
func withCloud(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.sources = map[string]string{"ann@contoso.com": "ews", "bob@contoso.com": "graph"}
	s.overview.Exchange = []api.ExchangeEntry{{Name: "headquarters", EWS: "streaming"}, {Name: "cloud", Online: true, EWS: "push", Graph: true}}
	return s
}

// parts has each of the parts in an answer.
func (a answer) parts(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(a.text, part) {
			t.Errorf("there is no %q in\n%s", part, a.text)
		}
	}
}

func TestThePageNamesWhoIsStillListenedToByEWSInTheCloud(t *testing.T) {
	s := withCloud(t)
	s.overview.Accounts = []api.Account{{Exchange: "cloud", Name: "app-01", Reason: "HTTP 403: no", Advice: "Do this.", EWSOff: true}, {Exchange: "cloud", Name: "app-02", Reason: "busy"}}
	s.enter(t, readToken)
	a := s.get(t, endOfEWSPath)
	a.parts(t, "1 by EWS", "1 by Microsoft Graph", "ann@contoso.com", "bob@contoso.com", "EWS refuses the listener account app-01: HTTP 403: no. This is what it answers in a tenant that has switched EWS off.",
		"To move mailboxes takes the role admin.")
	for _, no := range []string{"eve@fabrikam.com", "app-02", "headquarters", `name="listen_by"`} {
		if strings.Contains(a.text, no) {
			t.Errorf("there is %q", no)
		}
	}
	s.get(t, root).parts(t, `<a href="/admin/end-of-ews">End of EWS in Exchange Online</a>`)
	s.overview.Exchange = s.overview.Exchange[:1]
	s.pages.status.made = time.Time{}
	s.get(t, endOfEWSPath).parts(t, "No exchange entry of the configuration is in Exchange Online.")
	if strings.Contains(s.get(t, root).text, "end-of-ews") {
		t.Error("the overview speaks of it where nobody is concerned")
	}
}

func TestTheDaysAreCountedToTheEnd(t *testing.T) {
	for at, want := range map[string]int{"2026-11-28T18:00:00Z": 124, "2027-03-31T00:00:00Z": 1, "2027-03-31T23:59:59Z": 1, "2027-04-01T00:00:00Z": 0, "2028-01-01T00:00:00Z": 0} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := daysLeft(now); got != want {
			t.Errorf("at %s: %d days, want %d", at, got, want)
		}
	}
}

func TestAnAdministratorMovesOneMailboxOrAllAndBack(t *testing.T) {
	s := withCloud(t)
	s.enter(t, adminToken)
	csrf := s.csrf(t)
	for _, c := range []struct {
		form string
		want api.Move
		says string
	}{
		{"mailbox=+Ann@Contoso.com+&listen_by=graph", api.Move{Exchange: "cloud", ListenBy: "graph", Mailbox: "ann@contoso.com"}, "ann@contoso.com goes over to Microsoft Graph."},
		{"mailbox=ann@contoso.com&listen_by=graph", api.Move{Exchange: "cloud", ListenBy: "graph", Mailbox: "ann@contoso.com"}, "ann@contoso.com is listened to by Microsoft Graph already"},
		{"mailbox=ann@contoso.com&listen_by=push", api.Move{Exchange: "cloud", ListenBy: "push", Mailbox: "ann@contoso.com"}, "ann@contoso.com goes over to EWS."},
		{"all=yes&listen_by=graph", api.Move{Exchange: "cloud", ListenBy: "graph"}, "Of cloud, 1 mailbox goes over to Microsoft Graph."},
		{"all=yes&listen_by=push", api.Move{Exchange: "cloud", ListenBy: "push"}, "Of cloud, 2 mailboxes go over to EWS."},
	} {
		s.moves, s.pages.status.made = nil, time.Time{}
		a := s.post(t, endOfEWSPath, "csrf="+csrf+"&exchange=cloud&"+c.form)
		a.parts(t, c.says)
		if a.StatusCode != http.StatusOK || !slices.Equal(s.moves, []api.Move{c.want}) {
			t.Errorf("%s: %d %+v", c.form, a.StatusCode, s.moves)
		}
	}
	said := s.log.FilterMessage("mailboxes are listened to another way").All()
	if len(said) != 5 || said[0].ContextMap()["client"] != "operator" || !cmp.Equal(said[0].ContextMap()["admin_page"], any(true)) {
		t.Errorf("the audit log has %v", said)
	}
}

func TestNobodyElseMovesAMailbox(t *testing.T) {
	const form = "&exchange=cloud&listen_by=graph&all=yes"
	s := withCloud(t)
	for _, token := range []string{readToken, testToken} {
		s.enter(t, token)
		if a := s.post(t, endOfEWSPath, "csrf="+s.csrf(t)+form); a.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", token, a.StatusCode)
		}
	}
	s.enter(t, adminToken)
	for what, csrf := range map[string]string{"no token": "", "another's": "0123456789"} {
		if a := s.post(t, endOfEWSPath, "csrf="+csrf+form); a.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", what, a.StatusCode)
		}
	}
	if a := s.post(t, endOfEWSPath, "csrf="+s.csrf(t)+form, "Sec-Fetch-Site", "cross-site"); a.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %d", a.StatusCode)
	}
	s.get(t, endOfEWSPath+"?exchange=cloud&listen_by=graph&all=yes")
	if len(s.moves) > 0 {
		t.Errorf("moved %+v", s.moves)
	}
}

func TestWhatCannotBeMovedIsSaid(t *testing.T) {
	s := withCloud(t)
	s.enter(t, adminToken)
	csrf := s.csrf(t)
	for _, address := range []string{"", "ann", "<script>alert(1)</script>"} {
		a := s.post(t, endOfEWSPath, "csrf="+csrf+"&exchange=cloud&listen_by=graph&mailbox="+address)
		if a.StatusCode != http.StatusUnprocessableEntity || strings.Contains(a.text, "<script>alert") {
			t.Errorf("%q: %d", address, a.StatusCode)
		}
	}
	for want, err := range map[string]error{
		"409 Microsoft Graph lets mailbell in to none.": api.NotMoved("Microsoft Graph lets mailbell in to none"),
		"404 The configuration has no exchange entry":   api.ErrNoExchange,
		"503 ": errors.New("disk full"),
	} {
		s.unmoved = err
		a := s.post(t, endOfEWSPath, "csrf="+csrf+"&exchange=cloud&listen_by=graph&all=yes")
		status, text, _ := strings.Cut(want, " ")
		a.parts(t, `role="alert"`, text)
		if http.StatusText(a.StatusCode) == "" || a.Status[:3] != status {
			t.Errorf("%s: %s", want, a.Status)
		}
	}
	if len(s.moves) > 0 {
		t.Errorf("moved %+v", s.moves)
	}
}
