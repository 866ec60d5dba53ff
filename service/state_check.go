package service

// How a check tries the state, and what it knows from it.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/subscriptions"
)

// stateTimeout bounds opening the state for a check: the lock of the file is tried for 2 s, and a reachable Redis answers in milliseconds.
const stateTimeout = 10 * time.Second

// knownState is what a check knows of the state.
type knownState struct {
	book    *subscriptions.Book // empty if the state could not be read, or is a running mailbell's
	attempt *check.Attempt      // nil: a running mailbell holds it
	doubts  []string
}

// readState reads the state once, to check it and to look the device up. It is closed again, because the service may be about to start.
func readState(ctx context.Context, c config.State, running *check.Running) (k knownState, err error) {
	k.book, err = subscriptions.Open(ctx, nowhere{})
	if err != nil {
		return k, err
	}
	if running != nil && c.Redis == nil {
		return k, nil
	}
	began := time.Now()
	read, doubts, err := readBook(ctx, c)
	k.attempt, k.doubts = &check.Attempt{Took: time.Since(began), Err: err}, doubts
	if read != nil {
		k.book = read
	}
	return k, nil
}

// noEnrolments says why the enrolments are not known; nil: they are.
func (k knownState) noEnrolments(c *config.Config) error {
	switch {
	case k.attempt != nil && k.attempt.Err != nil:
		return k.attempt.Err
	case c.State.Redis != nil:
		return errors.New("only a running mailbell knows the enrolments in Redis, and none answers at " + c.Listen)
	}
	return nil
}

// readBook reads the state and changes nothing. If the file does not exist, it checks that it can be created, and returns no book. It
// does not read Redis, which belongs to the instance that holds it.
func readBook(ctx context.Context, c config.State) (book *subscriptions.Book, doubts []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	if c.Redis != nil {
		var login redisLogin
		login.use(c)
		store, doubts, err := subscriptions.OpenRedis(ctx, redisOptions(c.Redis, &login))
		if err != nil {
			return nil, nil, err
		}
		return nil, doubts, errors.Join(store.Ping(ctx), store.Close())
	}
	store, err := subscriptions.ReadEmbedded(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, writable(filepath.Dir(c.Path))
	}
	if err != nil {
		return nil, nil, err
	}
	book, err = subscriptions.Open(ctx, store)
	if err == nil {
		err = writable(filepath.Dir(c.Path))
	}
	err = errors.Join(err, store.Close())
	if err != nil {
		return nil, nil, err
	}
	for _, d := range book.Damaged() {
		doubts = append(doubts, fmt.Sprintf("a part of the state cannot be read: %s: %v", d.What, d.Err))
	}
	return book, doubts, nil
}

// nowhere is an empty state, for a book if the real one cannot be read.
type nowhere struct{}

var errNowhere = errors.New("the state cannot be written here")

func (nowhere) Load(context.Context) (subscriptions.Contents, error) {
	return subscriptions.Contents{}, nil
}
func (nowhere) Write(context.Context, subscriptions.Change) error { return errNowhere }
func (nowhere) Decisions(context.Context, string) ([][]byte, error) {
	return nil, nil
}
func (nowhere) Held() error                { return nil }
func (nowhere) Ping(context.Context) error { return nil }
func (nowhere) Close() error               { return nil }

// writable reports why no file can be written in a folder.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".mailbell-check-*")
	if err != nil {
		return fmt.Errorf("the state cannot be created: %w", err)
	}
	_, err = f.Write(make([]byte, probeSize))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// probeSize is how much is written to see whether the disk has room: what a mailbox and its devices need.
const probeSize = 64 << 10
