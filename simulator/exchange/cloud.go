package exchange

// What Microsoft Graph reaches: the mailboxes at Online, in the same store as EWS. Graph's words and wire form are in package graph.

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/mail"
	"slices"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// ErrElsewhere is returned for a mailbox that exists, but not at Online.
var ErrElsewhere = errors.New("the mailbox is not at Exchange Online")

// Box names a mailbox of the organisation.
type Box struct {
	GUID    string // of the mailbox; another one after a move to another host
	Object  string // the object id of its user in Entra ID
	Address string // the primary one
}

// Watcher is told what happens to the mailboxes at Online. It is called while the mailbox is locked: it returns at once, and calls
// nothing of the organisation.
type Watcher interface {
	// Arrived tells of a message that is new in a folder, by delivery or by a move.
	Arrived(b Box, m Message)
	// Left tells of a mailbox that moved to another host or was removed; silent: without a word to those who follow it.
	Left(b Box, silent bool)
}

// Watch sets the watcher of Online. It is called before the hosts are used.
func (o *Organisation) Watch(w Watcher) {
	if x := o.host(Online); x != nil {
		x.watcher = w
	}
}

func (x *Host) tellArrived(b *mailbox, it *item) {
	if x.watcher != nil {
		x.watcher.Arrived(b.name(), b.message(it))
	}
}

func (x *Host) tellLeft(b *mailbox, silent bool) {
	if x.watcher != nil {
		x.watcher.Left(b.name(), silent)
	}
}

func (b *mailbox) name() Box { return Box{b.guid.String(), b.object.String(), b.address} }

// noteMove lets an item be found by its origin after a move to another folder.
func (b *mailbox) noteMove(it *item) {
	if b.moved == nil {
		b.moved = map[uint64]uint64{}
	}
	b.moved[it.origin] = it.number
}

// Message is a message in a mailbox at Online. It does not change.
type Message struct {
	box guid.GUID
	it  *item
}

func (b *mailbox) message(it *item) Message { return Message{b.guid, it} }

// ID is the item id of EWS.
func (m Message) ID() string { return itemID(m.box, m.it.folder, m.it.number) }

// ImmutableID stays while the message is in the mailbox, whatever its folder.
func (m Message) ImmutableID() string { return immutableID(m.box, m.it.origin) }

// Number orders the messages of a mailbox that have the same received time.
func (m Message) Number() uint64 { return m.it.number }

// Received is when the message arrived in the mailbox.
func (m Message) Received() time.Time { return m.it.received }

// InInbox reports whether the message is in the Inbox.
func (m Message) InInbox() bool { return m.it.folder == inbox }

// Properties are those of a message that do not depend on the protocol.
type Properties struct {
	ChangeKey     string
	Folder        string // its id
	Conversation  string
	Created, Sent time.Time
	Read          bool
	Class         string // of the item, as IPM.Note
	Subject       string
	InternetID    string
	Preview       string
	Importance    string
	Sensitivity   string
	From, Sender  mail.Address
	To, Cc        []mail.Address
	ReplyTo       []mail.Address
	Attachments   bool
}

// Properties returns them.
func (m Message) Properties() Properties {
	it, msg := m.it, m.it.msg
	thread := append([]byte{0, 3, 36, 0}, m.box.String()...)
	thread = append(append(thread, 16, 0), msg.thread[:]...)
	return Properties{
		ChangeKey: changeKey(m.box, it.change), Folder: folderID(m.box, it.folder), Conversation: base64.StdEncoding.EncodeToString(thread),
		Created: it.created, Sent: it.sent(), Read: it.read, Class: msg.class, Subject: msg.subject, InternetID: msg.internetID,
		Preview: msg.preview, Importance: msg.importance, Sensitivity: msg.sensitive, From: msg.from, Sender: msg.sender,
		To: msg.to, Cc: msg.cc, ReplyTo: msg.replyTo, Attachments: msg.attachment,
	}
}

// Body is the text of the message, and whether it is HTML.
func (m Message) Body() (text string, html bool) {
	p := m.it.msg.body()
	if p.html != nil {
		return p.markup(), true
	}
	return p.plain(), false
}

// Folder is a folder of a mailbox at Online.
type Folder struct {
	ID, ParentID, Name string
	Unread, Total      int
}

// AtOnline finds a mailbox at Online by one of its addresses or by the object id of its user. The error is ErrNoMailbox or
// ErrElsewhere; with the latter the box is named nevertheless.
func (o *Organisation) AtOnline(name string) (Box, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	x, primary := o.hostOf(name)
	if x == nil {
		x, primary = o.hostOfObject(name)
	}
	if x == nil {
		return Box{}, ErrNoMailbox
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	box := x.boxes[primary].name()
	if x.name != Online {
		return box, ErrElsewhere
	}
	return box, nil
}

// hostOfObject is hostOf for the object id of a user. o.mu is held.
func (o *Organisation) hostOfObject(object string) (x *Host, primary string) {
	if !guid.Valid(object) {
		return nil, ""
	}
	x, primary = o.hostOf(o.objects[normal(object)])
	if x == nil {
		return nil, ""
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.boxes[primary].object.String() != normal(object) { // another mailbox has the address now
		return nil, ""
	}
	return x, primary
}

// noteObject keeps the primary address of a user by its object id. o.mu is held for writing.
func (o *Organisation) noteObject(x *Host, primary string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	o.objects[x.boxes[primary].object.String()] = primary
}

// online calls f with a mailbox at Online, which is locked.
func (o *Organisation) online(name string, f func(*mailbox) error) error {
	box, err := o.AtOnline(name)
	if err != nil {
		return err
	}
	x := o.host(Online)
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.boxes[box.Address]
	if b == nil { // moved or renamed meanwhile
		return ErrNoMailbox
	}
	return f(b)
}

// FolderAtOnline is a folder by its well-known name, as inbox, or by its id. The error is ErrNoMailbox, ErrElsewhere or ErrNoItem.
func (o *Organisation) FolderAtOnline(name, folder string) (Folder, error) {
	var answer Folder
	err := o.online(name, func(b *mailbox) error {
		kind, ok := b.folder(folder)
		if !ok {
			return ErrNoItem
		}
		f := &b.folders[kind]
		answer = Folder{
			ID: folderID(b.guid, kind), ParentID: folderID(b.guid, folderTable[kind].parent), Name: folderTable[kind].name,
			Unread: f.unread, Total: len(f.items),
		}
		return nil
	})
	return answer, err
}

func (b *mailbox) folder(name string) (folderKind, bool) {
	if kind, ok := distinguishedFolder(normal(name)); ok {
		return kind, true
	}
	box, kind, ok := parseFolderID(name)
	return kind, ok && box == b.guid
}

// MessagesAtOnline lists the messages of a folder, or with an empty name of all, that were received from a time on and before
// another, the oldest first. A zero time is no bound. The error is ErrNoMailbox, ErrElsewhere or ErrNoItem.
func (o *Organisation) MessagesAtOnline(name, folder string, from, before time.Time) ([]Message, error) {
	var list []Message
	err := o.online(name, func(b *mailbox) error {
		folders := b.folders[:]
		if folder != "" {
			kind, ok := b.folder(folder)
			if !ok {
				return ErrNoItem
			}
			folders = folders[kind : kind+1]
		}
		for i := range folders {
			items := folders[i].items
			first, last := 0, len(items)
			if !from.IsZero() {
				first, _ = slices.BinarySearchFunc(items, from, againstTime)
			}
			if !before.IsZero() {
				last, _ = slices.BinarySearchFunc(items, before, againstTime)
			}
			for _, it := range items[first:max(first, last)] {
				list = append(list, b.message(it))
			}
		}
		if len(folders) > 1 {
			slices.SortStableFunc(list, func(a, b Message) int { return a.Received().Compare(b.Received()) })
		}
		return nil
	})
	return list, err
}

func againstTime(it *item, t time.Time) int { return it.received.Compare(t) }

// MessageAtOnline is a message by its id of EWS or its immutable id. The error is ErrNoMailbox, ErrElsewhere or ErrNoItem.
func (o *Organisation) MessageAtOnline(name, id string) (Message, error) {
	var m Message
	err := o.online(name, func(b *mailbox) error {
		box, number, ok := parseItemID(id)
		if !ok {
			if box, number, ok = parseImmutableID(id); ok {
				if moved, there := b.moved[number]; there {
					number = moved
				}
			}
		}
		it := b.items[number]
		if !ok || box != b.guid || it == nil {
			return ErrNoItem
		}
		m = b.message(it)
		return nil
	})
	return m, err
}

// immutableEntry is the length of an immutable id: the mailbox, and the item in it.
const immutableEntry = 2 + 16 + 16 + 8 + 6

func immutableID(box guid.GUID, origin uint64) string {
	b := append(make([]byte, 0, immutableEntry), 0, 11)
	b = append(b, box[:]...)
	b = append(b, make([]byte, 16)...)
	b = binary.BigEndian.AppendUint64(b, origin)
	return base64.StdEncoding.EncodeToString(append(b, 1, 0, 0, 0, 0, 0))
}

// parseImmutableID reads what immutableID wrote.
func parseImmutableID(id string) (box guid.GUID, origin uint64, ok bool) {
	b, err := base64.StdEncoding.DecodeString(id)
	if err != nil || len(b) != immutableEntry {
		return box, 0, false
	}
	copy(box[:], b[2:])
	origin = binary.BigEndian.Uint64(b[34:])
	return box, origin, immutableID(box, origin) == id
}
