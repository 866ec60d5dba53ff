package listener

// Messages that came in notifications wait here until the inbox reads them: then nobody is asked for them.

import "github.com/mailbell/mailbell/mail"

// maxTold bounds the messages that wait, of all mailboxes: a kilobyte each. What is beyond is read.
const maxTold = 4096

// keepTold keeps a message until it is taken, or a listing is done.
func (k *link) keepTold(message *mail.Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended || k.m.l.told.Load() >= maxTold {
		return
	}
	if k.told == nil {
		k.told = map[string]*mail.Message{}
	}
	if k.told[message.ItemID] == nil {
		k.m.l.told.Add(1)
	}
	k.told[message.ItemID] = message
}

// takeTold takes those of the messages with these ids that are there.
func (k *link) takeTold(ids []string) map[string]*mail.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.told) == 0 {
		return nil
	}
	taken := map[string]*mail.Message{}
	for _, id := range ids {
		if message := k.told[id]; message != nil {
			taken[id] = message
			delete(k.told, id)
			k.m.l.told.Add(-1)
		}
	}
	return taken
}

// dropTold forgets them: a listing has dealt with all, or the link has ended.
func (k *link) dropTold(ended bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = k.ended || ended
	if len(k.told) > 0 {
		k.m.l.told.Add(-int64(len(k.told)))
		k.told = nil
	}
}
