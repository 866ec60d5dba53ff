package check

// What a number of mailboxes needs of Microsoft Graph, and the PowerShell commands that let an app read them and no others.
//
// Sources: "Role Based Access Control for Applications in Exchange Online", "Create subscription" and "Microsoft Graph service-specific
// throttling limits" on Microsoft Learn.

import (
	"fmt"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/quantity"
)

const (
	// graphWrites is how many subscriptions a second are made, renewed and removed. Graph allows an app 1,000 in 20 s.
	graphWrites = 40
	// renewedAfter is when a subscription is renewed at the latest: after seven tenths of its 6.5 days.
	renewedAfter = 109 * time.Hour
	// graphPolls is how many mailboxes are polled a second at most where Microsoft cannot call, and pollShare the part of requests_per_second
	// that they may have.
	graphPolls = 250
	pollShare  = 4
	// graphAllows is how many requests a second Graph allows an app in all tenants.
	graphAllows = 13_000
)

// graphNeeds prints how many subscriptions there are, or how often a mailbox is polled.
func (e PlanEntry) graphNeeds(b *strings.Builder, mailboxes int) {
	if !e.Callbacks {
		polls := graphPolls
		if e.RequestsPerSecond > 0 {
			polls = min(polls, max(1, e.RequestsPerSecond/pollShare))
		}
		wait := max(time.Minute, time.Duration(up(mailboxes, polls))*time.Second)
		fmt.Fprintf(b, "polling    public_url is not set (https), so each mailbox is polled every %v: %.1f requests a second, of the %d that Graph allows an\n"+
			"           app. Mailboxes with recent mail are polled more often. Mail.ReadBasic is enough for that\n", wait, float64(mailboxes)/wait.Seconds(), graphAllows)
		if polls < graphPolls && wait > time.Minute {
			need := min(up(mailboxes, 60), graphPolls)
			fmt.Fprintf(b, "           With requests_per_second: %d it is every %v\n", pollShare*need, max(time.Minute, time.Duration(up(mailboxes, need))*time.Second))
		}
		b.WriteString("\n")
		return
	}
	first := time.Duration(up(mailboxes, graphWrites)) * time.Second
	fmt.Fprintf(b, "callbacks  %s, made within %v of the first start, and renewed every %d to %d days: %.2f a second\n\n",
		quantity.Of(mailboxes, "subscription", "subscriptions"), first, 3, int(renewedAfter.Hours())/24, float64(mailboxes)/renewedAfter.Seconds())
}

// graph prints the commands for Exchange Online by Microsoft Graph.
func (e PlanEntry) graph(b *strings.Builder) {
	apps := e.apps(b)
	if apps == nil {
		return
	}
	role, other := "Mail.Read", "# Mail.ReadBasic (the role Application Mail.ReadBasic) is enough to poll, and shows no previews; it is not enough to subscribe."
	if !e.Callbacks {
		role, other = "Mail.ReadBasic", "# For previews, and to subscribe once public_url is set, it has to be the role Application Mail.Read."
	}
	name := quote(limit("mailbell " + e.Name))
	scope(b, "PowerShell, after Connect-ExchangeOnline and Connect-MgGraph -Scopes Application.Read.All", name)
	for _, a := range apps {
		fmt.Fprintf(b, `
# RBAC for Applications: the app may read the mail of the mailboxes of the scope, and of no others. The assignment works after 30 minutes
# to 2 hours.
%s
$app = %s
$object = (Get-MgServicePrincipal -Filter "appId eq '$app'").Id
New-ServicePrincipal -AppId $app -ObjectId $object -DisplayName 'mailbell'
New-ManagementRoleAssignment -Name %s -App $object -Role 'Application %s' -CustomResourceScope %s
Test-ServicePrincipalAuthorization -Identity $object

# Rights add up: what an administrator has consented to in Entra ID counts for all mailboxes. This has to print nothing; if it does not,
# remove what it prints (Entra ID, App registrations, API permissions).
$graph = Get-MgServicePrincipal -Filter "appId eq '00000003-0000-0000-c000-000000000000'"
$mail = ($graph.AppRoles | Where-Object { $_.Value -like 'Mail.*' }).Id
Get-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $object | Where-Object { $_.AppRoleId -in $mail }
`, other, quote(a.ClientID), quote(limit("mailbell "+a.Name)), role, name)
	}
	b.WriteString(`
# Then see that it is so: mailbell check --mailbox ADDRESS --beyond ADDRESS,ADDRESS tries to read mailboxes that it is not to read.
`)
}
