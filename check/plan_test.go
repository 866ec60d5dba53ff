package check

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/credential"
)

var update = flag.Bool("update", false, "write the golden plan anew")

func TestThePlanIsTheOneThatStandsInTheGoldenFile(t *testing.T) {
	got := Plan(20_000, []PlanEntry{
		{Name: "headquarters", MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, Accounts: []PlanAccount{
			{Name: "listener-01", Method: credential.Basic, Username: `CONTOSO\svc-bell`},
			{Name: "listener-02", Method: credential.NTLM, Username: `CONTOSO\svc-o'bell`},
			{Name: "listener-03", Method: credential.NTLM, Username: `CONTOSO\svc-bell`},
		}},
		{Name: "cloud", Online: true, MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, Accounts: []PlanAccount{
			{Name: "app-01", Method: credential.ClientSecret, ClientID: "11111111-2222-3333-4444-555555555555"},
			{Name: "app-02", Method: credential.Certificate, ClientID: "11111111-2222-3333-4444-555555555555"},
			{Name: "old", Method: credential.ListenerAccount, Username: "svc@contoso.com"},
		}},
		{Name: "graph", Online: true, Graph: true, Callbacks: true, MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, Accounts: []PlanAccount{
			{Name: "graph-01", Method: credential.ClientSecret, ClientID: "11111111-2222-3333-4444-555555555555"},
		}},
		{Name: "polled", Online: true, Graph: true, RequestsPerSecond: 100, MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, Accounts: []PlanAccount{
			{Name: "graph-02", Method: credential.Certificate, ClientID: "11111111-2222-3333-4444-666666666666"},
		}},
	})
	golden := filepath.Join("testdata", "plan.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got; -update writes it anew):\n%s", diff)
	}
}

func TestAPlanCountsWhatIsNeeded(t *testing.T) {
	entry := PlanEntry{Name: "x", MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, Accounts: []PlanAccount{{Name: "a", Method: credential.NTLM, Username: "u"}}}
	for _, c := range []struct {
		mailboxes int
		want      []string
	}{
		{1, []string{"accounts   1,", "enough", "streams    at least 1,", "about 51 MiB, and 52 MiB after a burst"}},
		{1250, []string{"accounts   1,", "streams    at least 7,"}},
		{1251, []string{"accounts   2,", "add 1"}},
		{15_000, []string{"accounts   12,", "streams    at least 75,", "about 182 MiB, and 252 MiB"}},
		{15_001, []string{"accounts   13,", "instances  2:", "about 182 MiB"}},
		{143_000, []string{"about 1307 MiB, and 1377 MiB"}},
	} {
		got := Plan(c.mailboxes, []PlanEntry{entry})
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%d mailboxes: no %q in\n%s", c.mailboxes, want, got)
			}
		}
		if strings.Contains(got, "New-ThrottlingPolicy") {
			t.Error("impersonation is charged to the mailbox, and the account gets a throttling policy")
		}
	}
}

func TestAPlanForGraphCountsWhatIsNeeded(t *testing.T) {
	entry := PlanEntry{
		Name: "x", Online: true, Graph: true, RequestsPerSecond: 100, MailboxesPerAccount: 1250, Accounts: []PlanAccount{{Name: "a", Method: credential.ClientSecret, ClientID: "c"}},
	}
	for _, c := range []struct {
		mailboxes, rate int
		want            []string
	}{
		{100, 100, []string{"every 1m0s: 1.7 requests a second"}},
		{1500, 100, []string{"every 1m0s: 25.0 requests a second"}},
		{15_000, 100, []string{"every 10m0s: 25.0 requests a second", "With requests_per_second: 1000 it is every 1m0s"}},
		{15_000, 1000, []string{"every 1m0s: 250.0 requests a second"}},
		{30_000, 0, []string{"every 2m0s: 250.0 requests a second"}},
	} {
		entry.RequestsPerSecond = c.rate
		got := Plan(c.mailboxes, []PlanEntry{entry})
		for _, want := range append(c.want, "'Application Mail.ReadBasic'") {
			if !strings.Contains(got, want) {
				t.Errorf("%d mailboxes: no %q in\n%s", c.mailboxes, want, got)
			}
		}
	}
	entry.Callbacks = true
	got := Plan(15_000, []PlanEntry{entry})
	for _, want := range []string{"15000 subscriptions, made within 6m15s", "'Application Mail.Read'"} {
		if !strings.Contains(got, want) || strings.Contains(got, "polling") || strings.Contains(got, "EWS") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	entry.Accounts = nil
	if got := Plan(1, []PlanEntry{entry}); !strings.Contains(got, "register an app") {
		t.Error(got)
	}
}

func TestAPlanForOneMailboxHasNoPlurals(t *testing.T) {
	one := PlanEntry{Name: "one", MailboxesPerAccount: 1, SubscriptionsPerConnection: 1}
	if got := Plan(1, []PlanEntry{one}); !strings.HasPrefix(got, "1 mailbox\n") || !strings.Contains(got, "of 1 mailbox each") || !strings.Contains(got, "of 1 subscription each") {
		t.Errorf("%s", got)
	}
}

// What stands in the configuration must not become a command.
func TestNothingInAPlanGetsOutOfItsQuotes(t *testing.T) {
	evil := "x'; Remove-Mailbox *; '\u2019 $(calc) `n"
	got := Plan(1, []PlanEntry{{Name: evil, MailboxesPerAccount: 1, SubscriptionsPerConnection: 1, Accounts: []PlanAccount{{Name: "a", Method: credential.NTLM, Username: evil}}}})
	if !strings.Contains(got, "-User 'x''; Remove-Mailbox *; ''\u2019\u2019 $(calc) `n'") {
		t.Errorf("not quoted:\n%s", got)
	}
	if name := limit("mailbell " + strings.Repeat("é", 100)); len([]rune(name)) != maxName {
		t.Errorf("a name of %d characters", len([]rune(name)))
	}
}
