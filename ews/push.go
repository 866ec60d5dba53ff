package ews

// Push subscriptions: Subscribe with a URL, what the server posts there (SendNotification), and what it is answered.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/pace"
)

const (
	// MaxNotification bounds the body of a SendNotification: fifty events, which is the most that Exchange puts into one, are 40 KiB.
	MaxNotification = 256 << 10

	minFrequency = 1    // minutes: the schema's SubscriptionStatusFrequencyType is 1 …
	maxFrequency = 1440 // … to 1440
	// leastHidden is how much of a secret has to stand in a text to be taken out of it: a text that was cut may end within the secret.
	leastHidden = 4
)

// Push is where a server is to post what is new.
type Push struct {
	URL       string        // up to the secret: https://mailbell.contoso.com/callbacks/ews/
	Secret    string        // the end of the URL, in no error
	Frequency time.Duration // StatusFrequency: the server posts so often though nothing is new; whole minutes, a fraction rounded up
}

// SubscribePush makes a push subscription to new mail in the Inbox of t.Mailbox, beginning now, and returns its id and watermark. The server
// posts its first status at once, so the URL has to answer already. There is no Unsubscribe for it: it ends when a post is answered with
// Unsubscribe, or with errors for as long as Frequency. Its error is an *Error, or that of ctx.
func (c *Client) SubscribePush(ctx context.Context, t Target, push Push) (id, watermark string, a Answer, err error) {
	a, err = c.call(ctx, t, operation{
		name: "Subscribe", purpose: pace.Subscribing, unparseable: CodeUnparseableAnswer, within: subscribeWithin,
		body: subscribePush(push),
		message: func(s *scanner) *problem {
			p := begin(s)
			for at := s.depth; s.child(at); {
				if p.take(s) {
					continue
				}
				switch string(s.name) {
				case "SubscriptionId":
					id = string(bytes.TrimSpace(s.text()))
				case "Watermark":
					watermark = string(bytes.TrimSpace(s.text()))
				}
			}
			return p.subscribed(s, id)
		},
	})
	if e, ok := errors.AsType[*Error](err); ok {
		e.Fault.Text = hidden(e.Fault.Text, push.Secret)
	}
	return id, watermark, a, err
}

func subscribePush(p Push) func(*bytes.Buffer, string) {
	minutes := min(max(int((p.Frequency+time.Minute-1)/time.Minute), minFrequency), maxFrequency)
	return func(b *bytes.Buffer, _ string) {
		b.WriteString(`<m:Subscribe><m:PushSubscriptionRequest>` +
			`<t:FolderIds>` + inbox + `</t:FolderIds>` +
			`<t:EventTypes><t:EventType>NewMailEvent</t:EventType></t:EventTypes>` +
			`<t:StatusFrequency>` + strconv.Itoa(minutes) + `</t:StatusFrequency><t:URL>`)
		escape(b, p.URL+p.Secret)
		b.WriteString(`</t:URL></m:PushSubscriptionRequest></m:Subscribe>`)
	}
}

// hidden takes a secret out of a text, and what a cut has left of it. A server may repeat the URL that it does not like.
func hidden(text, secret string) string {
	for n := len(secret); n >= leastHidden; n-- {
		text = strings.ReplaceAll(text, secret[:n], "…")
	}
	return text
}

// Pushed is what a server posts about one subscription.
type Pushed struct {
	Subscription string
	Previous     string   // PreviousWatermark: where the post before it ended
	Watermark    string   // of the last event: where this one ends
	Items        []string // the item ids of its NewMailEvents; none: a status
	Code         string   // what is wrong with the subscription; empty: nothing
}

// Posts reads what servers post. The zero Posts is ready; it is safe for concurrent use.
type Posts struct{ parsers sync.Pool } // of *parser: their buffers are used again

// Read reads a SendNotification of at most MaxNotification bytes. Anybody may have written it.
func (r *Posts) Read(body io.Reader) ([]Pushed, error) {
	limited := &io.LimitedReader{R: body, N: MaxNotification + 1}
	p, _ := r.parsers.Get().(*parser)
	if p == nil {
		p = &parser{}
	}
	defer r.parsers.Put(p)
	p.framer.reset(limited)
	defer func() {
		p.framer.reset(nil)
		p.scanner.reset(nil)
	}()
	doc, err := p.framer.next()
	switch {
	case limited.N == 0:
		return nil, malformed("a notification larger than 256 KiB")
	case isEnd(err):
		return nil, errEOF
	case err != nil:
		return nil, err
	}
	p.scanner.reset(doc)
	list := readPushed(&p.scanner)
	switch {
	case p.scanner.err != nil:
		return nil, p.scanner.err
	case len(list) == 0:
		return nil, malformed("no notification in it")
	}
	return list, nil
}

func readPushed(s *scanner) (list []Pushed) {
	for at := s.depth; s.child(at); { // Envelope
		for at := s.depth; s.child(at); {
			if string(s.name) != "Body" {
				continue
			}
			for at := s.depth; s.child(at); {
				if string(s.name) != "SendNotification" {
					continue
				}
				for at := s.depth; s.child(at); { // ResponseMessages
					for at := s.depth; s.child(at); {
						list = append(list, pushedMessage(s))
					}
				}
			}
		}
	}
	return list
}

// pushedMessage reads a SendNotificationResponseMessage.
func pushedMessage(s *scanner) (n Pushed) {
	p := begin(s)
	for at := s.depth; s.child(at); {
		if p.take(s) || string(s.name) != "Notification" {
			continue
		}
		for at := s.depth; s.child(at); {
			switch string(s.name) {
			case "SubscriptionId":
				n.Subscription = string(bytes.TrimSpace(s.text()))
			case "PreviousWatermark":
				n.Previous = string(bytes.TrimSpace(s.text()))
			case "MoreEvents":
			default:
				n.event(s)
			}
		}
	}
	n.Code = p.code
	return n
}

// event reads an event of any kind: each has the watermark behind it.
func (n *Pushed) event(s *scanner) {
	mail := string(s.name) == "NewMailEvent"
	for at := s.depth; s.child(at); {
		switch string(s.name) {
		case "Watermark":
			n.Watermark = string(bytes.TrimSpace(s.text()))
		case "ItemId":
			if id := s.attr("Id"); mail && len(id) > 0 {
				n.Items = append(n.Items, string(id))
			}
		}
	}
}

const (
	resultOpen = `<?xml version="1.0" encoding="utf-8"?>` +
		`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>` +
		`<m:SendNotificationResult xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><m:SubscriptionStatus>`
	resultClose = `</m:SubscriptionStatus></m:SendNotificationResult></s:Body></s:Envelope>`

	// ResultOK is the answer to a SendNotification whose subscription goes on.
	ResultOK = resultOpen + `OK` + resultClose
	// ResultUnsubscribe is the answer that ends it.
	ResultUnsubscribe = resultOpen + `Unsubscribe` + resultClose
)
