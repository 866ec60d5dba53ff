package listener

// Whom a read that failed is blamed on: the messages that were asked for, their mailbox, the account or the server.

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	// newest is how many messages are listed to find others that can be read, and witnessed how many of them are read.
	newest    = 20
	witnessed = 4
	// suspected is how often in a row a message is not read, whatever the server says that this concerns, until others are asked for first, and
	// every second time from then on: what throttles, or is away, is to be spared, and may let through one call of many.
	suspected = 3
	// maxUnread bounds the messages of a mailbox that are remembered for that.
	maxUnread = 64
)

// read reads messages by their ids.
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
