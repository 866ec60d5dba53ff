package check

// This file is the one table of what goes wrong in practice: how it shows, and what to do about it. docs/check.md is made of it.

import (
	"errors"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/subscriptions"
)

// Breakage is one thing that goes wrong in practice.
type Breakage struct {
	Name string // what is wrong: "the client secret has expired"
	See  string // how it shows: codes, statuses, words
	Do   string // its remedy
	when evidence
}

// Circumstances are where an error was met. Empty fields: it does not matter, or nobody knows.
type Circumstances struct {
	Step   string // of the way, or the name of a check
	Online bool   // at Exchange Online
	Method string // the authentication method of the listener account
}

// The steps that only the general checks have.
const (
	stepState = "state"
	stepProxy = "proxy"
)

// evidence is what a breakage is known by: all that is given has to fit.
type evidence struct {
	codes   []string // one of them is the fault's code
	texts   []string // one of them is in the error's text
	steps   []string // it was met at one of them
	methods []string // with an account of one of these authentication methods
	where   place
	is      error // it wraps this one
	remedy  fault.Remedy
}

// place is where Exchange is.
type place uint8

const (
	anywhere place = iota
	online
	onPremises
)

func (e evidence) fits(err error, f *fault.Error, c Circumstances) bool {
	text := err.Error()
	return (e.codes == nil || slices.Contains(e.codes, f.Code)) &&
		(e.texts == nil || slices.ContainsFunc(e.texts, func(t string) bool { return strings.Contains(text, t) })) &&
		(e.steps == nil || slices.Contains(e.steps, c.Step)) &&
		(e.methods == nil || slices.Contains(e.methods, c.Method)) &&
		(e.where == anywhere || (e.where == online) == c.Online) &&
		(e.is == nil || errors.Is(err, e.is)) &&
		(e.remedy == 0 || e.remedy == f.Remedy)
}

// Breakages returns the table. What is told first holds where several fit; the last lines fit whatever the others do not.
func Breakages() []Breakage { return slices.Clone(breakages) }

// Advise names what is wrong and what to do about it.
func Advise(err error, c Circumstances) Breakage {
	f := fault.Of(err)
	for _, b := range breakages {
		if b.when.fits(err, f, c) {
			return b
		}
	}
	return Breakage{Name: "unknown", Do: lookAtTheLog}
}

const lookAtTheLog = "Look into mailbell's log at the same time, and into the server's with the request id that stands there."

// unknownMailbox are the codes of EWS and Autodiscover for an address that is nobody's.
var unknownMailbox = []string{"ErrorNonExistentMailbox", "ErrorMissingEmailAddress", "ErrorInvalidUserPrincipalName", "ErrorInvalidUserSid", "ErrorCannotFindUser", "ErrorCode 500", "ErrorCode InvalidUser", autodiscover.CodeElsewhere}

const (
	wrongPassword = "HTTP 401"
	apps          = "the app registration (Entra ID, App registrations)"
)

var breakages = []Breakage{
	// The token service (Entra ID). https://learn.microsoft.com/entra/identity-platform/reference-error-codes
	{"the client secret has expired", "AADSTS7000222",
		"Make a new client secret for " + apps + ", write its value into secret_file and its day into expires. mailbell takes it up by itself. A certificate lasts longer and is not a password.",
		evidence{texts: []string{"AADSTS7000222"}}},
	{"the client secret is wrong", "AADSTS7000215",
		"secret_file has to hold the secret's value, which Entra ID shows once, and not its id. Make a new one for " + apps + " and write its value there.",
		evidence{texts: []string{"AADSTS7000215"}}},
	{"the tenant is unknown", "AADSTS90002, AADSTS900023",
		"Compare tenant_id with the Directory (tenant) ID of " + apps + ", and cloud with the cloud that the tenant is in.",
		evidence{texts: []string{"AADSTS90002", "AADSTS900023"}}},
	{"the app is unknown in this tenant", "AADSTS700016",
		"Compare client_id with the Application (client) ID of " + apps + ", and tenant_id with the tenant that it is registered in. Not the object id, and not another tenant's app.",
		evidence{texts: []string{"AADSTS700016"}}},
	{"the certificate is not registered for the app", "AADSTS700027, AADSTS7000214",
		"Upload the certificate (its public part) that file holds to " + apps + ", Certificates & secrets. Compare the thumbprints. A renewed certificate has to be uploaded before it is used.",
		evidence{texts: []string{"AADSTS700027", "AADSTS7000214"}}},
	{"the clock of this machine is wrong, or the assertion was too old", "AADSTS700024, AADSTS70002 with times in it",
		"Set this machine's clock by NTP (timedatectl, chronyc tracking): the signed request for a token holds for minutes only.",
		evidence{texts: []string{"AADSTS700024"}}},
	{"the user name or password of the listener account is wrong", "AADSTS50126, AADSTS50034, AADSTS50055, AADSTS50056",
		"Sign in once by hand as the listener account. Better: go over to client_secret or certificate, for Exchange Online no longer lets a user impersonate.",
		evidence{texts: []string{"AADSTS50126", "AADSTS50034", "AADSTS50055", "AADSTS50056"}}},
	{"the listener account has to give a second factor, or is locked", "AADSTS50076, AADSTS50079, AADSTS50158, AADSTS53003, AADSTS50053",
		"A program cannot answer for a second factor. Use client_secret or certificate. For AADSTS50053: too many wrong passwords; wait, and correct password_file.",
		evidence{texts: []string{"AADSTS50076", "AADSTS50079", "AADSTS50158", "AADSTS53003", "AADSTS50053"}}},
	{"the app may not sign in users with a password", "AADSTS7000218, AADSTS65001",
		"At " + apps + ": Authentication, Allow public client flows: Yes; API permissions: EWS.AccessAsUser.All with the administrator's consent.",
		evidence{texts: []string{"AADSTS7000218", "AADSTS65001"}}},
	{"the token service refuses", "AADSTS and another number",
		"The number is explained at https://login.microsoftonline.com/error?code=NUMBER. The sign-in logs of Entra ID have the attempt under service principal sign-ins.",
		evidence{texts: []string{"AADSTS"}}},

	{"something between here and APNs answers in its place, or refuses", "a status without a reason of Apple's, from what should be APNs",
		"Let mailbell reach api.push.apple.com (or api.sandbox.push.apple.com), port 443 or 2197, without anything that ends TLS on the way, or set proxy.url. Compare apns url.",
		evidence{steps: []string{StepAPNs}, codes: []string{"HTTP 401", "HTTP 403", "HTTP 404", "HTTP 407", "HTTP 502", "HTTP 503", "HTTP 504"}}},

	{"the token service is away, or is not one", "code token service, other host; HTTP 404, 429 or 5xx, or a timeout, of the token service",
		"Try its address from this machine (login.microsoftonline.com, or that of the cloud). Compare cloud or cloud_urls.authority; is there a proxy that it has to be reached by?",
		evidence{texts: []string{": token service: ", ": other host: ", "the token service is away", "there is no token service", "no answer of the token service", "the token service takes too long"}}},

	// Exchange Online has said good-bye to these.
	{"a listener account cannot impersonate at Exchange Online", "the account is a listener_account, the entry is online; ErrorImpersonateUserDenied, ErrorAccessDenied, HTTP 403",
		"Impersonation by a user has been gone there since February 2025: use client_secret or certificate, with the role Application EWS.AccessAsApp (mailbell check --plan prints the commands).",
		evidence{where: online, methods: []string{credential.ListenerAccount}, codes: []string{"ErrorImpersonateUserDenied", "ErrorImpersonationDenied", "ErrorImpersonationFailed", "ErrorAccessDenied", "HTTP 403"}}},
	{"EWS is switched off at Exchange Online", "HTTP 403 with X-EWS-Policy-Reason: EWS is disabled for this user or tenant",
		"Set-OrganizationConfig -EwsEnabled $true, and Set-CASMailbox -EwsEnabled $true for the mailbox; and put the app id on EwsAllowedAppIDs. EWS in Exchange Online ends on 2027-04-01.",
		evidence{where: online, codes: []string{"HTTP 403"}, texts: []string{"is disabled"}}},
	{"Exchange Online blocks EWS for this app", "HTTP 403, also without a word; X-EWS-Policy-Reason: EWS is blocked by policy for this user or tenant",
		"Put the app id (client_id) on EwsAllowedAppIDs beside what is there, with EwsEnabled $true (mailbell check --plan prints the commands); it takes up to 24 hours. Look too at EwsApplicationAccessPolicy and at Set-CASMailbox -EwsEnabled. EWS in Exchange Online ends on 2027-04-01.",
		evidence{where: online, codes: []string{"HTTP 403"}}},
	{"Exchange Online does not accept the token", "HTTP 401 after a token was had",
		"Compare cloud with the tenant's, and give the app its right: New-ServicePrincipal and the role Application EWS.AccessAsApp, or full_access_as_app with the administrator's consent. New rights take up to two hours.",
		evidence{where: online, codes: []string{"HTTP 401"}}},

	// The proxy.
	{"the proxy wants a user name and password, or does not accept them", "code proxy: 407; of tinyproxy also 401",
		"Correct proxy.username and proxy.password_file. A proxy that wants NTLM or Kerberos cannot be used: have mailbell's machine let through without, or use Basic.",
		evidence{codes: []string{proxy.CodeProxy}, texts: []string{": 407", ": 401", "user name and password", "sign-in by", "accepts none of the ways"}}},
	{"the proxy does not let mailbell through", "code proxy: 403, or a ruleset of SOCKS",
		"Have the proxy let this machine CONNECT to that host and port (443, and 2197 where APNs is reached there), or put the host into proxy.bypass.",
		evidence{codes: []string{proxy.CodeProxy}, texts: []string{": 403", "does not let mailbell through"}}},
	{"the proxy cannot be reached", "code proxy: cannot be reached, closed the connection, did not answer",
		"Compare proxy.url, host and port, with the proxy's; try it from this machine (curl -x). Is a firewall between them?",
		evidence{codes: []string{proxy.CodeProxy}, texts: []string{"cannot be reached", "closed the connection", "did not answer"}}},
	{"the proxy does not get through to the server", "code proxy, with the proxy's own words",
		"The proxy answers and could not connect: its log says why. Does it know the host's name, and may it go there? A host inside belongs into proxy.bypass.",
		evidence{codes: []string{proxy.CodeProxy}}},

	// The connection.
	{"the server's certificate is for other names", "code certificate: … was asked for, and the certificate is for …",
		"Use the name that the certificate has (ews_url, autodiscover_url, or what ExternalUrl of the virtual directory says), or give the server a certificate with this name. Verification cannot be turned off.",
		evidence{codes: []string{proxy.CodeCertificate}, texts: []string{"was asked for"}}},
	{"the server's certificate, or one of its chain, has expired", "code certificate: expired on …",
		"Renew the certificate that is named, on the server or the load balancer before it, and have the chain sent with it. Should its dates be right, this machine's clock is wrong.",
		evidence{codes: []string{proxy.CodeCertificate}, texts: []string{"expired on", "not yet valid", "has expired or is not yet valid"}}},
	{"the server's certificate is of an unknown issuer", "code certificate: its authority is unknown, it was issued by itself",
		"Put the certificate of your own authority into a file and name it in ca_file of the entry. If the issuer is a public one, the server leaves out the certificates in between, or something on the way ends TLS.",
		evidence{codes: []string{proxy.CodeCertificate}}},
	{"no TLS connection can be agreed on", "code TLS",
		"TLS 1.2 or later is needed. Is the port one of TLS at all? On Exchange 2010 and Windows before 2012 TLS 1.2 has to be switched on.",
		evidence{codes: []string{proxy.CodeTLS}}},
	{"the server answers without TLS for now", "code plain text: its words, usually 503",
		"It has as many connections as it takes, or is starting: mailbell tries again within seconds. If it stays, raise its limit of connections, or lower requests_in_flight.",
		evidence{codes: []string{proxy.CodePlain}, remedy: fault.Retry}},
	{"the port is one without TLS", "code plain text: the server speaks HTTP there",
		"Is the port one of TLS at all? Name the port of HTTPS in ews_url, autodiscover_url or apns url; usually it is 443 and can be left out.",
		evidence{codes: []string{proxy.CodePlain}}},
	{"the port is one of TLS", "code TLS unexpected",
		"The server or proxy speaks TLS there: its URL has to begin with https://.",
		evidence{codes: []string{proxy.CodeSecure}}},
	{"the host name is not in DNS", "code name: no such host, or DNS does not answer",
		"Look the name up on this machine (nslookup, resolvectl query). Inside and outside DNS may differ: name the inside host in ews_url, or have the record made.",
		evidence{codes: []string{proxy.CodeName}}},
	{"the connection is refused", "code connect: connection refused, no route to host",
		"Nothing listens at that address and port, or a firewall says no. Compare host and port with the server's; try it from this machine (curl -v). Where the way out is a proxy, set proxy.url.",
		evidence{codes: []string{proxy.CodeConnect}}},
	{"the server does not answer in time", "code timeout",
		"A firewall that drops packets in silence, or a server that is overloaded. Try it from this machine (curl -v); for APNs let port 443 or 2197 out, or set proxy.url.",
		evidence{codes: []string{proxy.CodeTimeout}}},
	{"an online entry leads to a private address", "code private address",
		"The cloud's names resolve to an address inside: DNS or a proxy inside stands in for Microsoft. Have the names resolved truly, or make it an entry of type exchange.",
		evidence{codes: []string{proxy.CodePrivate}}},

	// Autodiscover.
	{"Autodiscover leads to a host that is not trusted", "code host not allowed",
		"If the host that is named is yours, put it into trusted_hosts; credentials go to no host otherwise. If it is not, Autodiscover of the domain is in other hands: have it corrected.",
		evidence{codes: []string{autodiscover.CodeHost}}},
	{"a host asks for a password that it does not get", "code host not trusted: the bare mail domain, or a host in it that has not shown to be an Exchange",
		"If the host that is named is your Exchange, name the URL of its Autodiscover in autodiscover_url, or the host in trusted_hosts. If it is a web hoster's, have autodiscover.DOMAIN made in DNS, or name ews_url.",
		evidence{codes: []string{auth.CodeUntrusted}}},
	{"there is no Autodiscover", "code nowhere: none of the candidates is Autodiscover",
		"Have autodiscover.DOMAIN made in DNS, or name the URL in autodiscover_url, or the URL of EWS itself in ews_url; then Autodiscover is not asked.",
		evidence{codes: []string{autodiscover.CodeNowhere}}},
	{"Autodiscover goes round in circles", "code loop",
		"Two servers redirect to each other, as after half a migration. Name the URL of EWS in ews_url, or correct the target address of the mailbox.",
		evidence{codes: []string{autodiscover.CodeLoop}}},
	{"Autodiscover knows the mailbox and no URL of EWS for it", "code no EWS",
		"Set ExternalUrl of the EWS virtual directory (Set-WebServicesVirtualDirectory), or name the URL in ews_url. EWS may be switched off for the mailbox.",
		evidence{codes: []string{autodiscover.CodeNoURL}}},

	// Signing in on premises.
	{"sign-ins have failed, and no more are made for now", "code sign-in held",
		"mailbell holds back so that the account is not locked out. Correct the password; a changed file is tried at once.",
		evidence{codes: []string{auth.CodeHeld}}},
	{"NTLM is refused: a wrong password, or Extended Protection behind something that ends TLS", "HTTP 401 after the handshake of NTLM, with ntlm",
		"Sign in by hand with the same name and password (DOMAIN\\user). If that works, a load balancer or proxy ends TLS on the way and Extended Protection (on by default since Exchange 2019 CU14) refuses: let TLS pass through, or give both the same certificate, or set ExtendedProtectionTokenChecking of the EWS virtual directory to None (Allow is not enough: a binding that is sent is looked at), or use basic.",
		evidence{where: onPremises, codes: []string{wrongPassword, auth.CodeNTLM}, methods: []string{credential.NTLM}}},
	{"the server does not offer NTLM", "code NTLM not offered",
		"Set-WebServicesVirtualDirectory -WindowsAuthentication $true (and Set-AutodiscoverVirtualDirectory), or use basic. mailbell never goes over to Basic by itself.",
		evidence{codes: []string{auth.CodeNoNTLM}}},
	{"the server offers no Basic", "code Basic not offered",
		"Switch it on for the EWS and the Autodiscover virtual directory (Set-WebServicesVirtualDirectory and Set-AutodiscoverVirtualDirectory -BasicAuthentication $true), or use ntlm where NTLM or Negotiate is offered.",
		evidence{codes: []string{auth.CodeNoBasic}}},
	{"the user name or password is wrong", "HTTP 401",
		"Sign in by hand with the same name (DOMAIN\\user or user@domain) and password, from password_file. Expired, locked? Is Basic authentication on for the EWS and the Autodiscover virtual directory (Set-WebServicesVirtualDirectory -BasicAuthentication $true)?",
		evidence{where: onPremises, codes: []string{wrongPassword}}},
	{"EWS is blocked for the account or the mailbox", "HTTP 403",
		"Get-OrganizationConfig and Get-CASMailbox: EwsEnabled, EwsApplicationAccessPolicy, EwsAllowList and EwsBlockList, which know mailbell by its user agent mailbell/…. Does a reverse proxy refuse the address?",
		evidence{where: onPremises, codes: []string{"HTTP 403"}}},
	{"there is no EWS at this URL", "HTTP 404, code not EWS, code redirect, code URL",
		"The URL ends in /EWS/Exchange.asmx; a login page or a load balancer answers instead. Compare ews_url with ExternalUrl of Get-WebServicesVirtualDirectory.",
		evidence{codes: []string{"HTTP 404", ews.CodeForeign, ews.CodeRedirect, ews.CodeURL}}},

	// What Exchange itself says.
	{"the account may not impersonate the mailbox", "ErrorImpersonateUserDenied, ErrorImpersonationDenied, ErrorAccessDenied",
		"On premises: the role ApplicationImpersonation for the account, with a scope that has the mailbox in it. Online: the role Application EWS.AccessAsApp for the app, likewise. mailbell check --plan prints the commands; a new right takes some minutes, online up to two hours.",
		evidence{codes: []string{"ErrorImpersonateUserDenied", "ErrorImpersonationDenied", "ErrorImpersonationFailed", "ErrorAccessDenied", "ErrorSubscriptionDelegateAccessNotSupported"}}},
	{"the mailbox is unknown there", "ErrorNonExistentMailbox; Autodiscover: error 500, InvalidUser",
		"Compare the address with the primary address (Get-Recipient). Did the mailbox move to another Exchange? Then that one needs an exchange entry with the same domain. Shared and room mailboxes count; groups and contacts do not.",
		evidence{codes: unknownMailbox}},
	{"the tenant is to be removed", "ErrorOrganizationAccessBlocked",
		"Microsoft has blocked the organisation: its subscription has ended. Ask whoever pays for it; until then take the entry out.",
		evidence{codes: []string{"ErrorOrganizationAccessBlocked"}}},
	{"the account of the mailbox is disabled", "ErrorAccountDisabled",
		"Enable the user in Active Directory, or remove its devices. For a shared mailbox this is normal on some versions: its account is disabled by design.",
		evidence{codes: []string{"ErrorAccountDisabled"}}},
	{"subscriptions are forbidden, or used up", "ErrorExceededSubscriptionCount; with EWSMaxSubscriptions 0 at the first one already",
		"Get-ThrottlingPolicy | fl Name,EwsMaxSubscriptions. 0 switches all notifications off; it was once advised against CVE-2018-8581 (KB4490060). Give whom it is associated with a policy with a number sized to need (mailbell check --plan prints one), never an unlimited one. Else forgotten subscriptions expire within the hour.",
		evidence{codes: []string{"ErrorExceededSubscriptionCount"}}},
	{"the server has no streaming notifications", "ErrorInvalidServerVersion, ErrorInvalidRequest or ErrorSchemaValidation at the subscription",
		"Streaming needs Exchange 2010 SP1. An older server, and some that speak EWS without being Exchange, cannot be listened to by streaming.",
		evidence{codes: []string{"ErrorInvalidServerVersion", "ErrorIncorrectSchemaVersion", "ErrorSchemaValidation", "ErrorInvalidRequest", "ErrorInvalidSubscriptionRequest"}}},
	{"too many streams are open", "ErrorExceededConnectionCount",
		"HangingConnectionLimit: does another program listen by the same account? On premises it stands in web.config of EWS.",
		evidence{codes: []string{"ErrorExceededConnectionCount"}}},
	{"the server throttles", "ErrorServerBusy, HTTP 429, HTTP 503",
		"It passes by itself, and mailbell waits as long as it is told. Where it does not pass: requests_per_second of the entry lower, or a throttling policy for the account (mailbell check --plan).",
		evidence{codes: []string{"ErrorServerBusy", "HTTP 429", "HTTP 503"}}},
	{"the mailbox is being moved, or its database is offline", "ErrorMailboxMoveInProgress, ErrorMailboxStoreUnavailable, ErrorMailboxFailover, ErrorConnectionFailed",
		"It passes by itself and mailbell tries again within five minutes. Get-MoveRequest and Get-MailboxDatabaseCopyStatus tell how far it is.",
		evidence{codes: []string{"ErrorMailboxMoveInProgress", "ErrorMailboxStoreUnavailable", "ErrorMailboxFailover", "ErrorConnectionFailed"}}},

	// APNs. https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
	{"the APNs key is wrong", "403 InvalidProviderToken",
		"key_file, key_id and team_id have to belong together: the key id stands in the name of the .p8 file (AuthKey_KEYID.p8), the team id at Membership in Apple's developer account. Was the key revoked? Is this machine's clock right?",
		evidence{codes: []string{"InvalidProviderToken"}}},
	{"the APNs key or certificate is for the other environment", "403 BadEnvironmentKeyInToken, BadEnvironmentKeyIdInToken, BadCertificateEnvironment",
		"A key can be bound to sandbox or production. Use one of the environment of the apns entry, or one for both.",
		evidence{codes: []string{"BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken", "BadCertificateEnvironment"}}},
	{"the clock of this machine is wrong", "403 ExpiredProviderToken with a new token; a Date of the server that is minutes away",
		"Set the clock by NTP (timedatectl, chronyc tracking): APNs refuses tokens that are an hour off, Entra ID those that are minutes off.",
		evidence{codes: []string{"ExpiredProviderToken", codeClock}}},
	{"the device token is not of this environment", "400 BadDeviceToken",
		"An app from Xcode has sandbox tokens, one from TestFlight, the App Store or an MDM has production ones. Enrol the device with the environment of its app, and have an apns entry for it; or the token is an old one: have the app report it anew.",
		evidence{codes: []string{"BadDeviceToken"}}},
	{"the topic is not the app's, or not the credential's", "400 DeviceTokenNotForTopic, TopicDisallowed, BadTopic; no_topic",
		"topic is the app's bundle id, exactly. A certificate or a key that is bound to topics has to be of this app; the device has to be enrolled with the topic of the app that gave the token.",
		evidence{codes: []string{"DeviceTokenNotForTopic", "TopicDisallowed", "BadTopic", "MissingTopic", "no_topic"}}},
	{"the app was removed from the device, or has a new token", "410 Unregistered, ExpiredToken",
		"Open the app on the device, so that it reports its token, and enrol it again.",
		evidence{codes: []string{"Unregistered", "ExpiredToken"}}},
	{"the APNs certificate is not valid", "403 BadCertificate, Forbidden; a TLS alert",
		"Renew the certificate in Apple's developer account; it lasts a year. A key (token) lasts and serves all apps.",
		evidence{codes: []string{"BadCertificate", "Forbidden", "MissingProviderToken", "UnrelatedKeyIdInToken"}}},
	{"the device was rung too often", "429 TooManyRequests",
		"It passes by itself in minutes. Where it does not: is a program testing this device?",
		evidence{codes: []string{"TooManyRequests", "TooManyProviderTokenUpdates"}}},
	{"nothing is sent", "send_off",
		"The configuration says alerts.send: false: mailbell decides and records, and sends nothing. Set it to true when it is to ring.",
		evidence{codes: []string{"send_off"}}},

	// The state.
	{"a running mailbell holds the state file", "in use by another process",
		"That is right while the service runs. Ask it instead: POST /v1/test-notifications, mailbell why. Otherwise stop the other process; two services need a state file each, or Redis.",
		evidence{is: subscriptions.ErrInUse}},
	{"Redis does not accept the password", "WRONGPASS, NOAUTH, NOPERM",
		"Compare state.redis.username and password_file with the server's (ACL LIST, requirepass). NOPERM: the user may not do what mailbell needs, on the keys of its prefix.",
		evidence{texts: []string{"WRONGPASS", "NOAUTH", "NOPERM"}}},
	{"Redis must not be used as it is set", "maxmemory-policy, replica",
		"Enrolments would be lost. Set maxmemory-policy to noeviction, and name the master or its Sentinels.",
		evidence{is: subscriptions.ErrRedis}},
	{"Redis cannot be reached", "connection refused, timeout, no such host, for an address of state.redis",
		"Compare state.redis.addresses with the server's; does it listen on this network (bind, protected-mode), and with TLS or without (state.redis.tls, ca_file)?",
		evidence{steps: []string{stepState}, texts: []string{"dial tcp", "lookup ", "i/o timeout", "deadline exceeded", "connection reset", "EOF", "tls: ", "x509: "}}},
	{"the state cannot be opened", "the words of the file system or the store",
		"mailbell needs to read and write the file and its folder (state.path), on a disk of this machine and not on a network share. Is the disk full?",
		evidence{steps: []string{stepState}}},

	// mailbell's own.
	{"the device is not enrolled", "not_enrolled",
		"Enrol it (PUT /v1/devices/{id}). One that APNs called gone is removed: have the app report its token, and enrol it again.",
		evidence{codes: []string{"not_enrolled"}}},
	{"no exchange entry covers the address", "not_covered",
		"Put the mail domain into domains of an exchange entry.",
		evidence{codes: []string{"not_covered"}}},
	{"no listener account has room", "no_capacity",
		"Add listener accounts to the entry (mailbell check --plan says how many): each listens to mailboxes_per_account mailboxes.",
		evidence{codes: []string{"no_capacity"}}},
	{"the mailbox is on a server that is not listened to", "out_of_scope",
		"mailbox_servers of the entry names the servers. Add this one, or have the instance that owns it listen.",
		evidence{codes: []string{"out_of_scope"}}},

	// Whatever is left.
	{"something that passes by itself", "an error of another code that is tried again",
		"mailbell tries again by itself. If it stays: " + strings.ToLower(lookAtTheLog[:1]) + lookAtTheLog[1:],
		evidence{remedy: fault.Wait}},
	{"something that passes by itself, within seconds", "an error of another code that is tried again at once",
		"Try again. If it stays: " + strings.ToLower(lookAtTheLog[:1]) + lookAtTheLog[1:],
		evidence{remedy: fault.Retry}},
	{"something else", "an error of another code", lookAtTheLog, evidence{}},
}
