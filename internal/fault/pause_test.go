package fault

import (
	"testing"
	"time"
)

// span is the least and the most of many pauses.
func span(e *Error, failures int) (least, most time.Duration) {
	least = 1 << 62
	for range 500 {
		d := e.Pause(failures)
		least, most = min(least, d), max(most, d)
	}
	return least, most
}

func TestAPauseFollowsTheRemedyAndTheWordOfTheServer(t *testing.T) {
	const minute = time.Minute
	for name, c := range map[string]struct {
		e        Error
		failures int
		want     time.Duration // without the jitter
	}{
		"the first try of what passes in seconds": {Error{Scope: Mailbox, Remedy: Retry}, 1, 250 * time.Millisecond},
		"the fourth":                                {Error{Scope: Mailbox, Remedy: Retry}, 4, 2 * time.Second},
		"and the bound":                             {Error{Scope: Mailbox, Remedy: Retry}, 100, 30 * time.Second},
		"what passes in minutes":                    {Error{Scope: Mailbox, Remedy: Wait}, 1, 5 * time.Second},
		"its bound is within five minutes":          {Error{Scope: Mailbox, Remedy: Wait}, 100, 4 * minute},
		"the server asks for more":                  {Error{Scope: Mailbox, Remedy: Wait, After: 10 * minute}, 1, 10 * minute},
		"the server asks for less":                  {Error{Scope: Mailbox, Remedy: Wait, After: time.Second}, 3, 20 * time.Second},
		"what takes a person":                       {Error{Scope: Mailbox, Remedy: Fix}, 1, time.Hour},
		"what takes a person, with a word":          {Error{Scope: Mailbox, Remedy: Fix, After: 5 * minute}, 9, 5 * minute},
		"what one has met":                          {Error{Scope: Mailbox, Remedy: Fix, After: time.Hour, Unproven: true}, 1, 15 * time.Second},
		"what one has met five times":               {Error{Scope: Mailbox, Remedy: Fix, After: time.Hour, Unproven: true}, 5, 4 * minute},
		"what one has met again and again":          {Error{Scope: Mailbox, Remedy: Fix, After: time.Hour, Unproven: true}, 6, time.Hour},
		"what never comes right":                    {Error{Scope: Message, Remedy: GiveUp}, 1, time.Hour},
		"an account":                                {Error{Scope: Account, Remedy: Fix}, 7, 30 * time.Second},
		"an account that says when it may be tried": {Error{Scope: Account, Remedy: Fix, After: 31 * minute}, 1, 31 * minute},
	} {
		least, most := span(&c.e, c.failures)
		if least < c.want || most > c.want+min(c.want/4, minute)+1 {
			t.Errorf("%s: %v to %v, want %v and a jitter", name, least, most, c.want)
		}
		if least == most {
			t.Errorf("%s: what failed together comes back together", name)
		}
	}
}
