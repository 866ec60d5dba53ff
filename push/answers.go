package push

// This file is the one table of what the answers of APNs mean.
// https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns

import (
	"cmp"
	"net/http"

	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
)

// Reasons of APNs for which apns2 has no name.
const (
	reasonUnrelatedKeyID      = "UnrelatedKeyIdInToken"
	reasonBadEnvironmentKeyID = "BadEnvironmentKeyIdInToken"
	reasonBadEnvironmentKey   = "BadEnvironmentKeyInToken"
)

// reaction is what an answer asks for.
type reaction uint8

const (
	finish    reaction = iota + 1 // the alert is settled, with the result beside it
	again                         // passes by itself: the same alert again, after a pause
	reconnect                     // again, once; the second time it is the credential
	renew                         // again with a new provider token
	keepToken                     // again with the old provider token, and no new one for a while
	shrink                        // again at once, with the smallest payload; once
	slowDown                      // this device waits
	hold                          // everything with this credential waits for a person
	elsewhere                     // again in the other environment, once; a token that neither takes is quarantined
)

// whom an answer concerns.
type whom uint8

const (
	anAlert whom = iota + 1
	aDevice
	aCredential
	theService
)

// meaning is a line of the table.
type meaning struct {
	status   int
	reason   string // empty: whatever else comes with this status
	concerns whom
	does     reaction
	result   subscriptions.Result // of finish
	replace  bool                 // the connection is replaced: APNs leaves it unusable
	text     string               // for the log
}

const (
	ours   = "mailbell sent what APNs does not take; this is a defect of mailbell"
	config = "token, topic and environment of the device do not belong together, or the topic of the configuration is not the credential's"
	away   = "APNs has a fault that passes"
)

// meanings is the table. A device that is refused stays enrolled: only a 410 says that it is gone for good, and only if it has
// not enrolled again since, and not many others fail with it (guard.go).
var meanings = [...]meaning{
	{http.StatusOK, "", aDevice, finish, subscriptions.Accepted, false, ""},

	{http.StatusBadRequest, apns2.ReasonBadDeviceToken, aDevice, elsewhere, 0, false, config},
	{http.StatusBadRequest, apns2.ReasonDeviceTokenNotForTopic, aDevice, finish, subscriptions.Refused, false, config},
	{http.StatusBadRequest, apns2.ReasonTopicDisallowed, aDevice, finish, subscriptions.Refused, false, config},
	{http.StatusBadRequest, apns2.ReasonBadTopic, aDevice, finish, subscriptions.Refused, false, config},
	{http.StatusBadRequest, apns2.ReasonMissingTopic, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonBadCollapseID, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonBadExpirationDate, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonBadMessageID, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonBadPriority, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonDuplicateHeaders, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonInvalidPushType, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonPayloadEmpty, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonMissingDeviceToken, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusBadRequest, apns2.ReasonIdleTimeout, theService, again, 0, true, "the connection was idle for too long"},
	{http.StatusBadRequest, "", anAlert, finish, subscriptions.Refused, false, ours},

	{http.StatusForbidden, apns2.ReasonExpiredProviderToken, aCredential, renew, 0, true, "the provider token is too old; if it is new, the clock of this machine is wrong"},
	{http.StatusForbidden, reasonUnrelatedKeyID, aCredential, reconnect, 0, true, "the connection was opened with another key"},
	{http.StatusForbidden, apns2.ReasonInvalidProviderToken, aCredential, hold, 0, false, "key, key id and team id do not belong together, the key was revoked, or the clock of this machine is wrong"},
	{http.StatusForbidden, apns2.ReasonMissingProviderToken, aCredential, hold, 0, false, "no provider token came through; something between here and APNs takes it out"},
	{http.StatusForbidden, reasonBadEnvironmentKeyID, aCredential, hold, 0, false, "the key is for the other environment"},
	{http.StatusForbidden, reasonBadEnvironmentKey, aCredential, hold, 0, false, "the key is for the other environment"},
	{http.StatusForbidden, apns2.ReasonBadCertificate, aCredential, hold, 0, true, "the certificate is not valid"},
	{http.StatusForbidden, apns2.ReasonBadCertificateEnvironment, aCredential, hold, 0, true, "the certificate is for the other environment"},
	{http.StatusForbidden, apns2.ReasonForbidden, aCredential, hold, 0, false, "the credential may not do this"},
	{http.StatusForbidden, "", aCredential, hold, 0, false, "APNs, or a proxy before it, does not let this credential in"},

	{http.StatusNotFound, apns2.ReasonBadPath, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusNotFound, "", anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusMethodNotAllowed, apns2.ReasonMethodNotAllowed, anAlert, finish, subscriptions.Refused, false, ours},
	{http.StatusMethodNotAllowed, "", anAlert, finish, subscriptions.Refused, false, ours},

	{http.StatusGone, apns2.ReasonUnregistered, aDevice, finish, subscriptions.Gone, false, "the app was removed, or has a new token"},
	{http.StatusGone, apns2.ReasonExpiredToken, aDevice, finish, subscriptions.Gone, false, "the device token has expired"},
	{http.StatusGone, "", aDevice, finish, subscriptions.Gone, false, "the device token is not valid any more"},

	{http.StatusRequestEntityTooLarge, apns2.ReasonPayloadTooLarge, anAlert, shrink, 0, false, ours},
	{http.StatusRequestEntityTooLarge, "", anAlert, shrink, 0, false, ours},

	{http.StatusTooManyRequests, apns2.ReasonTooManyRequests, aDevice, slowDown, 0, false, "the device was rung too often"},
	{http.StatusTooManyRequests, apns2.ReasonTooManyProviderTokenUpdates, aCredential, keepToken, 0, true, "the key has signed too many tokens; another program may use it too"},
	{http.StatusTooManyRequests, "", aDevice, slowDown, 0, false, "the device was rung too often"},

	{http.StatusInternalServerError, apns2.ReasonInternalServerError, theService, again, 0, true, away},
	{http.StatusServiceUnavailable, apns2.ReasonServiceUnavailable, theService, again, 0, true, away},
	{http.StatusServiceUnavailable, apns2.ReasonShutdown, theService, again, 0, true, away},
}

// unknown is what any answer means that the table does not know: it is not APNs' last word on the alert.
var unknown = meaning{concerns: theService, does: again, replace: true, text: "an answer that is not of APNs as it is documented"}

// meaningOf returns the line for an answer: by its reason, else by its status alone. APNs has given a reason another status
// before, so a known reason counts also with one that it does not stand beside.
func meaningOf(status int, reason string) meaning {
	var byReason, byStatus *meaning
	for i := range meanings {
		switch m := &meanings[i]; {
		case m.reason == "" && m.status == status:
			byStatus = m
		case m.reason != "" && m.reason == reason:
			byReason = m
		}
	}
	if status == http.StatusOK {
		return *byStatus
	}
	return *cmp.Or(byReason, byStatus, &unknown)
}

// label returns a reason as it may stand in logs, answers and metrics: what a peer writes gets nowhere unless the table knows it.
func label(reason string) string {
	for i := range meanings {
		if meanings[i].reason == reason {
			return reason
		}
	}
	return "other"
}
