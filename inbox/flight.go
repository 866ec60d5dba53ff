package inbox

// What is being sent to the devices of a mailbox (rule 6): a push is in flight until the write that holds its answer has ended.

import (
	"context"
	"sync"
)

// flight is the pushes in flight, by device. A device without one costs nothing.
type flight struct {
	mu      sync.Mutex
	devices map[string]*line
}

// line is the pushes in flight to one device.
type line struct {
	ctx        context.Context // ends when the device is removed
	cancel     context.CancelFunc
	inFlight   int
	unanswered sync.WaitGroup
}

// call is one push in flight.
type call struct {
	*line
	flight *flight
	device string
}

// begin counts a push to a device. The caller says when it is answered, and when the answer is written.
func (f *flight) begin(ctx context.Context, device string) call {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.devices[device]
	if l == nil {
		l = &line{}
		l.ctx, l.cancel = context.WithCancel(ctx)
		if f.devices == nil {
			f.devices = map[string]*line{}
		}
		f.devices[device] = l
	}
	l.inFlight++
	l.unanswered.Add(1)
	return call{l, f, device}
}

// answered says that the sender is done with the push.
func (c call) answered() { c.unanswered.Done() }

// end says that the answer is written: the push is not in flight any more.
func (c call) end() {
	c.flight.mu.Lock()
	defer c.flight.mu.Unlock()
	c.inFlight--
	if c.inFlight == 0 {
		c.cancel()
		if c.flight.devices[c.device] == c.line {
			delete(c.flight.devices, c.device)
		}
	}
}

// has says whether a device has a push in flight.
func (f *flight) has(device string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.devices[device] != nil
}

// cut ends what the sender does for a device, and waits for it.
func (f *flight) cut(device string) {
	f.mu.Lock()
	l := f.devices[device]
	delete(f.devices, device)
	f.mu.Unlock()
	if l != nil {
		l.cancel()
		l.unanswered.Wait()
	}
}

// cutAll ends what the sender does for all devices, and waits for it.
func (f *flight) cutAll() {
	f.mu.Lock()
	lines := f.devices
	f.devices = nil
	f.mu.Unlock()
	for _, l := range lines {
		l.cancel()
	}
	for _, l := range lines {
		l.unanswered.Wait()
	}
}
