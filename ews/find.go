package ews

// FindItem: a listing of the Inbox.

import (
	"bytes"
	"context"
	"strconv"

	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/mail"
)

// MaxPage is the longest page that FindItem requests: the server has the same limit (EWSFindCountLimit).
const MaxPage = 1000

// FindItem lists the Inbox of t.Mailbox, newest first by received time, at most `most` messages (1 to MaxPage, or the nearest of these)
// from offset on. A page may be shorter: only Last says that it is the last one. Pages shift when mail arrives or is deleted, so let the
// next page begin with an item of this one. Its error is an *Error, or that of ctx.
func (c *Client) FindItem(ctx context.Context, t Target, offset, most int) (Listing, error) {
	offset, most = max(offset, 0), min(max(most, 1), MaxPage)
	var l Listing
	a, err := c.call(ctx, t, operation{
		name: "FindItem", purpose: pace.Listing, unparseable: CodeUnparseableAnswer, read: true,
		body: findItem(offset, most),
		message: func(s *scanner) *problem {
			p := begin(s)
			found := false
			for at := s.depth; s.child(at); {
				if p.take(s) || string(s.name) != "RootFolder" {
					continue
				}
				found = true
				l = rootFolder(s, offset)
			}
			if p.code == "" && !found && s.err == nil {
				s.err = malformed("a success without a listing")
			}
			return p.failed()
		},
	})
	if err != nil {
		l = Listing{}
	}
	l.Answer = a
	return l, err
}

func rootFolder(s *scanner, offset int) Listing {
	l := Listing{Last: string(s.attr("IncludesLastItemInRange")) == "true"}
	l.Total = number(s.attr("TotalItemsInView"))
	l.Next = number(s.attr("IndexedPagingOffset"))
	for at := s.depth; s.child(at); {
		if string(s.name) != "Items" {
			continue
		}
		for at := s.depth; s.child(at); {
			l.Messages = append(l.Messages, mail.Message{})
			message(s, &l.Messages[len(l.Messages)-1], "")
		}
	}
	if l.Next <= offset { // the server did not say
		l.Next = offset + len(l.Messages)
	}
	return l
}

func number(b []byte) int {
	n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0
	}
	return max(n, 0)
}
