package subscriptions

import (
	"context"
	"errors"

	"github.com/mailbell/mailbell/mail"
)

// Store makes the state durable: the embedded file, or Redis. Everything but the decisions is read once, at the start, and lives in memory
// from then on; each change is written through. The conformance suite (storetest) says what a store has to hold.
type Store interface {
	// Load returns all that was written. A value that cannot be read is set aside, and the others are returned. The installation's
	// secret is made by the first Load.
	Load(ctx context.Context) (Contents, error)
	// Write makes a change durable, as a whole or not at all, before it returns nil; what was decided may follow within seconds. After an
	// error, or a ctx that ended, nobody knows: the caller writes the same values again, which does no harm. It returns when ctx ends,
	// however long the store hangs, and does not look at what c holds from then on.
	// Changes of one record are never written at the same time, but for one whose caller has gone: that is written first.
	Write(ctx context.Context, c Change) error
	// Decisions returns the last decisions about the mailbox of a record, the oldest first, at most MaxDecisions.
	Decisions(ctx context.Context, record string) ([][]byte, error)
	// Held says whether the state is this process's own and takes what it is told, as far as the process can know by itself: else
	// another may do what it does now. It wraps ErrFollowed where another has taken the state over. It does not wait.
	Held() error
	// Ping says whether the store takes writes, by writing something. It may be asked often: it writes once a second at most.
	Ping(ctx context.Context) error
	Close() error
}

// Contents is all that a store holds.
type Contents struct {
	Secret  mail.Secret
	Records []*Record
	Devices []*Device
	Damaged []Damaged // what could not be read, and is in none of the lists
	New     bool      // the state was made just now, and is empty

	MigratedFrom int // the version that the state was migrated from just now; 0: it was not
}

// Change is one write: whole values, each under its id.
type Change struct {
	Put         []*Record
	PutDevices  []*Device // their records are put in the same change, or were put before
	Drop        []string  // ids of records; their devices are dropped or put elsewhere in the same change
	DropDevices []*Device
	Whole       bool    // the devices put are all that the records put have: any other goes
	Decided     Decided // of one record
}

// ErrInUse is wrapped by the error of opening a state that another process holds.
var ErrInUse = errors.New("in use by another process")
