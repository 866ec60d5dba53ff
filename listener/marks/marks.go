// Package marks bounds how often what is posted from outside may mark one mailbox: more often than people get mail, and less often than
// what would keep its server busy.
package marks

import "time"

const (
	// ASecond is how many marks there may be in the long run.
	ASecond = 2
	// Most is how many marks may come at once: as many items as a mailbox remembers from hints.
	Most = 64
	// Overflow is how long a mailbox waits at least for the listing that stands for the marks beyond that.
	Overflow = 5 * time.Second
)

// Allowance is what may mark one mailbox now. The zero Allowance is full. Its owner guards it.
type Allowance struct {
	left    float64
	counted time.Time
}

// Take takes marks, and says how many it got.
func (a *Allowance) Take(marks int, now time.Time) int {
	if a.counted.IsZero() {
		a.left = Most
	} else if passed := now.Sub(a.counted); passed > 0 {
		a.left = min(a.left+passed.Seconds()*ASecond, Most)
	}
	a.counted = now
	got := min(marks, int(a.left))
	a.left -= float64(got)
	return got
}
