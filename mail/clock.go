package mail

import "time"

// Tolerance is by how much the clock of an answer (the Date of a front end or a proxy) may differ from the clock that sets received times,
// differently with each answer: Kerberos allows clocks of one organisation to differ by that much.
const Tolerance = 5 * time.Minute

// Window is the age above which mail leads to no alert, and how far before listed a listing reads again: mail that was held up in transport
// arrives late, with an old received time (rules 3 and 8 of the log).
const Window = 24 * time.Hour
