package faults

// The registry: what is set at the moment, and who is told when that changes.

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Registry holds the faults that are set. AtOnce and OnChange come before the first Set; the rest is safe for concurrent use.
type Registry struct {
	kinds    []Kind
	atOnce   map[string]func(*Cases) bool
	onChange map[string]func(Fault, bool)
	set      atomic.Int32 // how many are set: 0 costs nothing on the hot paths

	mu     sync.Mutex
	active map[string]*active
}

// active is a fault that is set.
type active struct {
	Cases
	until time.Time
	timer *time.Timer
}

// New makes a registry of these kinds.
func New(kinds ...Kind) *Registry {
	return &Registry{
		kinds: kinds, atOnce: map[string]func(*Cases) bool{}, onChange: map[string]func(Fault, bool){}, active: map[string]*active{},
	}
}

// AtOnce has do called when a fault of that name is to be set. If it returns true, it has done what the fault does, and nothing
// is set.
func (r *Registry) AtOnce(name string, do func(*Cases) bool) { r.atOnce[name] = do }

// OnChange has do called after a fault of that name was set or cleared, in whatever way.
func (r *Registry) OnChange(name string, do func(f Fault, set bool)) { r.onChange[name] = do }

func (r *Registry) kind(name string) (Kind, error) {
	i := slices.IndexFunc(r.kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, &Error{Name: name, Text: "there is no such fault"}
	}
	return r.kinds[i], nil
}

// Set sets a fault, in place of an earlier one of that name, or does it at once where the table says so. A mistake is an *Error.
func (r *Registry) Set(name string, f Fault) error {
	k, err := r.kind(name)
	if err != nil {
		return err
	}
	if err := k.check(f); err != nil {
		return err
	}
	f.Mailbox = strings.ToLower(strings.TrimSpace(f.Mailbox))
	if do := r.atOnce[name]; do != nil {
		once := newCases(f)
		if do(&once) {
			return nil
		}
	}
	r.put(k, f)
	return nil
}

func (r *Registry) put(k Kind, f Fault) {
	a := &active{Cases: newCases(f)}
	r.mu.Lock()
	r.drop(k.Name)
	if f.Seconds > 0 && !k.Valued {
		a.until = time.Now().Add(f.Duration())
		a.timer = time.AfterFunc(f.Duration(), func() { r.clearIf(k.Name, a) })
	}
	r.active[k.Name] = a
	r.set.Store(int32(len(r.active)))
	r.mu.Unlock()
	r.changed(k.Name, f, true)
}

// changed tells whoever waits for it; r.mu is not held.
func (r *Registry) changed(name string, f Fault, set bool) {
	if do := r.onChange[name]; do != nil {
		do(f, set)
	}
}

// drop removes a fault; r.mu is held.
func (r *Registry) drop(name string) bool {
	a, ok := r.active[name]
	if !ok {
		return false
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	delete(r.active, name)
	r.set.Store(int32(len(r.active)))
	return true
}

func (r *Registry) clearIf(name string, a *active) {
	r.mu.Lock()
	same := r.active[name] == a
	if same {
		r.drop(name)
	}
	r.mu.Unlock()
	if same {
		r.changed(name, Fault{}, false)
	}
}

// Clear ends a fault. One that is not set is no mistake, an unknown name is an *Error.
func (r *Registry) Clear(name string) error {
	if _, err := r.kind(name); err != nil {
		return err
	}
	r.mu.Lock()
	was := r.drop(name)
	r.mu.Unlock()
	if was {
		r.changed(name, Fault{}, false)
	}
	return nil
}

// Close stops the timers.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.active {
		r.drop(name)
	}
}

// List tells every fault, with a sentence each, and how it is set.
func (r *Registry) List() []Info {
	all := make([]Info, 0, len(r.kinds))
	for _, k := range r.kinds {
		info := Info{Name: k.Name, Text: k.Text, Fields: strings.Fields(k.Fields)}
		if f, ok := r.Get(k.Name); ok {
			info.Set = &f
		}
		all = append(all, info)
	}
	return all
}

// None reports that no fault is set.
func (r *Registry) None() bool { return r.set.Load() == 0 }

// Get returns a fault that is set, whomever it meets.
func (r *Registry) Get(name string) (Fault, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.active[name]
	if !ok {
		return Fault{}, false
	}
	return a.Fault, true
}

// On reports a fault that holds for the mailbox or token, without using up one of its cases.
func (r *Registry) On(name, mailbox, token string) (Fault, bool) {
	return r.onAt("", name, mailbox, token)
}

// Hit reports whether a fault meets this case, and counts it.
func (r *Registry) Hit(name, mailbox, token string) (Fault, bool) {
	return r.hitAt("", name, mailbox, token)
}

// Host is the faults as a host of Exchange meets them.
type Host struct {
	*Registry
	Name string
}

// On is that of the registry, but for faults that are meant for another host.
func (h Host) On(name, mailbox, token string) (Fault, bool) {
	return h.onAt(h.Name, name, mailbox, token)
}

// Hit is that of the registry, but for faults that are meant for another host.
func (h Host) Hit(name, mailbox, token string) (Fault, bool) {
	return h.hitAt(h.Name, name, mailbox, token)
}

func (r *Registry) onAt(host, name, mailbox, token string) (Fault, bool) {
	if r.None() {
		return Fault{}, false
	}
	f, ok := r.Get(name)
	if !ok || !f.Concerns(host, mailbox, token) {
		return Fault{}, false
	}
	return f, true
}

func (r *Registry) hitAt(host, name, mailbox, token string) (Fault, bool) {
	if r.None() {
		return Fault{}, false
	}
	r.mu.Lock()
	a, ok := r.active[name]
	if !ok || !a.Concerns(host, mailbox, token) || !a.Met() {
		r.mu.Unlock()
		return Fault{}, false
	}
	f := a.Fault
	if !a.until.IsZero() {
		f.Seconds = max(0, time.Until(a.until).Seconds())
	}
	used := a.Count > 0 && a.left == 0
	if used {
		r.drop(name)
	}
	r.mu.Unlock()
	if used {
		r.changed(name, Fault{}, false)
	}
	return f, true
}
