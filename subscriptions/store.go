package subscriptions

import (
	"context"
	"errors"

	"github.com/mailbell/mailbell/mail"
)

// Store makes the state durable: the embedded file, or Redis. Everything is read once, at the start, and lives in memory from
// then on; each change is written through. The conformance suite (storetest) says what a store has to hold.
type Store interface {
	// Load returns all that was written. The installation's secret is made by the first Load.
	Load(ctx context.Context) (Contents, error)
	// Write makes a change durable, as a whole or not at all, before it returns nil. After an error, or a ctx that ended, nobody
	// knows: the caller writes the same values again, which does no harm. Changes of one record are never written at the same time.
	Write(ctx context.Context, c Change) error
	// Held says whether the state is this process's own and takes what it is told, as far as the process can know by itself: else
	// another may do what it does now. It wraps ErrFollowed where another has taken the state over. It does not wait.
	Held() error
	// Ping says whether the store answers.
	Ping(ctx context.Context) error
	Close() error
}

// Contents is all that a store holds.
type Contents struct {
	Secret  mail.Secret
	Records []*Record
	Devices []*Device
}

// Change is one write: whole values, each under its id.
type Change struct {
	Put         []*Record
	PutDevices  []*Device
	Drop        []string // ids of records; their devices are dropped or put elsewhere in the same change
	DropDevices []*Device
}

// ErrInUse is wrapped by the error of opening a state that another process holds.
var ErrInUse = errors.New("in use by another process")
