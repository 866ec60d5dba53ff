package config

// What an alert shows, and when there is one.

import "time"

// Alerts says what an alert shows and when there is one.
type Alerts struct {
	Content string // one of the Content… names
	MaxAge  time.Duration
	Send    bool // false: mailbell decides and records, and sends no alerts
}

// What an alert shows of a message.
const (
	ContentGeneric              = "generic"
	ContentSender               = "sender"
	ContentSenderSubject        = "sender_subject"
	ContentSenderSubjectPreview = "sender_subject_preview"
)

// The defaults and bounds of alerts.
const (
	defaultContent = ContentSenderSubject // what a mail app shows on the lock screen

	defaultMaxAge = time.Hour      // an older alert wakes nobody in time: many become one summary
	minMaxAge     = time.Minute    // mail in transit is often older than seconds
	maxMaxAge     = 24 * time.Hour // mail that is older than a day leads to no alert
)

func (o *object) alerts() Alerts {
	defer o.end()
	return Alerts{
		Content: o.choice("content", defaultContent, []string{ContentGeneric, ContentSender, ContentSenderSubject, ContentSenderSubjectPreview}),
		MaxAge:  o.duration("max_age", defaultMaxAge, minMaxAge, maxMaxAge),
		Send:    o.boolean("send", true),
	}
}
