package listener

// How the inbox reads a mailbox at its location, and what the answers say about that location.

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

const (
	// silent is for how long a server has to have failed for a mailbox, and stale how old its location has to be, until it is looked up: a
	// server that restarts must not have every mailbox looked up. absent and again are the same where it answers that there is no EWS.
	silent = 15 * time.Minute
	stale  = time.Hour
	absent = time.Minute
	again  = 5 * time.Minute
	// leastWait is the least wait for the time from which a location may be doubted.
	leastWait = 5 * time.Second
	// newest is how many messages are listed to find others that can be read, and witnessed how many of them are read.
	newest    = 20
	witnessed = 4
	// suspected is how often in a row a message is not read, whatever the server says that this concerns, until others are asked for first, and
	// every second time from then on: what throttles, or is away, is to be spared, and may let through one call of many.
	suspected = 3
	// maxUnread bounds the messages of a mailbox that are remembered for that.
	maxUnread = 64
)

// link is an inbox.Link: one mailbox at one location.
type link struct {
	m      *mailbox
	way    *way
	member membership
	at     *mail.Location // where it was found: never changed
	outage *outage        // of its server

	mu      sync.Mutex
	told    map[string]*mail.Message // what came in notifications and is not taken yet, by item id
	ended   bool                     // the mailbox has been given up here
	server  string                   // the mailbox server, as the mailbox's own answers name it; empty: unknown
	failing time.Time                // since when its server fails for the mailbox; zero: it does not
	unread  map[string]int           // how often in a row messages were not read
}

// Exchange is the exchange entry.
func (k *link) Exchange() string { return k.way.account.entry.Name }

// Source is whose item ids the messages have.
func (k *link) Source() mail.Source { return k.way.source.Kind() }

// SafetyPoll is after how long without a listing the mailbox is listed.
func (k *link) SafetyPoll() time.Duration { return k.way.account.entry.SafetyPoll }

// Listings is how many listings it is worth to have under way at once.
func (k *link) Listings() int { return k.way.source.Listings() }

// Reads is the same of reads by ids.
func (k *link) Reads() int { return k.way.source.Reads() }

// Read reads messages by their ids. What came in a notification is not asked for.
func (k *link) Read(ctx context.Context, ids []string) (inbox.Items, error) {
	told := k.takeTold(ids)
	if len(told) == 0 {
		return k.read(ctx, ids)
	}
	var others []string
	for _, id := range ids {
		if told[id] == nil {
			others = append(others, id)
		}
	}
	all := inbox.Items{Clock: k.way.account.entry.now()}
	if len(others) > 0 {
		var err error
		if all, err = k.read(ctx, others); err != nil {
			return k.withTold(all, told, err)
		}
	}
	read := all.Items
	all.Items = nil
	for _, id := range ids {
		if m := told[id]; m != nil {
			all.Items = append(all.Items, inbox.Item{ID: id, Message: m})
			continue
		}
		all.Items = append(all.Items, read[0])
		read = read[1:]
	}
	return all, nil
}

// withTold adds the messages that came in notifications to what was found of others, which could not all be read. Those that are about to be
// asked for one by one are kept until then.
func (k *link) withTold(found inbox.Items, told map[string]*mail.Message, err error) (inbox.Items, error) {
	oneByOne := fault.Of(err).Scope == fault.Message
	for id, m := range told {
		if oneByOne {
			k.keepTold(m)
			continue
		}
		found.Items = append(found.Items, inbox.Item{ID: id, Message: m})
	}
	found.Clock = k.way.account.entry.now()
	return found, err
}

func (k *link) read(ctx context.Context, ids []string) (inbox.Items, error) {
	suspect := k.doubts(ids)
	if suspect && len(ids) > 1 {
		return inbox.Items{Clock: k.way.account.entry.now()}, errOneByOne
	}
	call, err := k.way.calls.begin(k.at.Primary)
	if err != nil {
		return inbox.Items{}, err
	}
	var items []inbox.Item
	var a Answer
	var ofThem bool // err concerns these messages only. Of several that is a guess: they are asked for one by one then
	if suspect {
		items, a, ofThem, err = k.askSuspect(ctx, ids)
	} else {
		items, a, ofThem, err = k.askBlaming(ctx, ids)
	}
	if ofThem && (len(ids) == 1 || fault.Of(err).Scope == fault.Account) || slices.ContainsFunc(items, isRead) { // another one was read
		err = narrowed(err, fault.Mailbox)
	}
	k.remember(ids, items, ofThem, err)
	if err = call.note(err); err != nil {
		found := inbox.Items{Items: withoutFailed(items), Clock: k.way.account.entry.now()}
		if ofThem {
			return found, narrowed(err, fault.Message)
		}
		return found, k.judge(err)
	}
	k.member.Answered()
	return inbox.Items{Items: items, Clock: k.answered(a)}, nil
}

// errOneByOne has messages asked for one by one, as one of them is a suspect.
var errOneByOne = &fault.Error{Op: "read", Code: "one by one", Scope: fault.Message, Remedy: fault.Retry}

// askBlaming asks for messages. Where the server fails over them, or refuses them, one of them may be the cause. Several are asked for one by one
// then. For a single one, and where the error says that it concerns the account, another message is asked for: if the server reads that, the
// cause is one of these.
func (k *link) askBlaming(ctx context.Context, ids []string) (items []inbox.Item, a Answer, ofThem bool, err error) {
	items, a, err = k.ask(ctx, ids)
	switch {
	case !failed(err):
		return items, a, false, err
	case len(ids) > 1 && (fault.Of(err).Scope != fault.Account || slices.ContainsFunc(items, isRead)):
		return items, a, true, err
	}
	if read, _ := k.readsOthers(ctx, ids, 1); !read || len(ids) > 1 {
		return items, a, read, err
	}
	items, a, err = k.ask(ctx, ids)
	return items, a, failed(err), err
}

// askSuspect asks for a message that was not read again and again. Others are asked for before it: after it a server that throttles answers
// nothing for a while. They are several, for such a server reads one now and then.
func (k *link) askSuspect(ctx context.Context, ids []string) (items []inbox.Item, a Answer, ofThem bool, err error) {
	read, err := k.readsOthers(ctx, ids, witnessed)
	if err != nil {
		return nil, Answer{}, false, err
	}
	items, a, err = k.ask(ctx, ids)
	return items, a, read && (failed(err) || perhapsOver(err)), err
}

// doubts says whether one of these messages is a suspect, and others are to be asked for before it this time.
func (k *link) doubts(ids []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(ids, func(id string) bool {
		n := k.unread[id]
		return n >= suspected && (n-suspected)%2 == 0
	})
}

// suspects says whether a message was not read again and again.
func (k *link) suspects(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unread[id] >= suspected
}

// remember counts for each message how often in a row it was not read. The count of what is blamed stays: others are asked for before it next time too.
func (k *link) remember(ids []string, items []inbox.Item, ofThem bool, err error) {
	known := func(i inbox.Item) bool { return i.Err == nil || fault.Of(i.Err).Scope == fault.Message }
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, item := range items {
		if known(item) {
			delete(k.unread, item.ID)
		}
	}
	if ofThem || !perhapsOver(err) {
		return
	}
	if k.unread == nil || len(k.unread) >= maxUnread {
		k.unread = map[string]int{}
	}
	for _, id := range ids {
		if !slices.ContainsFunc(items, func(i inbox.Item) bool { return i.ID == id && known(i) }) {
			k.unread[id]++
		}
	}
}

func isRead(i inbox.Item) bool { return i.Message != nil }

// ask reads messages. An error that concerns more than its message is that of all.
func (k *link) ask(ctx context.Context, ids []string) ([]inbox.Item, Answer, error) {
	items, a, err := k.way.source.Read(ctx, *k.at, ids)
	if err == nil {
		err = beyondTheMessage(items)
	}
	return items, a, err
}

// failed says whether a server, or the gateway before it, failed over what it was asked, or refused it: perhaps over one of the messages only,
// whatever it says that the error concerns.
func failed(err error) bool {
	if err == nil {
		return false
	}
	f := fault.Of(err)
	switch f.Code {
	case "ErrorInternalServerError", "ErrorInternalServerTransientError", "ErrorTimeoutExpired", "ErrorBatchProcessingStopped":
		return f.Scope == fault.Mailbox
	case "HTTP 500": // without a word of EWS
		return true
	case "ErrorAccessDenied":
		return true
	}
	switch f.Status {
	case http.StatusInternalServerError, http.StatusBadRequest:
		return f.Scope == fault.Mailbox
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return f.Scope == fault.Mailbox || f.Scope == fault.Server
	case http.StatusForbidden:
		return f.Scope == fault.Mailbox || f.Scope == fault.Account
	}
	return false
}

// perhapsOver says whether another error may be over one of the messages only: any of a server that was asked and has let the account in. That
// takes more to be believed than where it failed, for mostly such an error concerns what it says.
func perhapsOver(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	f := fault.Of(err)
	switch {
	case f.Elsewhere || slices.Contains(unsaid, f.Code):
		return false
	case f.Scope == fault.Account:
		return f.Status == http.StatusForbidden || f.Status == http.StatusTooManyRequests
	case f.Scope == fault.Server:
		return f.Remedy != fault.Fix
	}
	return true
}

// readsOthers says whether the server reads other messages of the mailbox than these: so many of the newest, or as many as there are, of which
// some may be sick too. Its error is that of a mailbox that cannot be listed, or of a server that refuses one of no suspect for now: nothing more
// is asked for then.
func (k *link) readsOthers(ctx context.Context, ids []string, enough int) (bool, error) {
	page, _, err := k.way.source.List(ctx, *k.at, inbox.Part{Limit: newest})
	if err != nil {
		return false, err
	}
	others := k.others(page.Messages, ids)
	read := 0
	for _, id := range others[:min(witnessed, len(others))] {
		items, _, err := k.ask(ctx, []string{id})
		switch {
		case err == nil && slices.ContainsFunc(items, isRead):
			read++
		case perhapsOver(err) && !failed(err) && !k.suspects(id):
			k.remember([]string{id}, nil, false, err)
			return false, err
		}
		if read == enough {
			break
		}
	}
	return read > 0, nil
}

// others are the ids of the messages but these, the suspects last.
func (k *link) others(list []mail.Message, but []string) (ids []string) {
	var suspects []string
	for i := range list {
		switch id := list[i].ItemID; {
		case slices.Contains(but, id):
		case k.suspects(id):
			suspects = append(suspects, id)
		default:
			ids = append(ids, id)
		}
	}
	return append(ids, suspects...)
}

// narrowed is an error as one that concerns no more than to: a server that fails over a message, and reads others of the mailbox, is not what
// is wrong (rule 9).
func narrowed(err error, to fault.Scope) error {
	if err == nil {
		return nil
	}
	f := *fault.Of(err)
	f.Scope = min(f.Scope, to)
	return &f
}

// beyondTheMessage returns the first error that concerns more than its message, and so all of them.
func beyondTheMessage(items []inbox.Item) error {
	for _, item := range items {
		if item.Err != nil && fault.Of(item.Err).Scope > fault.Message {
			return item.Err
		}
	}
	return nil
}

// withoutFailed are the items of which it is known what they are, though others failed.
func withoutFailed(items []inbox.Item) []inbox.Item {
	return slices.DeleteFunc(items, func(i inbox.Item) bool { return i.Err != nil && fault.Of(i.Err).Scope > fault.Message })
}

// List returns a page of the Inbox.
func (k *link) List(ctx context.Context, p inbox.Part) (inbox.Page, error) {
	call, err := k.way.calls.begin(k.at.Primary)
	if err != nil {
		return inbox.Page{}, err
	}
	page, a, err := k.way.source.List(ctx, *k.at, p)
	if err = call.note(err); err != nil {
		return inbox.Page{}, k.judge(err)
	}
	page.Clock = k.answered(a)
	return page, nil
}

// Unhinted tells that a listing showed a message that no hint had named.
func (k *link) Unhinted(received, clock time.Time) { k.member.Unhinted(clock.Sub(received)) }

// Listed tells that a complete listing is done.
func (k *link) Listed() {
	k.dropTold(false)
	k.member.Listed()
}

// location is where the mailbox lives, as far as it is known now.
func (k *link) location() mail.Location {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := *k.at
	at.Server = k.server
	return at
}

// answered takes in what an answer tells of its server, and returns that server's clock. A mailbox on a server whose mailboxes the entry is
// not to listen to is looked up again.
func (k *link) answered(a Answer) time.Time {
	e := k.way.account.entry
	k.mu.Lock()
	waited := !k.failing.IsZero()
	k.failing = time.Time{}
	if a.Server != "" && a.Server != k.server {
		k.server = unique.Make(a.Server).Value() // that of thousands of mailboxes
	}
	strayed := !e.serves(k.server)
	k.mu.Unlock()
	k.serverAnswers(waited)
	if strayed && k.age() > confirmed {
		k.m.relocate(k)
	}
	return e.tell(a)
}

// age is for how long the location has been known.
func (k *link) age() time.Duration { return time.Since(k.at.Found) }

// judge says what an error of a call means for the mailbox. Where its location is doubted it is tried again at once, or once the location
// may be doubted, and not when the error says.
func (k *link) judge(err error) error {
	f := *fault.Of(err)
	verdict := streaming.Leaves
	if k.m.linked() == k { // else it is looked up already, or has been
		verdict = k.doubt(&f)
	}
	switch verdict {
	case streaming.Leaves:
		f.Remedy, f.After = fault.Retry, 0
	case streaming.Later:
		f.Remedy, f.After = fault.Wait, max(confirmed-k.age(), leastWait)
	case streaming.Stays:
		return err
	}
	return &f
}

// doubt says whether an error is a reason to look the mailbox up again, and then has that done.
func (k *link) doubt(f *fault.Error) streaming.Verdict {
	ofServer := f.Scope >= fault.Server
	gone := ofServer && k.gone(f)
	switch {
	case !f.Moved && !ofServer, !k.asks():
		return streaming.Stays
	case ofServer:
		if gone {
			k.m.confirm(k)
		}
		return streaming.Stays
	case k.age() <= confirmed:
		return streaming.Later
	}
	k.m.relocate(k)
	return streaming.Leaves
}

// asks says whether somebody has to be asked where the mailbox lives.
func (k *link) asks() bool {
	s := k.m.l.search(k.m.box)
	return s.asks()
}

// gone says whether the server may be gone for good that has failed once more for the mailbox.
func (k *link) gone(f *fault.Error) bool {
	k.outage.failed()
	k.mu.Lock()
	if k.failing.IsZero() {
		k.failing = time.Now()
	}
	failing := time.Since(k.failing)
	k.mu.Unlock()
	if f.Moved && f.Remedy == fault.Fix { // it answers
		return failing >= absent && k.age() > again
	}
	return failing >= silent && k.age() > stale
}

// leadsTo says whether the mailbox still lives where this link leads, after a look-up: where nobody could say, it does.
func (k *link) leadsTo(found answered) bool {
	if found.err != nil {
		return !found.err.Elsewhere
	}
	at := found.at
	return found.entry == k.way.account.entry && at.ReadBy() == k.at.ReadBy() && at.URL == k.at.URL && at.Group == k.at.Group && at.Primary == k.at.Primary
}
