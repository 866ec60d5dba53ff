// Package subscriptions keeps what must not be forgotten: the enrolments, and for each mailbox where it stands.
//
// The mailbox itself is the durable queue. What is kept of it is one record, the log of what its messages came to; a dropped
// stream, a missed event, a killed process and a moved mailbox are then one case: read on from there. The rules of the log stand in
// the package comment of inbox, which works it off; Record has those that are about the record alone.
//
// A Book has the records and devices of all mailboxes in memory, so that reading waits for nobody. A change is made on a copy, written by the
// Store, and shown when it is durable: Mailbox.Update. A mailbox has one change under way at a time. A Store is a file or a Redis; both write
// together what waits together. Only the decisions about messages are not in memory: the next write takes them along, and the store is read
// when somebody asks for them.
//
//	book.go, enrolment.go, identity.go  the book: changes, enrolments, and when two addresses are one mailbox
//	record.go, outcomes.go              the record, and its log
//	decisions.go                        what was decided about messages
//	store.go, repair.go                 what a store has to do, and what is mended of what it has
//	value.go, decision_value.go         how values are written
//	commit.go, probe.go, turn.go        writing together, whether a store takes writes, and locks that are held over a write
//	embedded*.go, backup.go             the file
//	redis*.go                           the Redis; redis_loss.go: one that has less than it was told
//	redis_lease.go, lease.go            who holds a Redis, and for how long that may be believed
//	device.go, notification.go, status.go  the words that other rooms share
package subscriptions
