package credential

import "time"

// How often a password is tried that is refused. Directories lock an account, and then nobody can use it: Active Directory usually after 5 to
// 10 failures within 10 to 30 minutes, of which other programs may have caused some.
const (
	// MaxRefusals is after how many refusals in a row mailbell pauses.
	MaxRefusals = 3
	// FirstPause is the first pause: long enough after a directory that failed for a moment and refused a right password.
	FirstPause = 5 * time.Minute
	// LaterPause is every later pause for a password that has never worked. Active Directory forgets failures after its observation window,
	// usually 30 minutes at most, without a new one. Tries at shorter intervals would add up to any threshold. With this pause it never counts
	// more than MaxRefusals and one.
	LaterPause = 31 * time.Minute
)
