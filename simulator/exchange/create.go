package exchange

// CreateItem, as far as it sends: a message of text to mailboxes of this organisation, delivered as SMTP delivers.

import (
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// createItem sends the one message of a request. What would only be saved is refused: nothing here needs drafts.
func (c *call) createItem(b *markup) *soapFault {
	const message = "CreateItemResponseMessage"
	items := c.body.kid(nsMessages, "Items").children()
	switch disposition := c.body.attr("MessageDisposition"); {
	case disposition != "SendOnly":
		return &soapFault{code: "ErrorInvalidRequest", text: "Only MessageDisposition SendOnly is served here."}
	case len(items) != 1 || items[0].name != "Message":
		return badRequest(fmt.Sprintf("The element 'Items' holds %d items; one Message is served here.", len(items)))
	case c.box == nil:
		b.responseError(message, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
		return nil
	}
	to := items[0].at("ToRecipients").children()
	if len(to) == 0 || len(to) > maxRecipients {
		b.responseError(message, "ErrorInvalidRecipients", "At least one recipient isn't valid.")
		return nil
	}
	subject, text := items[0].at("Subject").value(), items[0].at("Body").value()
	for _, k := range to {
		if err := c.x.org.Submit(c.mailbox, k.at("EmailAddress").value(), subject, text); err != nil {
			b.responseError(message, "ErrorInvalidRecipients", "At least one recipient isn't valid.")
			return nil
		}
	}
	b.success(message)
	b.raw(`<m:Items/></m:`, message, `>`)
	return nil
}

// Submit delivers a message of text that a mailbox sends. It is dated and gets its id here, as Exchange gives them.
func (o *Organisation) Submit(from, to, subject, text string) error {
	now := time.Now()
	raw := strings.Join([]string{
		"From: <" + from + ">", "To: <" + to + ">", "Subject: " + mime.QEncoding.Encode("utf-8", subject), "Date: " + now.Format(time.RFC1123Z),
		"Message-ID: <" + guid.New().String() + "@" + Domain + ">", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "", text, "",
	}, "\r\n")
	_, err := o.Deliver(to, time.Time{}, []byte(raw))
	return err
}
