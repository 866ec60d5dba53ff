package simulator

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// bearer gets an access token for Graph.
func bearer(t *testing.T, s *Server, client *http.Client, resource string) string {
	t.Helper()
	resp, err := client.PostForm(s.TokenURL, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {s.ClientID}, "client_secret": {s.ClientSecret}, "scope": {resource + "/.default"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Token == "" {
		t.Fatalf("no token: %d %v", resp.StatusCode, err)
	}
	return a.Token
}

func TestGraphAnswersWhereTheTenantHasSwitchedOffEWS(t *testing.T) {
	s := start(t, Options{Hybrid: true})
	const address = "cloud@contoso.example"
	if err := s.AddMailboxAt(address, Online); err != nil {
		t.Fatal(err)
	}
	if err := s.SetFault("ews_blocked", Fault{Host: Online}); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.RootCAs()}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ask := func(method, at, resource, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, at, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer(t, s, client, resource))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if status := ask(http.MethodPost, s.OnlineURL, strings.TrimSuffix(s.OnlineURL, "/EWS/Exchange.asmx"), "<x/>"); status != http.StatusForbidden {
		t.Errorf("EWS: %d", status)
	}
	inbox := s.GraphURL + "/v1.0/users/" + address + "/mailFolders/inbox"
	if status := ask(http.MethodGet, inbox, s.GraphURL, ""); status != http.StatusOK {
		t.Errorf("Graph: %d", status)
	}
	if err := s.Move(address, OnPremises); err != nil {
		t.Fatal(err)
	}
	if status := ask(http.MethodGet, inbox, s.GraphURL, ""); status != http.StatusNotFound {
		t.Errorf("Graph, after the move on premises: %d", status)
	}
	if n := s.Counts().Requests["GraphFolder"]; n != 2 {
		t.Errorf("%d requests are counted", n)
	}
	if c, err := s.CountsAt(OnPremises); err != nil || c.Requests["GraphFolder"] != 0 {
		t.Errorf("Graph is counted on premises: %v, %v", c.Requests, err)
	}
}

func TestTheUserOfAMailboxThatIsRemovedSignsInNoMore(t *testing.T) {
	s := start(t, Options{Hybrid: true})
	if err := s.AddMailboxAt("old@contoso.example", Online); err != nil {
		t.Fatal(err)
	}
	if err := s.Rename("old@contoso.example", "new@contoso.example"); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.RootCAs()}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for _, want := range []int{http.StatusOK, http.StatusBadRequest} {
		for _, user := range []string{"old@contoso.example", "new@contoso.example"} {
			resp, err := client.PostForm(s.TokenURL, url.Values{
				"grant_type": {"password"}, "client_id": {s.ClientID}, "username": {user}, "password": {s.Password}, "scope": {"https://outlook.office365.com/.default"},
			})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s: %d, want %d", user, resp.StatusCode, want)
			}
		}
		if err := s.RemoveMailbox("new@contoso.example"); want == http.StatusOK && err != nil {
			t.Fatal(err)
		}
	}
}
