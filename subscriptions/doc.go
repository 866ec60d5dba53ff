// Package subscriptions keeps what must not be forgotten: the enrolments, and for each mailbox where it stands.
//
// The mailbox itself is the durable queue. What is kept of it is one record, the log of what its messages came to; a dropped
// stream, a missed event, a killed process and a moved mailbox are then one case: read on from there. The rules of the log, with
// the place where each is implemented and the tests that hold it:
//
//  1. The key of a message comes from its Internet message id and the time it was sent: mail.Secret.Key (TestAKeyIs…).
//  2. A hint that names items is read by their ids and moves nothing; what is dated before since and not known is late:
//     listener/worker.go, Record.Enter (TestEnterMovesNeither…, TestAnOutcomeIsOneWrite…).
//  3. Only a complete listing moves listed, in one write: listener/listing.go, Record.Complete (TestPages…, TestComplete…).
//  4. Received times are believed in listings only, where they would decide against a bell; listed passes no clock; a clock that
//     falls behind since restarts the mailbox: believed, Record.Complete, mailbox.restart (TestADateOf…, TestAServersClock…).
//  5. A mailbox starts at its first enrolment and a device at its own, on the server's clock less a minute; the record goes with
//     the last device: entry.enrolment, mailbox.start, Book.Remove (TestASecondDevice…, TestTheLastDevice…).
//  6. A device that could not be rung is behind, decided in the write; it catches up from a listing, outside the worker:
//     Record.Enter, Record.Settle, listener/catchup.go (TestEnterPutsBehind…, TestACatchUp…, TestAWorkerThatPassed…).
//  7. Hints are a set of marked mailboxes; one worker at a time on each: listener/mailbox.go (TestTwoHints…).
//  8. Mail older than max_age is summed up under one collapse id, mail older than a day rings nowhere: mailbox.class
//     (TestMailIsSummedUp…, TestASummaryWhose…).
//  9. A message that cannot be read while its mailbox can rings generically after three tries: mailbox.giveUp (TestAMessageThat…).
//  10. A repeat has the ids of the first push, and comes only of an answer that was lost: mailbox.send, package push
//     (TestWhatWasAnswered…, TestKilledBetween…).
//  11. Subscribe, then list; subscriptions outlive a restart: listener/group.go (TestSubscriptionsAreReopened…).
//  12. One thing flows back: a mailbox is marked, or a topic is ready: Listener.TopicReady (TestATopicThat…).
//
// since is kept in the record, and moved by complete listings only: see Record.Complete.
package subscriptions
