package mail

import "time"

// Tolerance is how far the clock that an answer tells (a front end's Date, or a proxy's) may differ from the one that stamps received
// times, another way with each answer: the most that Kerberos lets clocks of one organisation differ.
const Tolerance = 5 * time.Minute
