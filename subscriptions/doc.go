// Package subscriptions keeps what must not be forgotten: the enrolments, and for each mailbox where it stands.
//
// The mailbox itself is the durable queue. What is kept of it is one record, the log of what its messages came to; a dropped
// stream, a missed event, a killed process and a moved mailbox are then one case: read on from there. The rules of the log stand in
// the package comment of inbox, which works it off; Record has those that are about the record alone.
//
// since is kept in the record, and moved by complete listings only: see Record.Complete.
package subscriptions
