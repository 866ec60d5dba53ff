package check

// This file says what an installation of so many mailboxes needs, and prints the PowerShell that sets Exchange up for it.
//
// Sources: New-ManagementScope, New-ManagementRoleAssignment, New-ThrottlingPolicy, Set-ThrottlingPolicyAssociation,
// New-ServicePrincipal and Set-OrganizationConfig in Microsoft's reference of Exchange PowerShell; "Role Based Access Control for
// Applications in Exchange Online"; "Control access to EWS in Exchange"; "EWS throttling in Exchange".

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/credential"
)

// What mailbell needs of memory: bounds that its benchmark holds, and no promise of the machine's.
const (
	boundMailboxes = 15_000
	boundMiB       = 128 // resident, with boundMailboxes, while mail comes as usual
	burstMiB       = 192 // likewise, while everything comes at once
	furtherKiB     = 8   // for each further mailbox
)

const (
	maxAccounts = 12 // that one instance owns
	// leastConcurrency is Exchange's own default (EWSMaxConcurrency, 2013 and later): a policy of ours is not to lower it.
	leastConcurrency = 27
	// spareSubscriptions times the mailboxes of an account is its EWSMaxSubscriptions: one for each, and one that was forgotten and
	// has not expired yet.
	spareSubscriptions = 2
	maxName            = 64 // characters of the name of a role assignment or scope
)

// PlanEntry is what a plan has to know of an exchange entry.
type PlanEntry struct {
	Name                       string
	Online                     bool
	EWS                        bool // its URL is configured: Autodiscover is not asked
	MailboxesPerAccount        int
	SubscriptionsPerConnection int
	RequestsInFlight           int
	Accounts                   []PlanAccount
}

// PlanAccount is what a plan has to know of a listener account.
type PlanAccount struct {
	Name     string
	Method   string // its authentication method, as the configuration calls it
	Username string // empty: an app signs in as itself
	ClientID string // empty: nothing is asked of Entra ID
}

// Plan returns what an installation needs for so many mailboxes, entry by entry: as if all of them lived there.
func Plan(mailboxes int, entries []PlanEntry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d mailboxes\n\n", mailboxes)
	steady, burst := memory(mailboxes)
	fmt.Fprintf(&b, "memory     at most %d MiB, %d MiB in a burst: the bounds of the benchmark, not a measurement of this machine\n", steady, burst)
	for _, e := range entries {
		kind := "on premises"
		if e.Online {
			kind = "Exchange Online"
		}
		fmt.Fprintf(&b, "\nexchange %s (%s), if all of them live there\n\n", e.Name, kind)
		accounts := e.accounts(mailboxes)
		fmt.Fprintf(&b, "accounts   %d, of %d mailboxes each; %s\n", accounts, e.MailboxesPerAccount, e.missing(accounts))
		if instances := up(accounts, maxAccounts); instances > 1 {
			fmt.Fprintf(&b, "instances  %d: one owns at most %d accounts. Divide the mailboxes by mailbox_servers or by entries\n", instances, maxAccounts)
		}
		fmt.Fprintf(&b, "streams    at least %d, of %d subscriptions each; more where the groups that Autodiscover tells are not full\n\n",
			up(mailboxes, e.SubscriptionsPerConnection), e.SubscriptionsPerConnection)
		if e.Online {
			e.online(&b)
		} else {
			e.onPremises(&b, accounts)
		}
	}
	return b.String()
}

// memory returns the bounds in MiB.
func memory(mailboxes int) (steady, burst int) {
	further := up(max(0, mailboxes-boundMailboxes)*furtherKiB, 1024)
	return boundMiB + further, burstMiB + further
}

func up(n, by int) int { return (n + by - 1) / by }

func (e PlanEntry) accounts(mailboxes int) int { return up(mailboxes, e.MailboxesPerAccount) }

func (e PlanEntry) missing(accounts int) string {
	if have := len(e.Accounts); have < accounts {
		return fmt.Sprintf("the configuration has %d: add %d", have, accounts-have)
	}
	return fmt.Sprintf("the configuration has %d: enough", len(e.Accounts))
}

// onPremises prints the commands for Exchange on premises.
func (e PlanEntry) onPremises(b *strings.Builder, accounts int) {
	name := quote(limit("mailbell " + e.Name))
	scope(b, "the Exchange Management Shell", name)
	users, most := e.users()
	fmt.Fprintf(b, `
# A throttling policy sized to need, never an unlimited one: what is unlimited takes the server from everybody else.
# Subscriptions: %d mailboxes a user, and as many again that were forgotten and have not expired yet.
New-ThrottlingPolicy -Name %s -EwsMaxSubscriptions %d -EwsMaxConcurrency %d
`, most*e.MailboxesPerAccount, name, spareSubscriptions*most*e.MailboxesPerAccount, max(leastConcurrency, most*up(e.RequestsInFlight, max(1, len(e.Accounts)))))
	for _, a := range users {
		user := quote(a.Username)
		fmt.Fprintf(b, `
New-ManagementRoleAssignment -Name %s -Role 'ApplicationImpersonation' -User %s -CustomRecipientWriteScope %s
Set-ThrottlingPolicyAssociation -Identity %s -ThrottlingPolicy %s
`, quote(limit("mailbell "+a.Name)), user, name, user, name)
	}
	if more := accounts - len(e.Accounts); more > 0 {
		fmt.Fprintf(b, "\n# The same two lines for each of the %d accounts that are to be added.\n", more)
	}
	if slices.ContainsFunc(e.Accounts, func(a PlanAccount) bool { return a.Method == credential.Basic }) {
		b.WriteString("\n# Basic authentication, which is off by default.\nGet-WebServicesVirtualDirectory | Set-WebServicesVirtualDirectory -BasicAuthentication $true\n")
		if !e.EWS {
			b.WriteString("Get-AutodiscoverVirtualDirectory | Set-AutodiscoverVirtualDirectory -BasicAuthentication $true\n")
		}
	}
	b.WriteString(`
# To look: a policy with EwsMaxSubscriptions 0 switches all notifications off for whom it is associated with.
Get-ThrottlingPolicy | Format-List Name, ThrottlingPolicyScope, EwsMaxSubscriptions, EwsMaxConcurrency
Get-ManagementRoleAssignment -Role 'ApplicationImpersonation' -GetEffectiveUsers
`)
}

// users returns the first account of each user, and how many accounts one user has at most: limits are the user's.
func (e PlanEntry) users() (first []PlanAccount, most int) {
	accounts := map[string]int{}
	for _, a := range e.Accounts {
		if a.Username == "" {
			continue
		}
		if accounts[a.Username]++; accounts[a.Username] == 1 {
			first = append(first, a)
		}
		most = max(most, accounts[a.Username])
	}
	return first, max(1, most)
}

// online prints the commands for Exchange Online.
func (e PlanEntry) online(b *strings.Builder) {
	var apps []PlanAccount // the first account of each app
	for _, a := range e.Accounts {
		switch {
		case a.Method == credential.ListenerAccount:
			fmt.Fprintf(b, "# %s is a listener account. Impersonation by it has been gone from Exchange Online since February 2025:\n# give it client_secret or certificate instead.\n\n", comment(a.Name))
		case a.ClientID != "" && !slices.ContainsFunc(apps, func(known PlanAccount) bool { return known.ClientID == a.ClientID }):
			apps = append(apps, a)
		}
	}
	if apps == nil {
		b.WriteString("# No account of this entry has a client_id: register an app, and put it into the configuration first.\n")
		return
	}
	name := quote(limit("mailbell " + e.Name))
	scope(b, "PowerShell, after Connect-ExchangeOnline and Connect-MgGraph -Scopes Application.Read.All", name)
	for _, a := range apps {
		fmt.Fprintf(b, `
# RBAC for Applications: the app may open the mailboxes of the scope, and no others. Do not also consent to full_access_as_app in
# Entra ID: rights add up. It works after 30 minutes to 2 hours.
$app = %s
$object = (Get-MgServicePrincipal -Filter "appId eq '$app'").Id
New-ServicePrincipal -AppId $app -ObjectId $object -DisplayName 'mailbell'
New-ManagementRoleAssignment -Name %s -App $object -Role 'Application EWS.AccessAsApp' -CustomResourceScope %s
Test-ServicePrincipalAuthorization -Identity $object

# The list of apps that may use EWS. It is written as a whole: this adds to what is there. It takes up to 24 hours.
$list = @((Get-OrganizationConfig -RetrieveEwsOperationAccessPolicy).EwsAllowedAppIDs -split ',' | ForEach-Object { $_.Trim() } | Where-Object { $_ })
Set-OrganizationConfig -EwsAllowedAppIDs ((@($list) + $app | Sort-Object -Unique) -join ',')
`, quote(a.ClientID), quote(limit("mailbell "+a.Name)), name)
	}
	b.WriteString(`
# With EwsEnabled True only the apps of that list get in, so look at it first; with False nobody does.
Set-OrganizationConfig -EwsEnabled $true
# Mailboxes for which EWS is off; for those that are to ring: Set-CASMailbox -Identity ADDRESS -EwsEnabled $true
Get-CASMailbox -ResultSize Unlimited | Where-Object { $_.EwsEnabled -eq $false } | Select-Object PrimarySmtpAddress
# These know programs by their user agent, mailbell/...: it has to be let through where they are used.
Get-OrganizationConfig | Format-List EwsEnabled, EwsApplicationAccessPolicy, EwsAllowList, EwsBlockList

# Microsoft ends EWS in Exchange Online on 2027-04-01. Its throttling cannot be changed by policies.
`)
}

// scope prints what says which mailboxes it is about.
func scope(b *strings.Builder, where, name string) {
	fmt.Fprintf(b, `# In %s.

# Which mailboxes: the direct members of one group. Name yours here.
$group = Get-DistributionGroup 'mailbell users'
New-ManagementScope -Name %s -RecipientRestrictionFilter "MemberOfGroup -eq '$($group.DistinguishedName.Replace("'", "''"))'"
`, where, name)
}

// quotes are the characters that PowerShell takes for a single quote; doubled, each stands for itself.
var quotes = strings.NewReplacer("'", "''", "\u2018", "\u2018\u2018", "\u2019", "\u2019\u2019", "\u201a", "\u201a\u201a", "\u201b", "\u201b\u201b")

// quote writes a text as PowerShell has it between single quotes: nothing in it is replaced or run.
func quote(s string) string { return "'" + quotes.Replace(s) + "'" }

// comment makes a text fit for the rest of a line.
func comment(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

// limit cuts a name to what Exchange takes.
func limit(s string) string {
	if r := []rune(s); len(r) > maxName {
		return string(r[:maxName])
	}
	return s
}
