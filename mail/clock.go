package mail

import "time"

// Tolerance is by how much the clock of an answer (the Date of a front end or a proxy) may differ from the clock that sets received times,
// differently with each answer: Kerberos allows clocks of one organisation to differ by that much.
const Tolerance = 5 * time.Minute
