package graph

// The Inbox of a mailbox: a look at it, its listing, and messages by their ids.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	// MaxPage is the longest page that Graph gives of messages.
	MaxPage = 1000
	// MaxItems is how many messages one Read may ask for: the longest batch.
	MaxItems = 20
	// basicFor is how long only what Mail.ReadBasic.All shows is asked for of a mailbox, after more was refused: a permission that is granted takes up to
	// an hour to be in a token.
	basicFor = time.Hour
)

// folder is a mailFolder, as far as it is needed.
type folder struct {
	ID string `json:"id"`
}

// Look asks for the id of the Inbox of a mailbox, the smallest request that shows whether the mailbox is here and may be read. If it is
// not here, the *fault.Error in the chain has Elsewhere.
func (c *Client) Look(ctx context.Context, mailbox string) (Answer, error) {
	var f folder
	a, err := c.call(ctx, operation{
		name: "GET mailFolders/inbox", about: aboutInbox, looks: true, mailbox: mailbox, method: http.MethodGet, repeats: true,
		url: c.mailboxURL(mailbox, "/mailFolders/inbox?$select=id"), answer: &f,
	})
	if err == nil {
		c.inboxes.learn(mailbox, f.ID)
	}
	return a, err
}

// Page is one page of the Inbox, newest first by received time. It can be short, or empty, and not be the last.
type Page struct {
	Answer
	Messages []mail.Message // without preview
	Next     string         // the link of the next page; empty: this is the last
}

// Messages lists the Inbox of a mailbox, newest first by received time, back to since, which may be zero, at most top messages (1 to
// MaxPage, or the nearest of these). Its error is an *Error, or that of ctx.
func (c *Client) Messages(ctx context.Context, mailbox string, since time.Time, top int) (Page, error) {
	query := "?$select=" + shownFields + "&$top=" + strconv.Itoa(min(max(top, 1), MaxPage)) + "&$orderby=receivedDateTime%20desc"
	if !since.IsZero() { // what is ordered by stands first in the filter
		query += "&$filter=receivedDateTime%20ge%20" + since.UTC().Format("2006-01-02T15:04:05Z")
	}
	return c.page(ctx, mailbox, c.mailboxURL(mailbox, "/mailFolders/inbox/messages"+query), true)
}

// More is the next page of a listing: next is the Next of the page before. A link that leads away from this Graph is refused.
func (c *Client) More(ctx context.Context, mailbox, next string) (Page, error) {
	if !c.here(next) {
		return Page{}, newError(operation{name: opList, about: aboutInbox}, said{code: CodeAway})
	}
	return c.page(ctx, mailbox, next, false)
}

const opList = "GET messages"

func (c *Client) page(ctx context.Context, mailbox, url string, combines bool) (Page, error) {
	var list struct {
		Value []message `json:"value"`
		Next  string    `json:"@odata.nextLink"`
	}
	op := operation{
		name: opList, about: aboutInbox, mailbox: mailbox, method: http.MethodGet, url: url, answer: &list, repeats: true, combines: combines,
	}
	a, err := c.call(ctx, op)
	if err != nil {
		return Page{Answer: a}, err
	}
	p := Page{Answer: a, Next: list.Next, Messages: make([]mail.Message, len(list.Value))}
	for i := range list.Value {
		p.Messages[i] = list.Value[i].mail()
	}
	if len(list.Value) > 0 {
		c.inboxes.learn(mailbox, list.Value[0].ParentFolderID)
	}
	return p, nil
}

// Item is one message that was read by its id, or why there is none.
type Item struct {
	ID      string
	Message *mail.Message
	Err     error // an *Error that concerns this item, or at most its mailbox
}

const opRead = "GET message"

// Read reads up to MaxItems messages of a mailbox, with sender, and preview where the client has it, and returns one Item for each id, in
// their order. An error of one item is in that Item; one that concerns all of them is the error of the call: an *Error, or that of ctx.
func (c *Client) Read(ctx context.Context, mailbox string, ids []string) ([]Item, Answer, error) {
	if len(ids) == 0 || len(ids) > MaxItems {
		return nil, Answer{}, fmt.Errorf("%s: %d ids, want 1 to %d", opRead, len(ids), MaxItems)
	}
	basic := c.basic.asks(mailbox)
	items, a, err := c.readAll(ctx, mailbox, ids, basic)
	if basic || !anyRefused(items, err) {
		return items, a, err
	}
	// With Mail.ReadBasic.All neither the preview nor the sensitivity may be asked for: then the rest.
	again, a2, err2 := c.readAll(ctx, mailbox, ids, true)
	if anyRefused(again, err2) {
		return items, a, err // that is not it
	}
	if err2 == nil {
		c.basic.learn(mailbox)
	}
	return again, a2, err2
}

// basicOnly are the mailboxes of which only what Mail.ReadBasic.All shows is asked for: no preview, and not whether a message is private. A
// role of RBAC for Applications may be for some mailboxes only, so that none is taken for another.
type basicOnly struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (b *basicOnly) asks(mailbox string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.until[mailbox])
}

func (b *basicOnly) learn(mailbox string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until == nil || len(b.until) >= maxInboxes {
		b.until = map[string]time.Time{}
	}
	b.until[mailbox] = time.Now().Add(basicFor)
}

// anyRefused says whether Graph refused a call, or one of its items, for how it asks or for a permission that it takes.
func anyRefused(items []Item, err error) bool {
	refused := func(err error) bool {
		if err == nil {
			return false
		}
		status := fault.Of(err).Status
		return status == http.StatusForbidden || status == http.StatusBadRequest
	}
	return refused(err) || slices.ContainsFunc(items, func(i Item) bool { return refused(i.Err) })
}

func (c *Client) readAll(ctx context.Context, mailbox string, ids []string, basic bool) ([]Item, Answer, error) {
	if len(ids) == 1 {
		return c.readOne(ctx, mailbox, ids[0], basic)
	}
	var all []Item
	var last Answer
	for some := range slices.Chunk(ids, c.gates.room(mailbox)) {
		items, a, err := c.readSome(ctx, mailbox, some, basic)
		if err != nil {
			return nil, a, err
		}
		all, last = append(all, items...), a
	}
	return all, last, nil
}

// queries of a message: with all that is wanted of it, and with what Mail.ReadBasic.All shows.
type queries struct{ all, basic string }

func newQueries(preview bool) queries {
	q := queries{basic: "?$select=" + shownFields}
	q.all = q.basic
	if preview {
		q.all += ",bodyPreview"
	}
	q.all += strings.ReplaceAll(extended, " ", "%20")
	return q
}

// messageURL is the URL of a message, without the root.
func (c *Client) messageURL(mailbox, id string, basic bool) string {
	query := c.queries.all
	if basic {
		query = c.queries.basic
	}
	return "/users/" + escaped(mailbox) + "/messages/" + escaped(id) + query
}

func (c *Client) readOne(ctx context.Context, mailbox, id string, basic bool) ([]Item, Answer, error) {
	var m message
	a, err := c.call(ctx, operation{
		name: opRead, about: aboutMessage, mailbox: mailbox, method: http.MethodGet, repeats: true,
		url: c.root + c.messageURL(mailbox, id, basic), answer: &m,
	})
	if err != nil && fault.Of(err).Scope > fault.Message {
		return nil, a, err
	}
	if err != nil {
		return []Item{{ID: id, Err: err}}, a, nil
	}
	return []Item{c.item(ctx, mailbox, id, &m)}, a, nil
}

// item is a message that was read. One that has left the Inbox is gone; before that is said the Inbox is asked for anew.
func (c *Client) item(ctx context.Context, mailbox, id string, m *message) Item {
	if c.inboxes.other(mailbox, m.ParentFolderID) {
		if _, err := c.Look(ctx, mailbox); err != nil {
			return Item{ID: id, Err: err}
		}
		if c.inboxes.other(mailbox, m.ParentFolderID) {
			return Item{ID: id, Err: newError(operation{name: opRead, about: aboutMessage}, said{code: CodeLeft})}
		}
	}
	told := m.mail()
	return Item{ID: id, Message: &told}
}

// readSome reads messages in one batch.
func (c *Client) readSome(ctx context.Context, mailbox string, ids []string, basic bool) ([]Item, Answer, error) {
	urls := make([]string, len(ids))
	for i, id := range ids {
		urls[i] = c.messageURL(mailbox, id, basic)
	}
	var got batchAnswer
	op := c.batch(operation{name: opRead, about: aboutMessage, mailbox: mailbox, requests: len(ids)}, urls, &got)
	a, err := c.call(ctx, op)
	if err != nil {
		return nil, a, err
	}
	items := make([]Item, len(ids))
	for i, id := range ids {
		items[i] = Item{ID: id, Err: unparseable(op, "fewer answers than messages")}
	}
	ended := make([]*Error, len(got.Responses))
	for n, r := range got.Responses {
		if r.Status != http.StatusOK {
			ended[n] = r.refused(op)
			ended[n].RequestID = a.RequestID
		}
	}
	c.gates.noteParts(op.gate(), a.Began, ended)
	for n, r := range got.Responses {
		i, err := strconv.Atoi(r.ID)
		if err != nil || i < 0 || i >= len(items) {
			continue
		}
		var m message
		switch {
		case ended[n] != nil:
			items[i].Err = ended[n]
		case json.Unmarshal(r.Body, &m) != nil:
			items[i].Err = unparseable(op, "it is not the JSON of a message")
		default:
			items[i] = c.item(ctx, mailbox, ids[i], &m)
		}
	}
	return items, a, nil
}
