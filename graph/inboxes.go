package graph

// Which folder of a mailbox is its Inbox: an immutable id stays when a message leaves the Inbox, so the message has to tell where it is.

import (
	"hash/maphash"
	"sync"
)

// maxInboxes bounds the mailboxes whose Inbox is known: more than one instance listens to. Beyond it they are forgotten, and learnt anew.
const maxInboxes = 20_000

// inboxes are the Inboxes of mailboxes, as digests of the ids of their folders.
type inboxes struct {
	seed  maphash.Seed
	mu    sync.Mutex
	known map[string]uint64
}

// learn takes in which folder the Inbox of a mailbox is.
func (i *inboxes) learn(mailbox, folder string) {
	if folder == "" {
		return
	}
	digest := maphash.String(i.seed, folder)
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, had := i.known[mailbox]; !had && len(i.known) >= maxInboxes {
		clear(i.known)
	}
	i.known[mailbox] = digest
}

// other says whether a folder is another one than the Inbox of a mailbox, as far as that is known.
func (i *inboxes) other(mailbox, folder string) bool {
	if folder == "" {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	known, ok := i.known[mailbox]
	return ok && known != maphash.String(i.seed, folder)
}
