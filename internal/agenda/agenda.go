// Package agenda keeps what is due in the order of its times: of 15,000 mailboxes only those whose time has come are looked at.
package agenda

import (
	"container/heap"
	"iter"
	"slices"
	"time"
)

// Entry is the place of something in an agenda, of which it is a part. The zero Entry is in none.
type Entry struct {
	due   time.Time
	place int // from 1; 0: none
}

// Due is when it is due, or was when it was taken; zero: it was never put, or put out.
func (e *Entry) Due() time.Time { return e.due }

func (e *Entry) entry() *Entry { return e }

// Item is what may be due. It embeds an Entry.
type Item interface{ entry() *Entry }

// Agenda is what is due, the next first. The zero Agenda is empty. Its owner guards it, and the entries.
type Agenda[T Item] struct{ items items[T] }

// Put has an item due at a time; zero: never.
func (a *Agenda[T]) Put(item T, due time.Time) {
	e := item.entry()
	e.due = due
	switch {
	case due.IsZero() && e.place > 0:
		heap.Remove(&a.items, e.place-1)
	case due.IsZero():
	case e.place > 0:
		heap.Fix(&a.items, e.place-1)
	default:
		heap.Push(&a.items, item)
	}
}

// Take takes the next item that is due by now; false: none is.
func (a *Agenda[T]) Take(now time.Time) (item T, ok bool) {
	if len(a.items) == 0 || a.items[0].entry().due.After(now) {
		return item, false
	}
	item, ok = heap.Pop(&a.items).(T)
	return item, ok
}

// Next is when the next item is due; zero: none is.
func (a *Agenda[T]) Next() time.Time {
	if len(a.items) == 0 {
		return time.Time{}
	}
	return a.items[0].entry().due
}

// All are the items, in no order. The agenda may change meanwhile.
func (a *Agenda[T]) All() iter.Seq[T] { return slices.Values(slices.Clone(a.items)) }

// items is a heap, which knows where each of them is.
type items[T Item] []T

func (i items[T]) Len() int           { return len(i) }
func (i items[T]) Less(a, b int) bool { return i[a].entry().due.Before(i[b].entry().due) }

// Swap implements heap.Interface.
func (i items[T]) Swap(a, b int) {
	i[a], i[b] = i[b], i[a]
	i[a].entry().place, i[b].entry().place = a+1, b+1
}

// Push implements heap.Interface.
func (i *items[T]) Push(x any) {
	item, ok := x.(T)
	if !ok {
		return
	}
	*i = append(*i, item)
	item.entry().place = len(*i)
}

// Pop implements heap.Interface.
func (i *items[T]) Pop() any {
	last := len(*i) - 1
	item := (*i)[last]
	clear((*i)[last:])
	*i = (*i)[:last]
	item.entry().place = 0
	return item
}
