package outcome

// The reasons of mailbell. Those of Apple are written as Apple writes them, and stand in the table alone.
const (
	Known           Reason = "known"
	Summary         Reason = "summary"
	Unreadable      Reason = "unreadable"
	BeforeEnrolment Reason = "before_enrolment"
	Late            Reason = "late"
	Future          Reason = "future"
	Clock           Reason = "clock"
	Gone            Reason = "gone"
	SendOff         Reason = "send_off"
	Quarantined     Reason = "quarantined"
	RemovalHeld     Reason = "removal_held"
	Stale           Reason = "stale_410"
	NotSendable     Reason = "not_sendable"
	Other           Reason = "other"

	Enrolled       Reason = "enrolled"
	Unanswered     Reason = "unanswered"
	Throttled      Reason = "throttled"
	TopicAway      Reason = "topic_away"
	Credentials    Reason = "credentials"
	NoTopic        Reason = "no_topic"
	NotHeld        Reason = "not_held"
	Stopping       Reason = "stopping"
	MailboxFailing Reason = "mailbox_failing"
)

// table is every reason there is: a reader finds in it all that a phone can be silent for.
var table = [...]Row{
	// APNs accepted an alert.
	{Summary, true, "The mail was older than max_age when its turn came; one alert sums it up with others."},
	{Unreadable, true, "The message cannot be read while its mailbox can; after three tries the alert says that there is mail and no more."},

	// mailbell decided that there is no alert.
	{Known, true, "A message with the same Message-ID and time sent was dealt with before: another notification of it, or a copy."},
	{BeforeEnrolment, true, "It was received before the device was enrolled."},
	{Late, true, "It was older than a day when its turn came, or is dated before the time back to which mailbell knows the mailbox."},
	{Future, true, "It is dated after the server's clock, and no notification of Exchange named it."},
	{Clock, true, "The server's clock fell back behind what was dealt with, so nobody can tell what of this is new."},
	{Gone, true, "It had left the Inbox before it was read: a rule, or another mail program."},
	{SendOff, true, "The configuration says that nothing is sent (alerts.send: false)."},

	// APNs is not asked, or its word is not followed.
	{Quarantined, true, "APNs accepts the device token in no environment, and is asked about it again after an hour at the earliest. A new enrolment ends this."},
	{RemovalHeld, true, "APNs declared the device gone, as it did with many others within ten minutes; a mistake in topic or environment is likelier, so it stays enrolled."},
	{Stale, true, "APNs called the token gone from before the device enrolled again with it; it stays enrolled."},
	{NotSendable, true, "No request could be made of it. This is a defect of mailbell: please report it."},
	{Other, true, "APNs, or something before it, gave an answer that Apple does not document."},

	// The device is behind, and catches up.
	{Enrolled, false, "It enrolled, or caught up, while the message was being dealt with."},
	{Unanswered, false, "APNs has not answered yet."},
	{Throttled, false, "APNs says that the device gets too many alerts; it waits for some minutes at most."},
	{TopicAway, false, "APNs cannot be reached, or answers with faults only."},
	{Credentials, false, "APNs refuses the key or the certificate; it takes a person to mend that."},
	{NoTopic, false, "The configuration has no apns entry for the device's topic and environment."},
	{NotHeld, false, "The state was not certain to be this instance's own, or could not be written, so nothing was sent; whoever holds it goes on here."},
	{Stopping, false, "mailbell was stopping; the next start goes on here."},
	{MailboxFailing, false, "The mailbox cannot be read to catch up; its own reason says why."},

	// Apple's words, from "Handling notification responses from APNs".
	{"BadDeviceToken", true, "Token and environment do not belong together, or the token is none. The device should report its token again."},
	{"DeviceTokenNotForTopic", true, "The token belongs to another app than the topic names."},
	{"TopicDisallowed", true, "The key or certificate may not send to this topic."},
	{"BadTopic", true, "The topic of the configuration is not an app's bundle id."},
	{"MissingTopic", true, ours},
	{"BadCollapseId", true, ours},
	{"BadExpirationDate", true, ours},
	{"BadMessageId", true, ours},
	{"BadPriority", true, ours},
	{"DuplicateHeaders", true, ours},
	{"InvalidPushType", true, ours},
	{"PayloadEmpty", true, ours},
	{"MissingDeviceToken", true, ours},
	{"BadPath", true, ours},
	{"MethodNotAllowed", true, ours},
	{"PayloadTooLarge", true, ours},
	{"Unregistered", true, "The app was removed from the phone, or has a new token: the enrolment was removed."},
	{"ExpiredToken", true, "The device token has expired: the enrolment was removed."},
	{"IdleTimeout", false, "The connection to APNs was idle for too long."},
	{"ExpiredProviderToken", false, "The provider token is too old; if it is new, the clock of this machine is wrong."},
	{"UnrelatedKeyIdInToken", false, "The connection to APNs was opened with another key."},
	{"InvalidProviderToken", false, "Key, key id and team id do not belong together, the key was revoked, or the clock of this machine is wrong."},
	{"MissingProviderToken", false, "No provider token came through; something between here and APNs takes it out."},
	{"BadEnvironmentKeyIdInToken", false, "The key is for the other environment."},
	{"BadEnvironmentKeyInToken", false, "The key is for the other environment."},
	{"BadCertificate", false, "The certificate is not valid."},
	{"BadCertificateEnvironment", false, "The certificate is for the other environment."},
	{"Forbidden", false, "The credential may not do this."},
	{"TooManyRequests", false, "APNs says that the device gets too many alerts; it waits for some minutes at most."},
	{"TooManyProviderTokenUpdates", false, "The key has signed too many tokens; another program may use it too."},
	{"InternalServerError", false, away},
	{"ServiceUnavailable", false, away},
	{"Shutdown", false, away},
}

const (
	ours = "mailbell sent what APNs does not accept. This is a defect of mailbell: please report it."
	away = "APNs has a fault that passes."
)
