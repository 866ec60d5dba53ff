// Package webhookconfig has what the configuration of a webhook may say: the names of the events, and the secret with which they are
// signed (Standard Webhooks, https://www.standardwebhooks.com). config uses it to report mistakes with their keys, webhooks to send.
package webhookconfig

import (
	"encoding/base64"
	"errors"
	"strings"
)

// The events. A receiver that does not know one ignores it.
const (
	Started      = "service.started"      // mailbell started, or took the state over: what waited for a webhook before is lost
	DeviceGone   = "device.gone"          // APNs declared the token dead, and the enrolment is removed
	AlertLost    = "device.alert_lost"    // an alert of a device was refused for good
	Failing      = "mailbox.failing"      // no alerts come for a mailbox: it cannot be read, or there is no room for it
	OutOfScope   = "mailbox.out_of_scope" // no alerts come for a mailbox: the configuration excludes its server
	ListensAgain = "mailbox.listening"    // alerts come again for it
)

// Check is the event of mailbell check: it tells nothing, and is posted to each webhook whatever events that wants.
const Check = "service.check"

// Events are all that a webhook may choose among.
func Events() []string {
	return []string{Started, DeviceGone, AlertLost, Failing, OutOfScope, ListensAgain}
}

// The specification: "at least 24 bytes (192 bits, 512 maximum)".
const (
	secretPrefix = "whsec_"
	minSecret    = 24
	maxSecret    = 64
)

var errSecret = errors.New("want whsec_ and 24 to 64 random bytes in base64: printf whsec_; openssl rand -base64 32")

// ParseSecret reads the secret of a webhook. Its error does not show it.
func ParseSecret(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, secretPrefix)
	if !ok || strings.ContainsAny(text, "\r\n") { // which the decoder passes over
		return nil, errSecret
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, errSecret
	}
	return key, nil
}
