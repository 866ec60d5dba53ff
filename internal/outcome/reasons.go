package outcome

// The reasons that mailbell gives. Apple's reasons are written as Apple writes them, and are in the table only.
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

// table has every reason for which a phone can stay silent, or its alert says less.
var table = []Row{
	// APNs accepted an alert that says less.
	{Summary, true, "The message was older than max_age when its turn came; one alert sums it up with others."},
	{Unreadable, true, "mailbell could not read the message, but could read its mailbox; after three tries it sent an alert that only says that there is new mail."},

	// mailbell decided that there is no alert.
	{Known, true, "A message with the same Message-ID and time sent had its outcome before: this is a second notification of it, or a copy."},
	{BeforeEnrolment, true, "The message was received before the device was enrolled."},
	{Late, true, "The message was older than a day when its turn came, or is dated earlier than mailbell lists the mailbox."},
	{Future, true, "The message is dated later than the server's clock, and no notification from Exchange named it."},
	{Clock, true, "The clock of the Exchange server was set back, so mailbell cannot tell whether the message is new."},
	{Gone, true, "The message left the Inbox before mailbell read it: a rule or another mail program moved or deleted it."},
	{SendOff, true, "The configuration has alerts.send: false, so mailbell sends no alerts."},

	// mailbell does not ask APNs, or does not do what the answer asks for.
	{Quarantined, true, "APNs accepts the device token in no environment. mailbell sends to it again after an hour at the earliest, or after a new enrolment."},
	{RemovalHeld, true, "APNs declared the device gone, and many others within the same ten minutes. A wrong topic or environment is likelier, so the device stays enrolled."},
	{Stale, true, "APNs declared the token gone as of a time before the device last enrolled with it, so the device stays enrolled."},
	{NotSendable, true, "mailbell could not make a request to APNs for this alert. This is a defect of mailbell: please report it."},
	{Other, true, "APNs, or a proxy in front of it, gave a reason that Apple does not document."},

	// The device is behind, and catches up.
	{Enrolled, false, "The device was being enrolled, or catching up, while the alerts for this message were sent."},
	{Unanswered, false, "APNs has not answered yet."},
	{Throttled, false, "APNs says that the device gets too many alerts. mailbell sends to it again within minutes."},
	{TopicAway, false, "mailbell cannot reach APNs, or APNs answers every request with an error."},
	{Credentials, false, "APNs refuses the key or the certificate. The log says why; an administrator has to correct it."},
	{NoTopic, false, "The configuration has no apns entry for the device's topic and environment."},
	{NotHeld, false, "This instance could not be certain that it holds the state, or could not write it, so it sent nothing. The instance that holds the state sends the alert."},
	{Stopping, false, "mailbell was stopping. The device catches up after the next start."},
	{MailboxFailing, false, "mailbell cannot read the mailbox, so the device cannot catch up. The reason of the mailbox says why."},

	// Apple's words, from "Handling notification responses from APNs".
	{"BadDeviceToken", true, "The device token is not of this environment, or is no token. The app should report its token again."},
	{"DeviceTokenNotForTopic", true, "The device token is of another app than the topic names."},
	{"TopicDisallowed", true, "The key or certificate may not send to this topic."},
	{"BadTopic", true, "The topic is not the bundle id of an app."},
	{"MissingTopic", true, defect},
	{"BadCollapseId", true, defect},
	{"BadExpirationDate", true, defect},
	{"BadMessageId", true, defect},
	{"BadPriority", true, defect},
	{"DuplicateHeaders", true, defect},
	{"InvalidPushType", true, defect},
	{"PayloadEmpty", true, defect},
	{"MissingDeviceToken", true, defect},
	{"BadPath", true, defect},
	{"MethodNotAllowed", true, defect},
	{"PayloadTooLarge", true, defect},
	{"Unregistered", true, "The app was removed from the phone, or has a new token. mailbell removed the enrolment."},
	{"ExpiredToken", true, "The device token has expired. mailbell removed the enrolment."},
	{"IdleTimeout", false, "The connection to APNs was idle for too long."},
	{"ExpiredProviderToken", false, "The provider token is too old. If mailbell has just made it, the clock of this machine is wrong."},
	{"UnrelatedKeyIdInToken", false, "The connection to APNs was opened with another key."},
	{"InvalidProviderToken", false, "The key, key id and team id do not match, the key was revoked, or the clock of this machine is wrong."},
	{"MissingProviderToken", false, "APNs got no provider token: something between mailbell and APNs removes it."},
	{"BadEnvironmentKeyIdInToken", false, "The key is for the other environment."},
	{"BadEnvironmentKeyInToken", false, "The key is for the other environment."},
	{"BadCertificate", false, "The certificate is not valid."},
	{"BadCertificateEnvironment", false, "The certificate is for the other environment."},
	{"Forbidden", false, "The key or certificate may not do this."},
	{"TooManyRequests", false, "APNs says that the device gets too many alerts. mailbell sends to it again within minutes."},
	{"TooManyProviderTokenUpdates", false, "Too many provider tokens were signed with the key. Another program may use the same key."},
	{"InternalServerError", false, temporary},
	{"ServiceUnavailable", false, temporary},
	{"Shutdown", false, temporary},
}

const (
	defect    = "mailbell sent a request that APNs does not accept. This is a defect of mailbell: please report it."
	temporary = "APNs has a temporary fault."
)
