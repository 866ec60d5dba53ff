package faults

// The registry: which faults are set, and which functions are called when that changes.

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Registry holds the faults that are set. Call AtOnce and OnChange before the first Set; the other methods are safe for concurrent use.
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

// AtOnce registers the act of a fault: Set calls do, and if do returns true, the fault has happened and is not set.
func (r *Registry) AtOnce(name string, do func(*Cases) bool) { r.atOnce[name] = do }

// OnChange registers a function that is called after a fault of that name was set or cleared.
func (r *Registry) OnChange(name string, do func(f Fault, set bool)) { r.onChange[name] = do }

func (r *Registry) kind(name string) (Kind, error) {
	i := slices.IndexFunc(r.kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, &Error{Name: name, Text: "there is no such fault"}
	}
	return r.kinds[i], nil
}

// Set sets a fault instead of an earlier one of that name, or performs the act of one that happens at once. A mistake is an *Error.
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

// changed calls the registered functions; r.mu is not held.
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

// Clear ends a fault. It is no mistake if the fault is not set; an unknown name is an *Error.
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

// List returns every fault, each with a sentence, and how it is set.
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

// Get returns a fault that is set, whatever it applies to.
func (r *Registry) Get(name string) (Fault, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.active[name]
	if !ok {
		return Fault{}, false
	}
	return a.Fault, true
}

// On returns a fault that applies to the mailbox or token, without counting a case.
func (r *Registry) On(name, mailbox, token string) (Fault, bool) {
	return r.onAt("", name, mailbox, token)
}

// Hit returns a fault that applies to this case, and counts the case.
func (r *Registry) Hit(name, mailbox, token string) (Fault, bool) {
	return r.hitAt("", name, mailbox, token)
}

// Host is the registry for one host of Exchange.
type Host struct {
	*Registry
	Name string
}

// On is Registry.On without the faults for another host.
func (h Host) On(name, mailbox, token string) (Fault, bool) {
	return h.onAt(h.Name, name, mailbox, token)
}

// Hit is Registry.Hit without the faults for another host.
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
