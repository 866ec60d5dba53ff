package inbox

// What pushes the alerts. Each push keeps a goroutine waiting for its answer, so there are so many and no more.

import "sync"

// maxPushes bounds the pushes to the phones of one topic under way at once: as many as a connection to APNs carries (900 streams), and
// some that are on their way to it or from it. With a goroutine each they are 8 MiB.
const maxPushes = 1024

// pushers push the alerts for the phones of one topic, so that a topic that APNs keeps waiting harms no other.
type pushers struct {
	in *Inbox

	mu      sync.Mutex
	live    []func() // new mail goes first
	owed    []func() // of devices that catch up
	running int      // goroutines
}

// pushersOf the phones of a topic.
func (in *Inbox) pushersOf(a app) *pushers {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := in.pushers[a]
	if p == nil {
		p = &pushers{in: in}
		in.pushers[a] = p
	}
	return p
}

// push has a push made, now or when its turn comes. live: it goes before those that are owed.
func (p *pushers) push(live bool, push func()) {
	p.mu.Lock()
	if live {
		p.live = append(p.live, push)
	} else {
		p.owed = append(p.owed, push)
	}
	more := p.running < maxPushes
	if more {
		p.running++
	}
	p.mu.Unlock()
	if more && !p.in.run(p.run) {
		p.run() // mailbell is stopping: each push that waits is called here, and does not begin
	}
}

// run makes pushes until there are none.
func (p *pushers) run() {
	for push := p.next(); push != nil; push = p.next() {
		push()
	}
}

// next is the push whose turn it is; nil: there is none, and the goroutine has ended.
func (p *pushers) next() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue := &p.live
	if len(p.live) == 0 {
		queue = &p.owed
	}
	if len(*queue) == 0 {
		p.running--
		return nil
	}
	push := (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	return push
}
