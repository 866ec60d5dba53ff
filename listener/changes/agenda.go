package changes

import (
	"container/heap"
	"time"
)

// agenda are the members for which something is due, the next one first: of 15,000 only those that are due are looked at.
type agenda []*Member

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due.Before(a[j].due) }

// Swap implements heap.Interface.
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (a *agenda) Push(x any) {
	m, ok := x.(*Member)
	if !ok {
		return
	}
	*a = append(*a, m)
	m.place = len(*a)
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	m := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	m.place = 0
	return m
}

// put has a member due at a time; zero: never.
func (a *agenda) put(m *Member, due time.Time) {
	m.due = due
	switch {
	case due.IsZero() && m.place > 0:
		heap.Remove(a, m.place-1)
	case due.IsZero():
	case m.place > 0:
		heap.Fix(a, m.place-1)
	default:
		heap.Push(a, m)
	}
}

// take takes the next member that is due by now; nil: none is.
func (a *agenda) take(now time.Time) *Member {
	if len(*a) == 0 || (*a)[0].due.After(now) {
		return nil
	}
	m, _ := heap.Pop(a).(*Member)
	return m
}

// next is when the next member is due; zero: none is.
func (a agenda) next() time.Time {
	if len(a) == 0 {
		return time.Time{}
	}
	return a[0].due
}
