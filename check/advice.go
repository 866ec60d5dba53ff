package check

// The one table of what goes wrong in practice: how it shows, and what to do about it. docs/check.md has the same table.

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

// Circumstances say where an error was met. An empty field is unknown, or does not matter.
type Circumstances struct {
	Step   string // of an alert, or the name of a check
	Online bool   // at Exchange Online
	Method string // the authentication method of the listener account
}

// The steps that only the general checks have.
const (
	stepState = "state"
	stepProxy = "proxy"
)

// evidence is how a breakage is recognised: every field that is set has to match.
type evidence struct {
	codes   []string // one of them is the fault's code
	texts   []string // one of them is in the error's text
	steps   []string // it was met at one of them
	methods []string // with an account of one of these authentication methods
	where   site
	is      error // it wraps this one
	remedy  fault.Remedy
}

// site is where Exchange is.
type site uint8

const (
	anywhere site = iota
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

// Breakages returns the table. If several lines match an error, the first one counts. The last lines match every error.
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

const lookAtTheLog = "Look into mailbell's log at the time of the error. With the request id there, find the request in the server's log."

// unknownMailbox are the codes of EWS and Autodiscover for an address that no mailbox has.
var unknownMailbox = []string{"ErrorNonExistentMailbox", "ErrorMissingEmailAddress", "ErrorInvalidUserPrincipalName", "ErrorInvalidUserSid", "ErrorCannotFindUser", "ErrorCode 500", "ErrorCode InvalidUser", autodiscover.CodeElsewhere}

const (
	wrongPassword = "HTTP 401"
	apps          = "the app registration (Entra ID, App registrations)"
)

var breakages = []Breakage{
	// The token service (Entra ID). https://learn.microsoft.com/entra/identity-platform/reference-error-codes
	{"the client secret has expired", "AADSTS7000222",
		"Create a new client secret for " + apps + ", write its value into secret_file and its expiry date into expires. mailbell takes it up without a restart. A certificate is safer than a secret.",
		evidence{texts: []string{"AADSTS7000222"}}},
	{"the client secret is wrong", "AADSTS7000215",
		"secret_file has to contain the value of the secret, which Entra ID shows once, and not its id. Create a new secret for " + apps + " and write its value there.",
		evidence{texts: []string{"AADSTS7000215"}}},
	{"the tenant is unknown", "AADSTS90002, AADSTS900023",
		"Compare tenant_id with the Directory (tenant) ID of " + apps + ", and cloud with the cloud that the tenant is in.",
		evidence{texts: []string{"AADSTS90002", "AADSTS900023"}}},
	{"the app is unknown in this tenant", "AADSTS700016",
		"Compare client_id with the Application (client) ID of " + apps + ", and tenant_id with the tenant that it is registered in. Do not use the object id, nor the app of another tenant.",
		evidence{texts: []string{"AADSTS700016"}}},
	{"the certificate is not registered for the app", "AADSTS700027, AADSTS7000214",
		"Upload the certificate (its public part) that is in file to " + apps + ", Certificates & secrets. Compare the thumbprints. A renewed certificate has to be uploaded before it is used.",
		evidence{texts: []string{"AADSTS700027", "AADSTS7000214"}}},
	{"the clock of this machine is wrong, or the assertion was too old", "AADSTS700024, AADSTS70002 with times in it",
		"Set this machine's clock by NTP (timedatectl, chronyc tracking): the signed request for a token is valid for minutes only.",
		evidence{texts: []string{"AADSTS700024"}}},
	{"the user name or password of the listener account is wrong", "AADSTS50126, AADSTS50034, AADSTS50055, AADSTS50056",
		"Sign in once by hand as the listener account. Better: change to client_secret or certificate, because Exchange Online no longer lets a user impersonate.",
		evidence{texts: []string{"AADSTS50126", "AADSTS50034", "AADSTS50055", "AADSTS50056"}}},
	{"the listener account has to give a second factor, or is locked", "AADSTS50076, AADSTS50079, AADSTS50158, AADSTS53003, AADSTS50053",
		"A program cannot give a second factor. Use client_secret or certificate. AADSTS50053 means too many wrong passwords: wait, and correct password_file.",
		evidence{texts: []string{"AADSTS50076", "AADSTS50079", "AADSTS50158", "AADSTS53003", "AADSTS50053"}}},
	{"the app may not sign in users with a password", "AADSTS7000218, AADSTS65001",
		"At " + apps + ": Authentication, Allow public client flows: Yes; API permissions: EWS.AccessAsUser.All with the administrator's consent.",
		evidence{texts: []string{"AADSTS7000218", "AADSTS65001"}}},
	{"the token service refuses", "AADSTS and another number",
		"https://login.microsoftonline.com/error?code=NUMBER explains the number. The sign-in logs of Entra ID show the attempt under service principal sign-ins.",
		evidence{texts: []string{"AADSTS"}}},

	{"something between mailbell and APNs answers instead of APNs, or refuses", "a status without one of Apple's reasons",
		"mailbell has to reach api.push.apple.com (or api.sandbox.push.apple.com), port 443 or 2197, without anything on the way that ends TLS. Or set proxy.url. Check url of the apns entry.",
		evidence{steps: []string{StepAPNs}, codes: []string{"HTTP 401", "HTTP 403", "HTTP 404", "HTTP 407", "HTTP 502", "HTTP 503", "HTTP 504"}}},

	{"the token service cannot be reached, or something else answers", "code token service, other host; HTTP 404, 429 or 5xx, or a timeout, of the token service",
		"Connect to its address from this machine (login.microsoftonline.com, or that of the cloud). Check cloud or cloud_urls.authority. If it can only be reached through a proxy, set proxy.url.",
		evidence{texts: []string{": token service: ", ": other host: ", "the token service is away", "there is no token service", "no answer of the token service", "the token service takes too long"}}},

	// What Exchange Online no longer allows.
	{"a listener account cannot impersonate at Exchange Online", "the account is a listener_account, the entry is online; ErrorImpersonateUserDenied, ErrorAccessDenied, HTTP 403",
		"Since February 2025 Exchange Online no longer lets a user impersonate: use client_secret or certificate, with the role Application EWS.AccessAsApp (mailbell check --plan prints the commands).",
		evidence{where: online, methods: []string{credential.ListenerAccount}, codes: []string{"ErrorImpersonateUserDenied", "ErrorImpersonationDenied", "ErrorImpersonationFailed", "ErrorAccessDenied", "HTTP 403"}}},
	{"EWS is switched off at Exchange Online", "HTTP 403 with X-EWS-Policy-Reason: EWS is disabled for this user or tenant",
		"Run Set-OrganizationConfig -EwsEnabled $true, and Set-CASMailbox -EwsEnabled $true for the mailbox, and add the app id to EwsAllowedAppIDs. EWS in Exchange Online ends on 2027-04-01.",
		evidence{where: online, codes: []string{"HTTP 403"}, texts: []string{"is disabled"}}},
	{"Exchange Online blocks EWS for this app", "HTTP 403, often without an explanation; X-EWS-Policy-Reason: EWS is blocked by policy for this user or tenant",
		"Add the app id (client_id) to EwsAllowedAppIDs, keep what is there, and set EwsEnabled to $true (mailbell check --plan prints the commands). The change takes up to 24 hours. Check EwsApplicationAccessPolicy and Set-CASMailbox -EwsEnabled too. EWS in Exchange Online ends on 2027-04-01.",
		evidence{where: online, codes: []string{"HTTP 403"}}},
	{"Exchange Online does not accept the token", "HTTP 401 to a request with a token",
		"Check that cloud is the tenant's. Give the app its right: New-ServicePrincipal and the role Application EWS.AccessAsApp, or full_access_as_app with the administrator's consent. New rights take up to two hours.",
		evidence{where: online, codes: []string{"HTTP 401"}}},

	// The proxy.
	{"the proxy wants a user name and password, or does not accept them", "code proxy: 407, or 401 from tinyproxy",
		"Correct proxy.username and proxy.password_file. mailbell cannot use a proxy that wants NTLM or Kerberos: let mailbell's machine through without a sign-in, or use Basic.",
		evidence{codes: []string{proxy.CodeProxy}, texts: []string{": 407", ": 401", "user name and password", "sign-in by", "accepts none of mailbell's methods"}}},
	{"the proxy does not let mailbell through", "code proxy: 403, or refused by the rules of a SOCKS proxy",
		"Allow this machine to CONNECT to that host and port in the rules of the proxy (443, and 2197 if you use that port for APNs), or add the host to proxy.bypass.",
		evidence{codes: []string{proxy.CodeProxy}, texts: []string{": 403", "does not let mailbell through"}}},
	{"the proxy cannot be reached", "code proxy: cannot be reached, closed the connection, did not answer",
		"Check host and port of proxy.url, and try the proxy from this machine (curl -x). Is there a firewall between them?",
		evidence{codes: []string{proxy.CodeProxy}, texts: []string{"cannot be reached", "closed the connection", "did not answer"}}},
	{"the proxy cannot connect to the server", "code proxy, with the proxy's own words",
		"The log of the proxy says why. Can it resolve the name of the host, and may it connect there? Add an internal host to proxy.bypass.",
		evidence{codes: []string{proxy.CodeProxy}}},

	// The connection.
	{"the server's certificate is for other names", "code certificate: … was asked for, and the certificate is for …",
		"Use a name that is in the certificate (ews_url, autodiscover_url, or what ExternalUrl of the virtual directory says), or give the server a certificate with this name. Verification cannot be turned off.",
		evidence{codes: []string{proxy.CodeCertificate}, texts: []string{"was asked for"}}},
	{"the server's certificate, or one of its chain, has expired", "code certificate: expired on …",
		"Renew the certificate that the error names, on the server or the load balancer in front of it, and install it with its chain. If its dates are right, this machine's clock is wrong.",
		evidence{codes: []string{proxy.CodeCertificate}, texts: []string{"expired on", "not yet valid", "has expired or is not yet valid"}}},
	{"the server's certificate is of an unknown issuer", "code certificate: its authority is unknown, it was issued by itself",
		"Put the certificate of your own authority into a file, and name the file in ca_file of the entry. If the issuer is a public authority, the server does not send the intermediate certificates, or something on the way ends TLS.",
		evidence{codes: []string{proxy.CodeCertificate}}},
	{"no TLS connection can be agreed on", "code TLS",
		"mailbell needs TLS 1.2 or later. On Exchange 2010 and Windows before 2012 TLS 1.2 has to be switched on. Does the port have TLS at all?",
		evidence{codes: []string{proxy.CodeTLS}}},
	{"the server answers without TLS for now", "code plain text, usually with 503",
		"The server has as many connections as it allows, or is starting. mailbell tries again within seconds. If this does not end, raise the server's limit of connections, or lower requests_in_flight.",
		evidence{codes: []string{proxy.CodePlain}, remedy: fault.Retry}},
	{"the port has no TLS", "code plain text: the server speaks HTTP there",
		"Does the port have TLS at all? Use the port of HTTPS in ews_url, autodiscover_url or apns url; usually it is 443 and can be left out.",
		evidence{codes: []string{proxy.CodePlain}}},
	{"the port has TLS", "code TLS unexpected",
		"The server or proxy speaks TLS there: its URL has to begin with https://.",
		evidence{codes: []string{proxy.CodeSecure}}},
	{"the host name is not in DNS", "code name: no such host, or DNS does not answer",
		"Look the name up on this machine (nslookup, resolvectl query). Internal and external DNS may differ: use the internal name in ews_url, or create the record.",
		evidence{codes: []string{proxy.CodeName}}},
	{"the connection is refused", "code connect: connection refused, no route to host",
		"No server listens on that address and port, or a firewall refuses the connection. Check host and port, and try it from this machine (curl -v). If a proxy is required, set proxy.url.",
		evidence{codes: []string{proxy.CodeConnect}}},
	{"the server does not answer in time", "code timeout",
		"A firewall drops the packets, or the server is overloaded. Try it from this machine (curl -v). For APNs allow port 443 or 2197 in the firewall, or set proxy.url.",
		evidence{codes: []string{proxy.CodeTimeout}}},
	{"an online entry leads to a private address", "code private address",
		"The cloud's name resolves to an address in your network. Correct DNS, or use an entry of type exchange.",
		evidence{codes: []string{proxy.CodePrivate}}},

	// Autodiscover.
	{"Autodiscover leads to a host that is not trusted", "code host not allowed",
		"If the named host is yours, add it to trusted_hosts: mailbell sends credentials to no other host. If it is not, somebody else controls Autodiscover of the domain: correct that.",
		evidence{codes: []string{autodiscover.CodeHost}}},
	{"a host asks for a password that it does not get", "code host not trusted: the mail domain itself, or a host in it that does not look like Exchange",
		"If the named host is your Exchange, set autodiscover_url to the URL of its Autodiscover, or add the host to trusted_hosts. If it is a web hoster's, create autodiscover.DOMAIN in DNS, or set ews_url.",
		evidence{codes: []string{auth.CodeUntrusted}}},
	{"there is no Autodiscover", "code nowhere: none of the URLs is Autodiscover",
		"Create autodiscover.DOMAIN in DNS, or set autodiscover_url. Or set ews_url to the URL of EWS; then mailbell needs no Autodiscover.",
		evidence{codes: []string{autodiscover.CodeNowhere}}},
	{"Autodiscover goes round in circles", "code loop",
		"Two servers redirect to each other, for example after an unfinished migration. Set ews_url to the URL of EWS, or correct the target address of the mailbox.",
		evidence{codes: []string{autodiscover.CodeLoop}}},
	{"Autodiscover knows the mailbox and no URL of EWS for it", "code no EWS",
		"Set ExternalUrl of the EWS virtual directory (Set-WebServicesVirtualDirectory), or set ews_url. Perhaps EWS is switched off for the mailbox.",
		evidence{codes: []string{autodiscover.CodeNoURL}}},

	// Signing in on premises.
	{"sign-ins have failed, and mailbell pauses", "code sign-in held",
		"mailbell pauses so that the directory does not lock the account. Correct the password; mailbell tries a changed file at once.",
		evidence{codes: []string{auth.CodeHeld}}},
	{"NTLM is refused: a wrong password, or Extended Protection behind something that ends TLS", "HTTP 401 after the handshake of NTLM, with ntlm",
		"Sign in by hand with the same name and password (DOMAIN\\user). If that works, a load balancer or proxy ends TLS on the way and Extended Protection (on by default since Exchange 2019 CU14) refuses the sign-in. Let TLS pass through, or use the same certificate on both, or set ExtendedProtectionTokenChecking of the EWS virtual directory to None (Allow is not enough: Exchange then checks a binding that is sent), or use basic.",
		evidence{where: onPremises, codes: []string{wrongPassword, auth.CodeNTLM}, methods: []string{credential.NTLM}}},
	{"the server does not offer NTLM", "code NTLM not offered",
		"Run Set-WebServicesVirtualDirectory -WindowsAuthentication $true (and the same with Set-AutodiscoverVirtualDirectory), or use basic. mailbell never changes to Basic by itself.",
		evidence{codes: []string{auth.CodeNoNTLM}}},
	{"the server does not offer Basic", "code Basic not offered",
		"Switch it on for the EWS and the Autodiscover virtual directory (Set-WebServicesVirtualDirectory and Set-AutodiscoverVirtualDirectory -BasicAuthentication $true), or use ntlm if the server offers NTLM or Negotiate.",
		evidence{codes: []string{auth.CodeNoBasic}}},
	{"the user name or password is wrong", "HTTP 401",
		"Sign in by hand with the same name (DOMAIN\\user or user@domain) and password, from password_file. Has the password expired, or is the account locked? Is Basic authentication on for the EWS and the Autodiscover virtual directory (Set-WebServicesVirtualDirectory -BasicAuthentication $true)?",
		evidence{where: onPremises, codes: []string{wrongPassword}}},
	{"EWS is blocked for the account or the mailbox", "HTTP 403",
		"Check EwsEnabled, EwsApplicationAccessPolicy, EwsAllowList and EwsBlockList with Get-OrganizationConfig and Get-CASMailbox. mailbell's user agent is mailbell/…. Or does a reverse proxy refuse the URL?",
		evidence{where: onPremises, codes: []string{"HTTP 403"}}},
	{"there is no EWS at this URL", "HTTP 404, code not EWS, code redirect, code URL",
		"A login page, a load balancer or another server answers instead. Compare ews_url, which ends in /EWS/Exchange.asmx, with ExternalUrl of Get-WebServicesVirtualDirectory.",
		evidence{codes: []string{"HTTP 404", ews.CodeForeign, ews.CodeRedirect, ews.CodeURL}}},

	// Errors of Exchange itself.
	{"the account may not impersonate the mailbox", "ErrorImpersonateUserDenied, ErrorImpersonationDenied, ErrorAccessDenied",
		"On premises: give the account the role ApplicationImpersonation, with a scope that includes the mailbox. Online: give the app the role Application EWS.AccessAsApp in the same way. mailbell check --plan prints the commands. A new right works after some minutes, online after up to two hours.",
		evidence{codes: []string{"ErrorImpersonateUserDenied", "ErrorImpersonationDenied", "ErrorImpersonationFailed", "ErrorAccessDenied", "ErrorSubscriptionDelegateAccessNotSupported"}}},
	{"the mailbox is unknown there", "ErrorNonExistentMailbox; Autodiscover: error 500, InvalidUser",
		"Compare the address with the primary address (Get-Recipient). If the mailbox moved to another Exchange, that one needs an exchange entry with the same domain. Groups and contacts have no mailbox; shared and room mailboxes work.",
		evidence{codes: unknownMailbox}},
	{"the tenant is to be removed", "ErrorOrganizationAccessBlocked",
		"Microsoft has blocked the organisation: its subscription has ended. Ask whoever pays for it. Until then remove the entry.",
		evidence{codes: []string{"ErrorOrganizationAccessBlocked"}}},
	{"the account of the mailbox is disabled", "ErrorAccountDisabled",
		"Enable the user in Active Directory, or remove its devices. For a shared mailbox this is normal on some versions: its account is disabled by design.",
		evidence{codes: []string{"ErrorAccountDisabled"}}},
	{"subscriptions are forbidden, or used up", "ErrorExceededSubscriptionCount; with EWSMaxSubscriptions 0 for the first subscription already",
		"Run Get-ThrottlingPolicy | fl Name,EwsMaxSubscriptions. 0 switches all notifications off; Microsoft once advised it against CVE-2018-8581 (KB4490060). Give the users of that policy one with a sufficient number (mailbell check --plan prints it), never an unlimited one. If the number is not 0, unused subscriptions expire within the hour.",
		evidence{codes: []string{"ErrorExceededSubscriptionCount"}}},
	{"the server has no streaming notifications", "ErrorInvalidServerVersion, ErrorInvalidRequest or ErrorSchemaValidation at the subscription",
		"Streaming notifications need Exchange 2010 SP1 or later. mailbell cannot listen to an older server, nor to some servers that are not Microsoft's.",
		evidence{codes: []string{"ErrorInvalidServerVersion", "ErrorIncorrectSchemaVersion", "ErrorSchemaValidation", "ErrorInvalidRequest", "ErrorInvalidSubscriptionRequest"}}},
	{"too many streams are open", "ErrorExceededConnectionCount",
		"Does another program listen with the same account? The limit is HangingConnectionLimit, on premises in web.config of EWS.",
		evidence{codes: []string{"ErrorExceededConnectionCount"}}},
	{"the server throttles", "ErrorServerBusy, HTTP 429, HTTP 503",
		"mailbell waits as long as the server asks. If this does not end, lower requests_per_second of the entry, or give the account a throttling policy (mailbell check --plan).",
		evidence{codes: []string{"ErrorServerBusy", "HTTP 429", "HTTP 503"}}},
	{"the mailbox is being moved, or its database is offline", "ErrorMailboxMoveInProgress, ErrorMailboxStoreUnavailable, ErrorMailboxFailover, ErrorConnectionFailed",
		"mailbell tries again within five minutes. Get-MoveRequest and Get-MailboxDatabaseCopyStatus show the progress.",
		evidence{codes: []string{"ErrorMailboxMoveInProgress", "ErrorMailboxStoreUnavailable", "ErrorMailboxFailover", "ErrorConnectionFailed"}}},

	// APNs. https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
	{"the APNs key is wrong", "403 InvalidProviderToken",
		"key_file, key_id and team_id have to match: the key id is in the name of the .p8 file (AuthKey_KEYID.p8), the team id is under Membership in Apple's developer account. Was the key revoked? Is this machine's clock right?",
		evidence{codes: []string{"InvalidProviderToken"}}},
	{"the APNs key or certificate is for the other environment", "403 BadEnvironmentKeyInToken, BadEnvironmentKeyIdInToken, BadCertificateEnvironment",
		"A key can be for sandbox or production only. Use a key for the environment of the apns entry, or a key for both.",
		evidence{codes: []string{"BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken", "BadCertificateEnvironment"}}},
	{"the clock of this machine is wrong", "403 ExpiredProviderToken with a new token; a Date of the server that is minutes away",
		"Set the clock by NTP (timedatectl, chronyc tracking): APNs refuses tokens that are an hour off, Entra ID those that are minutes off.",
		evidence{codes: []string{"ExpiredProviderToken", codeClock}}},
	{"the device token is not of this environment", "400 BadDeviceToken",
		"An app from Xcode has sandbox tokens, one from TestFlight, the App Store or an MDM has production ones. Enrol the device with the environment of its app, and configure an apns entry for it. Or the token is an old one: let the app report its token again.",
		evidence{codes: []string{"BadDeviceToken"}}},
	{"the topic is not the app's, or not the credential's", "400 DeviceTokenNotForTopic, TopicDisallowed, BadTopic; no_topic",
		"topic has to be the app's bundle id, exactly. A certificate or key that is for certain topics has to include it. The device has to be enrolled with the topic of the app that the token is from.",
		evidence{codes: []string{"DeviceTokenNotForTopic", "TopicDisallowed", "BadTopic", "MissingTopic", "no_topic"}}},
	{"the app was removed from the device, or has a new token", "410 Unregistered, ExpiredToken",
		"Open the app on the device, so that it reports its token, and enrol it again.",
		evidence{codes: []string{"Unregistered", "ExpiredToken"}}},
	{"the APNs certificate is not valid", "403 BadCertificate, Forbidden; a TLS alert",
		"Renew the certificate in Apple's developer account; it is valid for a year. A key (token) does not expire, and is for all apps.",
		evidence{codes: []string{"BadCertificate", "Forbidden", "MissingProviderToken", "UnrelatedKeyIdInToken"}}},
	{"the device got too many alerts", "429 TooManyRequests",
		"This passes within minutes. If it does not, does a program test this device again and again?",
		evidence{codes: []string{"TooManyRequests", "TooManyProviderTokenUpdates"}}},
	{"nothing is sent", "send_off",
		"The configuration has alerts.send: false: mailbell decides and records, and sends no alerts. Set it to true to send them.",
		evidence{codes: []string{"send_off"}}},

	// The state.
	{"a running mailbell holds the state file", "in use by another process",
		"This is normal while the service runs. Ask the service instead: POST /v1/test-notifications, mailbell why. Otherwise stop the other process. Two services need a state file each, or Redis.",
		evidence{is: subscriptions.ErrInUse}},
	{"Redis does not accept the password", "WRONGPASS, NOAUTH, NOPERM",
		"Compare state.redis.username and password_file with the server's (ACL LIST, requirepass). NOPERM: the user lacks a right that mailbell needs on the keys of its prefix.",
		evidence{texts: []string{"WRONGPASS", "NOAUTH", "NOPERM"}}},
	{"Redis has settings that mailbell refuses", "maxmemory-policy, replica",
		"With these settings enrolments would be lost. Set maxmemory-policy to noeviction, and use the address of the master.",
		evidence{is: subscriptions.ErrRedis}},
	{"Redis cannot be reached", "connection refused, timeout, no such host, for an address of state.redis",
		"Check state.redis.addresses. Does the server listen on this network (bind, protected-mode), and does it expect TLS or not (state.redis.tls, ca_file)?",
		evidence{steps: []string{stepState}, texts: []string{"dial tcp", "lookup ", "i/o timeout", "deadline exceeded", "connection reset", "EOF", "tls: ", "x509: "}}},
	{"the state cannot be opened", "the error of the file system or the store",
		"mailbell has to read and write the file and its folder (state.path). They have to be on a local disk, not on a network share. Is the disk full?",
		evidence{steps: []string{stepState}}},

	// mailbell's own.
	{"the device is not enrolled", "not_enrolled",
		"Enrol it (PUT /v1/devices/{id}). If APNs declared the device gone, mailbell removed it: let the app report its token, and enrol it again.",
		evidence{codes: []string{"not_enrolled"}}},
	{"no exchange entry covers the address", "not_covered",
		"Add the mail domain to domains of an exchange entry.",
		evidence{codes: []string{"not_covered"}}},
	{"no listener account has room", "no_capacity",
		"Add listener accounts to the entry (mailbell check --plan says how many): each listens to mailboxes_per_account mailboxes.",
		evidence{codes: []string{"no_capacity"}}},
	{"the mailbox is on a server that is not listened to", "out_of_scope",
		"mailbox_servers of the entry does not name this server. Add it, or let another instance listen to it.",
		evidence{codes: []string{"out_of_scope"}}},

	// Whatever is left.
	{"something temporary", "an error of another code that is tried again",
		"mailbell tries again by itself. If this does not end: " + strings.ToLower(lookAtTheLog[:1]) + lookAtTheLog[1:],
		evidence{remedy: fault.Wait}},
	{"something temporary that mailbell tries again within seconds", "an error of another code that is tried again at once",
		"Try again. If this does not end: " + strings.ToLower(lookAtTheLog[:1]) + lookAtTheLog[1:],
		evidence{remedy: fault.Retry}},
	{"something else", "an error of another code", lookAtTheLog, evidence{}},
}
