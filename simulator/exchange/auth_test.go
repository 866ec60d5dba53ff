package exchange

import (
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/go-ntlmssp"
)

func TestSignInByNTLM(t *testing.T) {
	s := start(t, 1, Options{Auth: []string{AuthNTLM}})
	c := newClient(t, s, s.Mailboxes()[0])
	resp, _ := c.call(getInbox)
	if got := strings.Join(resp.Header.Values("WWW-Authenticate"), ", "); resp.StatusCode != http.StatusUnauthorized || got != "Negotiate, NTLM" {
		t.Errorf("Basic where only NTLM is taken: %d, %s", resp.StatusCode, got)
	}
	c.http.Transport = ntlmssp.Negotiator{RoundTripper: c.http.Transport}
	c.must(getInbox, "<t:DisplayName>Inbox<")
	o := c.stream(c.subscribe(subscribeNewMail))
	o.until(deliver(t, s, c.mailbox, "notified"))
	c.password = "wrong"
	c.http.CloseIdleConnections() // the one that is signed in
	if resp, _ := c.call(getInbox); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d", resp.StatusCode)
	}
	both := start(t, 1, Options{Auth: []string{AuthBasic, AuthNTLM}, ExtendedProtection: true})
	c = newClient(t, both, both.Mailboxes()[0])
	c.must(getInbox, "NoError")
	c.password = "wrong"
	resp, _ = c.call(getInbox)
	if got := strings.Join(resp.Header.Values("WWW-Authenticate"), ", "); resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(got, "Negotiate, NTLM, Basic ") {
		t.Errorf("a wrong password: %d, %s", resp.StatusCode, got)
	}
}
