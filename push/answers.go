package push

// This file is the one table of what the answers of APNs ask for. What a reason means for an administrator stands in
// internal/outcome.
// https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns

import (
	"net/http"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/sideshow/apns2"
)

// reaction is what an answer asks for.
type reaction uint8

const (
	accept    reaction = iota + 1 // APNs has it
	refuse                        // never again: the phone's token, topic and environment do not belong together
	remove                        // never again: the phone is gone
	defect                        // never again: it is not as APNs wants it, which is mailbell's fault
	elsewhere                     // again in the other environment, once; a token that neither accepts is quarantined
	slowDown                      // this phone waits
	shrink                        // again with the smaller payload, once
	again                         // passes by itself: the same again, after a pause
	reconnect                     // again, once; the second time it is the credential
	renew                         // again with a new provider token
	keepToken                     // again with the old provider token, and no new one for a while
	hold                          // everything with this credential waits for a person
)

// rule is a line of the table.
type rule struct {
	status   int
	reason   outcome.Reason // empty: another one, in Apple's form
	reaction reaction
	replace  bool // the connection is replaced: APNs leaves it unusable
}

// rules is the table. A phone that is refused stays enrolled: only a 410 says that it is gone for good, and only if it has not
// enrolled again since, and not many others fail with it (guard.go).
var rules = []rule{
	{http.StatusOK, "", accept, false},

	{http.StatusBadRequest, apns2.ReasonBadDeviceToken, elsewhere, false},
	{http.StatusBadRequest, apns2.ReasonDeviceTokenNotForTopic, refuse, false},
	{http.StatusBadRequest, apns2.ReasonTopicDisallowed, refuse, false},
	{http.StatusBadRequest, apns2.ReasonBadTopic, refuse, false},
	{http.StatusBadRequest, apns2.ReasonMissingTopic, defect, false},
	{http.StatusBadRequest, apns2.ReasonBadCollapseID, defect, false},
	{http.StatusBadRequest, apns2.ReasonBadExpirationDate, defect, false},
	{http.StatusBadRequest, apns2.ReasonBadMessageID, defect, false},
	{http.StatusBadRequest, apns2.ReasonBadPriority, defect, false},
	{http.StatusBadRequest, apns2.ReasonDuplicateHeaders, defect, false},
	{http.StatusBadRequest, apns2.ReasonInvalidPushType, defect, false},
	{http.StatusBadRequest, apns2.ReasonPayloadEmpty, defect, false},
	{http.StatusBadRequest, apns2.ReasonMissingDeviceToken, defect, false},
	{http.StatusBadRequest, apns2.ReasonIdleTimeout, again, true},
	{http.StatusBadRequest, "", defect, false},

	{http.StatusForbidden, apns2.ReasonExpiredProviderToken, renew, true},
	{http.StatusForbidden, "UnrelatedKeyIdInToken", reconnect, true},
	{http.StatusForbidden, apns2.ReasonInvalidProviderToken, hold, false},
	{http.StatusForbidden, apns2.ReasonMissingProviderToken, hold, false},
	{http.StatusForbidden, "BadEnvironmentKeyIdInToken", hold, false},
	{http.StatusForbidden, "BadEnvironmentKeyInToken", hold, false},
	{http.StatusForbidden, apns2.ReasonBadCertificate, hold, true},
	{http.StatusForbidden, apns2.ReasonBadCertificateEnvironment, hold, true},
	{http.StatusForbidden, apns2.ReasonForbidden, hold, false},
	{http.StatusForbidden, "", hold, false},

	{http.StatusNotFound, apns2.ReasonBadPath, defect, false},
	{http.StatusNotFound, "", defect, false},
	{http.StatusMethodNotAllowed, apns2.ReasonMethodNotAllowed, defect, false},
	{http.StatusMethodNotAllowed, "", defect, false},

	{http.StatusGone, apns2.ReasonUnregistered, remove, false},
	{http.StatusGone, apns2.ReasonExpiredToken, remove, false},
	{http.StatusGone, "", remove, false},

	{http.StatusRequestEntityTooLarge, apns2.ReasonPayloadTooLarge, shrink, false},
	{http.StatusRequestEntityTooLarge, "", shrink, false},

	{http.StatusTooManyRequests, apns2.ReasonTooManyRequests, slowDown, false},
	{http.StatusTooManyRequests, apns2.ReasonTooManyProviderTokenUpdates, keepToken, true},
	{http.StatusTooManyRequests, "", slowDown, false},

	{http.StatusInternalServerError, apns2.ReasonInternalServerError, again, true},
	{http.StatusServiceUnavailable, apns2.ReasonServiceUnavailable, again, true},
	{http.StatusServiceUnavailable, apns2.ReasonShutdown, again, true},
}

// unknown is the rule for any answer that has none in the table, and for what answers in the place of APNs: without Apple's word it is
// not Apple's last word. It settles no notification, removes no device, and says nothing of the credential.
var unknown = rule{reaction: again, replace: true}

// ruleFor returns the rule for an answer of APNs: by its reason, else by its status alone. APNs has given a reason another status
// before, so a known reason counts also with one that it does not stand beside.
func ruleFor(status int, reason outcome.Reason) rule {
	if reason == "" && status != http.StatusOK {
		return unknown
	}
	byStatus := unknown
	for _, r := range rules {
		switch {
		case r.reason == "" && r.status == status:
			byStatus = r
		case r.reason != "" && r.reason == reason && status != http.StatusOK:
			return r
		}
	}
	return byStatus
}

// known returns a reason as it may stand in logs, answers and metrics: what a peer writes gets nowhere unless the table has it.
func known(reason string) outcome.Reason {
	if reason == "" {
		return ""
	}
	for _, r := range rules {
		if string(r.reason) == reason {
			return r.reason
		}
	}
	return outcome.Other
}

// works reports whether an answer shows that APNs does its work: it has let the credential in, and looked at the notification.
func (r reaction) works() bool {
	switch r {
	case accept, refuse, remove, defect, elsewhere, slowDown, shrink:
		return true
	}
	return false
}

// fault types what is no acceptance by whom it concerns, and by what to do about it.
func (r reaction) fault() (fault.Scope, fault.Remedy) {
	switch r {
	case refuse, remove, elsewhere:
		return fault.Message, fault.Fix
	case slowDown:
		return fault.Message, fault.Wait
	case defect, shrink:
		return fault.Message, fault.GiveUp
	case reconnect, renew, keepToken, hold:
		return fault.Account, fault.Fix
	}
	return fault.Server, fault.Wait
}
