package streaming

// What shows that a server serves one mailbox on a stream, and what does not.

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// readingOf is a stream of alice, bob and carol that was opened as alice. The subscriptions are their first letters, and that old.
func readingOf(now time.Time, age time.Duration, ids ...string) *reading {
	r := &reading{by: map[string]*Member{}}
	for _, id := range ids {
		r.by[id] = &Member{subscribed: now.Add(-age)}
	}
	r.as = r.by["a"]
	return r
}

func TestAServerThatRefusesAllFreshSubscriptionsButThatOfTheOpenerServesOneMailboxAStream(t *testing.T) {
	now := time.Now()
	missed := lostSubscription("b", "c")
	missed.Unsubscribed = false
	for name, c := range map[string]struct {
		age     time.Duration
		members []string
		reports []*fault.Error
		want    bool
	}{
		"all others":                {0, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b", "c")}, true},
		"one after the other":       {0, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b"), lostSubscription("c")}, true},
		"just fresh":                {fresh, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b", "c")}, true},
		"not fresh":                 {fresh + 1, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b", "c")}, false},
		"one of two":                {0, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b"), lostSubscription("b")}, false},
		"that of the opener too":    {0, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b", "a")}, false},
		"one of another time":       {0, []string{"a", "b", "c"}, []*fault.Error{lostSubscription("b", "c"), lostSubscription("x")}, false},
		"missed, and goes on":       {0, []string{"a", "b", "c"}, []*fault.Error{missed}, false},
		"nobody, and there is none": {0, []string{"a"}, []*fault.Error{lostSubscription()}, false},
	} {
		r := readingOf(now, c.age, c.members...)
		got := false
		for _, f := range c.reports {
			got = r.refusedOthers(f, now)
		}
		if got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOnlyAStreamOfSeveralThatHasBegunAndOfWhichNothingWasRefusedIsShared(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *reading)
		want   bool
	}{
		"several":        {func(*reading) {}, true},
		"one":            {func(r *reading) { delete(r.by, "b") }, false},
		"not begun":      {func(r *reading) { r.begun.Store(false) }, false},
		"one refused":    {func(r *reading) { r.refused = map[string]struct{}{"b": {}} }, false},
		"one is refused": {func(r *reading) { r.report(lostSubscription("b")) }, false},
	} {
		r := readingOf(time.Now(), 0, "a", "b")
		r.reported = make(chan struct{}, 1)
		r.begun.Store(true)
		c.change(r)
		if got := r.shared(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAStreamProvesThatMailboxesShareItByMailOfAnotherOrByAMinuteWithoutAWord(t *testing.T) {
	for name, c := range map[string]struct {
		members []string
		opposed bool
		others  bool
		age     time.Duration
		want    bool
	}{
		"mail of another":             {[]string{"a", "b"}, false, true, 0, true},
		"mail of another, others out": {[]string{"a", "b"}, true, true, 0, true},
		"a minute":                    {[]string{"a", "b"}, false, false, unopposed, true},
		"not yet a minute":            {[]string{"a", "b"}, false, false, unopposed - 1, false},
		"it has one mailbox":          {[]string{"a"}, false, false, unopposed, false},
		"one was refused":             {[]string{"a", "b"}, true, false, unopposed, false},
	} {
		now := time.Now()
		r := readingOf(now, 0, c.members...)
		r.group = &group{groups: New(Options{})}
		r.opened, r.reported = now.Add(-c.age), make(chan struct{}, 1)
		if c.opposed {
			r.report(lostSubscription("b"))
		}
		r.prove(c.others, now)
		if got := r.group.groups.o.Sharing.proven.Load(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
