package check

// What a number of mailboxes needs, and the PowerShell commands that set up Exchange for it.
//
// Sources: New-ManagementScope, New-ManagementRoleAssignment, New-ServicePrincipal and Set-OrganizationConfig in Microsoft's reference of
// Exchange PowerShell; "Role Based Access Control for Applications in Exchange Online"; "Control access to EWS in Exchange"; "EWS throttling
// in Exchange".

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/quantity"
)

// What mailbell takes, as `mailbell bench` printed it on two cores with 100 to 15,000 mailboxes (docs/operations.md), and a quarter more.
const (
	fixedMiB  = 50
	steadyKiB = 9    // of a mailbox that is listened to
	burstKiB  = 35   // of one whose message is under way in a burst of mail for all
	underWay  = 2048 // at once, at the most
	messageUs = 1600
	burstUs   = 375 // of CPU a message, alone and in a burst
)

const (
	maxAccounts = 12 // of one instance
	maxName     = 64 // characters of the name of a role assignment or scope
)

// PlanEntry describes an exchange entry for a plan.
type PlanEntry struct {
	Name                       string
	Online                     bool
	Graph                      bool // its mailboxes are reached by Microsoft Graph
	Callbacks                  bool // Microsoft can reach mailbell, so that mailboxes need not be polled
	EWS                        bool // its URL is configured, so Autodiscover is not used
	MailboxesPerAccount        int
	SubscriptionsPerConnection int
	RequestsPerSecond          int
	Accounts                   []PlanAccount
}

// PlanAccount describes a listener account for a plan.
type PlanAccount struct {
	Name     string
	Method   string // its authentication method, by its name in the configuration
	Username string // empty: an app signs in as itself
	ClientID string // empty: it does not use Entra ID
}

// Plan returns what an installation needs for a number of mailboxes, for each entry as if all mailboxes were there.
func Plan(mailboxes int, entries []PlanEntry) string {
	var b strings.Builder
	b.WriteString(quantity.Of(mailboxes, "mailbox", "mailboxes") + "\n\n")
	steady, burst := memory(mailboxes)
	fmt.Fprintf(&b, "memory     about %d MiB, and %d MiB after a burst of mail for all\n", steady, burst)
	fmt.Fprintf(&b, "CPU        %d us a message in a burst of many, %d us where each comes alone\n", burstUs, messageUs)
	b.WriteString("           figures of another machine (docs/operations.md): mailbell bench measures this one\n")
	for _, e := range entries {
		kind := "on premises"
		if e.Online {
			kind = "Exchange Online"
		}
		fmt.Fprintf(&b, "\nexchange %s (%s), if it has all mailboxes\n\n", e.Name, kind)
		accounts := e.accounts(mailboxes)
		fmt.Fprintf(&b, "accounts   %d, of %s each; %s\n", accounts, quantity.Of(e.MailboxesPerAccount, "mailbox", "mailboxes"), e.missing(accounts))
		if instances := up(accounts, maxAccounts); instances > 1 {
			by := "by mailbox_servers or by domains"
			if e.Graph { // which does not say on which server a mailbox is
				by = "by domains"
			}
			fmt.Fprintf(&b, "instances  %d: an instance has at most %d accounts. Divide the mailboxes %s\n", instances, maxAccounts, by)
		}
		if e.Graph {
			e.graphNeeds(&b, mailboxes)
			e.graph(&b)
			continue
		}
		fmt.Fprintf(&b, "streams    at least %d, of %s each; more if the groups of Autodiscover are not full\n\n",
			up(mailboxes, e.SubscriptionsPerConnection), quantity.Of(e.SubscriptionsPerConnection, "subscription", "subscriptions"))
		if e.Online {
			e.online(&b)
		} else {
			e.onPremises(&b, accounts)
		}
	}
	return b.String()
}

// memory is in MiB.
func memory(mailboxes int) (steady, burst int) {
	steady = fixedMiB + up(mailboxes*steadyKiB, 1024)
	return steady, steady + up(min(mailboxes, underWay)*burstKiB, 1024)
}

func up(n, by int) int { return (n + by - 1) / by }

func (e PlanEntry) accounts(mailboxes int) int { return up(mailboxes, e.MailboxesPerAccount) }

func (e PlanEntry) missing(accounts int) string {
	if have := len(e.Accounts); have < accounts {
		return fmt.Sprintf("the configuration has %d: add %d", have, accounts-have)
	}
	return fmt.Sprintf("the configuration has %d: enough", len(e.Accounts))
}

// onPremises prints the commands for Exchange on premises. There is no throttling policy among them: impersonation is charged to the mailbox.
func (e PlanEntry) onPremises(b *strings.Builder, accounts int) {
	name := quote(limit("mailbell " + e.Name))
	scope(b, "the Exchange Management Shell", name)
	b.WriteString("\n")
	for _, a := range e.users() {
		fmt.Fprintf(b, "New-ManagementRoleAssignment -Name %s -Role 'ApplicationImpersonation' -User %s -CustomRecipientWriteScope %s\n",
			quote(limit("mailbell "+a.Name)), quote(a.Username), name)
	}
	if more := accounts - len(e.Accounts); more > 0 {
		fmt.Fprintf(b, "\n# Repeat this line for each account that you add (%d).\n", more)
	}
	if slices.ContainsFunc(e.Accounts, func(a PlanAccount) bool { return a.Method == credential.Basic }) {
		b.WriteString("\n# Basic authentication, which is off by default.\nGet-WebServicesVirtualDirectory | Set-WebServicesVirtualDirectory -BasicAuthentication $true\n")
		if !e.EWS {
			b.WriteString("Get-AutodiscoverVirtualDirectory | Set-AutodiscoverVirtualDirectory -BasicAuthentication $true\n")
		}
	}
	b.WriteString(`
# To check: a policy with EwsMaxSubscriptions 0 switches all notifications off for its users.
Get-ThrottlingPolicy | Format-List Name, ThrottlingPolicyScope, EwsMaxSubscriptions
Get-ManagementRoleAssignment -Role 'ApplicationImpersonation' -GetEffectiveUsers
`)
}

// users returns the first account of each user.
func (e PlanEntry) users() (first []PlanAccount) {
	for _, a := range e.Accounts {
		if a.Username != "" && !slices.ContainsFunc(first, func(known PlanAccount) bool { return known.Username == a.Username }) {
			first = append(first, a)
		}
	}
	return first
}

// online prints the commands for Exchange Online.
func (e PlanEntry) online(b *strings.Builder) {
	apps := e.apps(b)
	if apps == nil {
		return
	}
	name := quote(limit("mailbell " + e.Name))
	scope(b, "PowerShell, after Connect-ExchangeOnline and Connect-MgGraph -Scopes Application.Read.All", name)
	for _, a := range apps {
		fmt.Fprintf(b, `
# RBAC for Applications: the app may open the mailboxes of the scope, and no others. Do not also consent to full_access_as_app in
# Entra ID, because rights add up. The assignment works after 30 minutes to 2 hours.
$app = %s
$object = (Get-MgServicePrincipal -Filter "appId eq '$app'").Id
New-ServicePrincipal -AppId $app -ObjectId $object -DisplayName 'mailbell'
New-ManagementRoleAssignment -Name %s -App $object -Role 'Application EWS.AccessAsApp' -CustomResourceScope %s
Test-ServicePrincipalAuthorization -Identity $object

# The list of apps that may use EWS. The command replaces the whole list, so this adds the app to the present one. It takes up to 24 hours.
$list = @((Get-OrganizationConfig -RetrieveEwsOperationAccessPolicy).EwsAllowedAppIDs -split ',' | ForEach-Object { $_.Trim() } | Where-Object { $_ })
Set-OrganizationConfig -EwsAllowedAppIDs ((@($list) + $app | Sort-Object -Unique) -join ',')
`, quote(a.ClientID), quote(limit("mailbell "+a.Name)), name)
	}
	b.WriteString(`
# With EwsEnabled True only the apps on that list may use EWS, so check it first; with False no app may.
Set-OrganizationConfig -EwsEnabled $true
# Mailboxes for which EWS is off; switch it on for those with alerts: Set-CASMailbox -Identity ADDRESS -EwsEnabled $true
Get-CASMailbox -ResultSize Unlimited | Where-Object { $_.EwsEnabled -eq $false } | Select-Object PrimarySmtpAddress
# These lists have user agents of programs. If you use them, they have to allow mailbell/...
Get-OrganizationConfig | Format-List EwsEnabled, EwsApplicationAccessPolicy, EwsAllowList, EwsBlockList

# Microsoft ends EWS in Exchange Online on 2027-04-01. Its throttling cannot be changed by policies.
`)
}

// apps are the first accounts of each app. It prints what is wrong with the others, and whether there is none.
func (e PlanEntry) apps(b *strings.Builder) (apps []PlanAccount) {
	for _, a := range e.Accounts {
		switch {
		case a.Method == credential.ListenerAccount:
			fmt.Fprintf(b, "# %s is a listener_account. Since February 2025 Exchange Online does not let it impersonate:\n# give it client_secret or certificate instead.\n\n", comment(a.Name))
		case a.ClientID != "" && !slices.ContainsFunc(apps, func(known PlanAccount) bool { return known.ClientID == a.ClientID }):
			apps = append(apps, a)
		}
	}
	if apps == nil {
		b.WriteString("# No account of this exchange entry has a client_id: register an app, and add it to the configuration first.\n")
	}
	return apps
}

// scope prints the commands for the group of mailboxes.
func scope(b *strings.Builder, where, name string) {
	fmt.Fprintf(b, `# In %s.

# The mailboxes: the direct members of one group. Use the name of yours.
$group = Get-DistributionGroup 'mailbell users'
New-ManagementScope -Name %s -RecipientRestrictionFilter "MemberOfGroup -eq '$($group.DistinguishedName.Replace("'", "''"))'"
`, where, name)
}

// quotes are the characters that PowerShell takes as a single quote; doubled, each is itself.
var quotes = strings.NewReplacer("'", "''", "\u2018", "\u2018\u2018", "\u2019", "\u2019\u2019", "\u201a", "\u201a\u201a", "\u201b", "\u201b\u201b")

// quote puts a text into single quotes for PowerShell: nothing in it is replaced or run.
func quote(s string) string { return "'" + quotes.Replace(s) + "'" }

// comment makes a text fit for a comment line.
func comment(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

// limit cuts a name to the length that Exchange allows.
func limit(s string) string {
	if r := []rune(s); len(r) > maxName {
		return string(r[:maxName])
	}
	return s
}
