package exchange

// ConvertId: the entry id inside an item or folder id. Clients also call it first to learn the server's version.

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

func (c *call) convertID(b *markup) *soapFault {
	const message = "ConvertIdResponseMessage"
	ids := c.body.kid(nsMessages, "SourceIds").children()
	if len(ids) == 0 || len(ids) > maxItems {
		return badRequest("The element 'SourceIds' has incomplete content.")
	}
	for _, n := range ids {
		entry, ok := entryID(n.attr("Id"))
		format := c.body.attr("DestinationFormat")
		var id string
		switch format {
		case "EntryId":
			id = base64.StdEncoding.EncodeToString(entry)
		case "HexEntryId":
			id = strings.ToUpper(hex.EncodeToString(entry))
		case "EwsId":
			id = n.attr("Id")
		default:
			ok = false
		}
		if !ok || n.attr("Format") != "EwsId" {
			b.responseError(message, "ErrorInvalidIdMalformed", "Id is malformed.")
			continue
		}
		b.success(message)
		b.raw(`<m:AlternateId xsi:type="t:AlternateIdType" Format="`, format, `" Id="`, id, `" Mailbox="`)
		b.text(n.attr("Mailbox"))
		b.raw(`"/></m:`, message, `>`)
	}
	return nil
}

// entryID is the entry id in an id of this server.
func entryID(id string) ([]byte, bool) {
	_, _, item := parseItemID(id)
	_, _, folder := parseFolderID(id)
	if !item && !folder {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(id)
	return b[idHead+2 : len(b)-1], err == nil
}
