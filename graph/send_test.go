package graph

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestAMessageToItselfIsPostedWithoutACopy(t *testing.T) {
	c := client(func(r *http.Request, body string) *http.Response {
		const want = `{"message":{"subject":"a \"subject\"","body":{"contentType":"Text","content":"text"},"toRecipients":[{"emailAddress":{"address":"mara@contoso.com"}}]},"saveToSentItems":false}`
		if r.Method != http.MethodPost || r.URL.Path != "/v1.0/users/mara@contoso.com/sendMail" || body != want {
			t.Errorf("%s %s %s", r.Method, r.URL, body)
		}
		return reply(r, http.StatusAccepted, "")
	})
	if _, err := c.Send(t.Context(), mara, `a "subject"`, "text"); err != nil {
		t.Error(err)
	}
}

func TestAMessageToItselfArrivesInTheInbox(t *testing.T) {
	c := simulated(t, false, "Mail.Read", "Mail.Send")
	if _, err := c.client.Send(t.Context(), c.mailbox, "mailbell canary é", "text"); err != nil {
		t.Fatal(err)
	}
	p, err := c.client.Messages(t.Context(), c.mailbox, time.Time{}, 10)
	if err != nil || len(p.Messages) != 1 || p.Messages[0].Subject != "mailbell canary é" {
		t.Errorf("%+v, %v", p.Messages, err)
	}
}

func TestARefusalToSendNamesTheRight(t *testing.T) {
	c := simulated(t, false)
	_, err := c.client.Send(t.Context(), c.mailbox, "subject", "text")
	if f := fault.Of(err); f.Code != CodeSending || f.Remedy != fault.Fix || f.Scope != fault.Mailbox || !strings.Contains(f.Text, "Mail.Send") {
		t.Error(err)
	}
}
