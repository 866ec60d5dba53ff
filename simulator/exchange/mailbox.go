package exchange

// The mailbox store: mailboxes, folders, items, and what a delivery, a move or a deletion does to them.

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// folderKind is a folder that every mailbox has.
type folderKind uint8

// The folders. Unlike a real server, this one has mail folders only, and no others can be created.
const (
	rootFolder folderKind = iota
	topFolder
	inbox
	drafts
	sentItems
	deletedItems
	junk
	outbox
	archive
	folderKinds
)

// folderRow tells how a folder is shown.
type folderRow struct {
	distinguished string // its DistinguishedFolderId
	name, class   string
	parent        folderKind
	children      int
}

var folderTable = [folderKinds]folderRow{
	rootFolder:   {"root", "root", "", rootFolder, 1},
	topFolder:    {"msgfolderroot", "Top of Information Store", "IPF", rootFolder, 7},
	inbox:        {"inbox", "Inbox", "IPF.Note", topFolder, 0},
	drafts:       {"drafts", "Drafts", "IPF.Note", topFolder, 0},
	sentItems:    {"sentitems", "Sent Items", "IPF.Note", topFolder, 0},
	deletedItems: {"deleteditems", "Deleted Items", "IPF.Note", topFolder, 0},
	junk:         {"junkemail", "Junk Email", "IPF.Note", topFolder, 0},
	outbox:       {"outbox", "Outbox", "IPF.Note", topFolder, 0},
	archive:      {"archive", "Archive", "IPF.Note", topFolder, 0},
}

func distinguishedFolder(name string) (folderKind, bool) {
	i := slices.IndexFunc(folderTable[:], func(r folderRow) bool { return r.distinguished == name })
	return folderKind(max(i, 0)), i >= 0
}

// mailbox is a mailbox on its host. address and server change under Host.mu.
type mailbox struct {
	address string
	server  string
	guid    guid.GUID
	object  guid.GUID // of its user in Entra ID; stays when the mailbox moves to another host
	changes uint64    // counts up with every change; numbers items and change keys
	items   map[uint64]*item
	moved   map[uint64]uint64 // by origin, the number of an item that was moved to another folder
	folders [folderKinds]folder
	subs    []*subscription
	removed bool
}

type folder struct {
	items   []*item // by received time, the oldest first
	unread  int
	deleted int // ever
	changed time.Time
}

// item is a message in a folder. It does not change: a move or a read mark makes another.
type item struct {
	number   uint64
	origin   uint64 // the number that it had at first in this mailbox; moves to another folder leave it
	change   uint64
	folder   folderKind
	received time.Time
	created  time.Time
	read     bool
	msg      *message
}

func (b *mailbox) itemID(it *item) string { return itemID(b.guid, it.folder, it.number) }

// normal is the form in which addresses are compared.
func normal(address string) string { return strings.ToLower(strings.TrimSpace(address)) }

func checkAddress(address string) error {
	local, domain, ok := strings.Cut(address, "@")
	if !ok || local == "" || domain == "" || strings.ContainsAny(address, " <>\"\t\r\n/") || len(address) > 254 {
		return fmt.Errorf("%q is not a mail address", address)
	}
	return nil
}

func (x *Host) addMailbox(address string) error {
	address = normal(address)
	if err := checkAddress(address); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.find(address) != nil {
		return fmt.Errorf("%s %w", address, ErrMailboxExists)
	}
	x.boxes[address] = &mailbox{address: address, server: x.nextServer(), guid: guid.New(), object: guid.New(), items: map[uint64]*item{}}
	return nil
}

// find returns the mailbox of an address or alias; x.mu is held.
func (x *Host) find(address string) *mailbox {
	if b, ok := x.boxes[address]; ok {
		return b
	}
	return x.boxes[x.aliases[address]]
}

func (x *Host) removeMailbox(address string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	b, ok := x.boxes[normal(address)]
	if !ok {
		return ErrNoMailbox
	}
	for _, s := range slices.Clone(b.subs) {
		x.forget(s)
	}
	b.removed = true
	delete(x.boxes, b.address)
	x.tellLeft(b, false)
	for alias, address := range x.aliases {
		if address == b.address {
			delete(x.aliases, alias)
		}
	}
	return nil
}

// deliver puts a message into the Inbox and notifies the subscriptions.
func (x *Host) deliver(to string, received time.Time, raw []byte) (string, error) {
	if len(raw) > MaxMessage {
		return "", fmt.Errorf("the message is larger than %d bytes", MaxMessage)
	}
	now := x.clock.Now()
	if received.IsZero() {
		received = now
	}
	m := parseMessage(raw)
	to = normal(to)

	x.mu.Lock()
	b := x.find(to)
	if b == nil {
		x.mu.Unlock()
		return "", ErrNoMailbox
	}
	b.changes++
	it := &item{number: b.changes, origin: b.changes, change: b.changes, folder: inbox, received: received.UTC(), created: now, msg: m}
	b.insert(it, now)
	x.tellArrived(b, it)
	id := b.itemID(it)
	if len(b.subs) == 0 {
		x.mu.Unlock()
		return id, nil
	}
	times := 1
	if _, ok := x.faults.Hit(eventsDropped, b.address, ""); ok {
		times = 0
	} else if _, ok := x.faults.Hit(eventsDoubled, b.address, ""); ok {
		times = 2
	}
	events := []event{
		{kind: createdEvent, at: now, folder: inbox, item: it.number, change: it.change},
		{kind: newMailEvent, at: now, folder: inbox, item: it.number, change: it.change},
		b.folderChanged(inbox, now),
	}
	if times > 0 && !b.holds() {
		if _, ok := x.faults.On(eventsReordered, b.address, ""); ok {
			x.holdBack(b, events...)
			times = 0
		}
	}
	for range times {
		x.publish(b, events...)
	}
	x.mu.Unlock()
	return id, nil
}

// insert puts an item into the folder by its received time.
func (b *mailbox) insert(it *item, now time.Time) {
	f := &b.folders[it.folder]
	i := len(f.items)
	if i > 0 && it.received.Before(f.items[i-1].received) {
		i, _ = slices.BinarySearchFunc(f.items, it, func(a, b *item) int {
			return cmp.Or(a.received.Compare(b.received), -1) // behind those of the same time
		})
	}
	f.items = slices.Insert(f.items, i, it)
	f.changed = now
	if !it.read {
		f.unread++
	}
	b.items[it.number] = it
}

// take removes an item from its folder.
func (b *mailbox) take(it *item, now time.Time) {
	f := &b.folders[it.folder]
	if i := slices.Index(f.items, it); i >= 0 {
		f.items = slices.Delete(f.items, i, i+1)
	}
	f.changed = now
	f.deleted++
	if !it.read {
		f.unread--
	}
	delete(b.items, it.number)
}

func (b *mailbox) folderChanged(f folderKind, now time.Time) event {
	b.changes++
	return event{kind: modifiedEvent, at: now, folder: f, unread: b.folders[f].unread, change: b.changes, ofFolder: true}
}

// locate returns the item of an id; x.mu is held.
func (x *Host) locate(to, id string) (*mailbox, *item, error) {
	b := x.find(normal(to))
	if b == nil {
		return nil, nil, ErrNoMailbox
	}
	box, number, ok := parseItemID(id)
	if !ok || box != b.guid || b.items[number] == nil {
		return nil, nil, ErrNoItem
	}
	return b, b.items[number], nil
}

func (x *Host) deleteItem(to, id string) error {
	now := x.clock.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	b, it, err := x.locate(to, id)
	if err != nil {
		return err
	}
	b.take(it, now)
	b.changes++
	x.publish(b,
		event{kind: deletedEvent, at: now, folder: it.folder, item: it.number, change: b.changes},
		b.folderChanged(it.folder, now))
	return nil
}

func (x *Host) moveItem(to, id string, dest folderKind) (string, error) {
	now := x.clock.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	b, it, err := x.locate(to, id)
	if err != nil {
		return "", err
	}
	if it.folder == dest {
		return "", errors.New("the item is in that folder already")
	}
	b.take(it, now)
	b.changes++
	next := *it
	next.number, next.change, next.folder = b.changes, b.changes, dest
	b.insert(&next, now)
	b.noteMove(&next)
	x.tellArrived(b, &next)
	x.publish(b,
		event{kind: movedEvent, at: now, folder: dest, item: next.number, change: next.change, oldItem: it.number, oldFolder: it.folder},
		b.folderChanged(it.folder, now),
		b.folderChanged(dest, now))
	return b.itemID(&next), nil
}

func (x *Host) markRead(to, id string, read bool) error {
	now := x.clock.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	b, it, err := x.locate(to, id)
	if err != nil || it.read == read {
		return err
	}
	b.changes++
	next := *it
	next.read, next.change = read, b.changes
	f := &b.folders[it.folder]
	f.items[slices.Index(f.items, it)] = &next
	b.items[it.number] = &next
	f.changed = now
	if read {
		f.unread--
	} else {
		f.unread++
	}
	x.publish(b,
		event{kind: modifiedEvent, at: now, folder: it.folder, item: it.number, change: next.change},
		b.folderChanged(it.folder, now))
	return nil
}
