package storetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Memory is a store that forgets everything with the process: for tests of what stands on a store. Its zero value is empty.
// It conforms to the suite; Reopen is its restart.
type Memory struct {
	mu      sync.Mutex
	secret  mail.Secret
	records map[string]*subscriptions.Record
	devices map[string]*subscriptions.Device
	decided map[string][][]byte // by record
	closed  bool
	fail    error
}

// Fail has every write fail with err; nil ends that.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Reopen opens a closed store.
func (m *Memory) Reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = false
}

// Load returns copies.
func (m *Memory) Load(context.Context) (all subscriptions.Contents, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records, m.devices = map[string]*subscriptions.Record{}, map[string]*subscriptions.Device{}
		m.decided = map[string][][]byte{}
		copy(m.secret[:], "the secret of an installation..")
	}
	all.Secret = m.secret
	for _, r := range m.records {
		all.Records = append(all.Records, r.Clone())
	}
	for _, d := range m.devices {
		c := *d
		all.Devices = append(all.Devices, &c)
	}
	return all, nil
}

// Write takes the change at once.
func (m *Memory) Write(ctx context.Context, c subscriptions.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return errClosed
	case m.fail != nil:
		return m.fail
	case ctx.Err() != nil:
		return ctx.Err()
	}
	for _, id := range c.Drop {
		delete(m.records, id)
		delete(m.decided, id)
	}
	for _, d := range c.DropDevices {
		delete(m.devices, d.ID)
	}
	for _, r := range c.Put {
		m.records[r.ID] = r.Clone()
		if c.Whole {
			maps.DeleteFunc(m.devices, func(_ string, d *subscriptions.Device) bool { return d.Record == r.ID })
		}
	}
	for _, d := range c.PutDevices {
		copied := *d
		m.devices[d.ID] = &copied
	}
	if id := c.Decided.Record; m.records[id] != nil {
		m.decided[id] = c.Decided.On(slices.Clone(m.decided[id]))
	}
	return nil
}

// Decisions returns what was decided.
func (m *Memory) Decisions(_ context.Context, record string) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	return slices.Clone(m.decided[record]), nil
}

var errClosed = errors.New("the store is closed")

// Held is always so.
func (m *Memory) Held() error { return nil }

// Ping says whether it is open.
func (m *Memory) Ping(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	return nil
}

// Close closes it.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
