package inbox

// The goroutines of an inbox. They are used again: in a burst each message takes a worker and a push, and a stack that has grown need not
// grow for the next one.

import "sync"

// keptTasks is how many goroutines are kept that have no task: as many as some thousand messages a second keep busy. They are 2 MiB.
const keptTasks = 256

// crew runs tasks, each in a goroutine of its own while it lasts.
type crew struct {
	tasks sync.WaitGroup // under way
	next  chan func()    // to a goroutine that waits
	free  chan struct{}  // takes one of each goroutine that waits
	over  chan struct{}  // closed: none waits any more
	once  sync.Once      // closes it
	all   sync.WaitGroup // its goroutines
}

func newCrew() *crew {
	return &crew{next: make(chan func()), free: make(chan struct{}, keptTasks), over: make(chan struct{})}
}

// run begins a task and does not wait for it. It is called from a task, or before end.
func (c *crew) run(task func()) {
	c.tasks.Add(1)
	select {
	case c.next <- task:
	default:
		c.all.Go(func() { c.work(task) })
	}
}

// work runs a task, and then others, until so many wait that this one is not needed.
func (c *crew) work(task func()) {
	for task != nil {
		task()
		c.tasks.Done()
		task = c.wait()
	}
}

// wait waits for a task; nil: there is no place to wait, or there are no more tasks.
func (c *crew) wait() func() {
	select {
	case c.free <- struct{}{}:
		defer func() { <-c.free }()
	default:
		return nil
	}
	select {
	case task := <-c.next:
		return task
	case <-c.over:
		return nil
	}
}

// end waits for the tasks under way, and ends the goroutines that wait for more.
func (c *crew) end() {
	c.tasks.Wait()
	c.once.Do(func() { close(c.over) })
	c.all.Wait()
}
