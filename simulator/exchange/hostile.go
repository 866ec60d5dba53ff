package exchange

// Answers of a server that is hostile or broken.

import (
	"bytes"
	"io"
)

const (
	garbage    = "\x00\x01\xff<<html>&&&; this is no XML ]]> \xc3\x28"
	signInPage = `<!DOCTYPE html><html lang="en"><head><title>Sign in</title></head><body><form method="post" action="/sign-in"><input name="user"></form></body></html>`
	entities   = `<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a0 "ha"><!ENTITY a1 "&a0;&a0;&a0;&a0;&a0;&a0;&a0;&a0;&a0;&a0;">` +
		`<!ENTITY a2 "&a1;&a1;&a1;&a1;&a1;&a1;&a1;&a1;&a1;&a1;"><!ENTITY a3 "&a2;&a2;&a2;&a2;&a2;&a2;&a2;&a2;&a2;&a2;">` +
		`<!ENTITY a4 "&a3;&a3;&a3;&a3;&a3;&a3;&a3;&a3;&a3;&a3;"><!ENTITY a5 "&a4;&a4;&a4;&a4;&a4;&a4;&a4;&a4;&a4;&a4;">` +
		`<!ENTITY a6 "&a5;&a5;&a5;&a5;&a5;&a5;&a5;&a5;&a5;&a5;"><!ENTITY x SYSTEM "file:///etc/hostname">]>` +
		`<s:Envelope xmlns:s="` + nsSOAP + `"><s:Body><m:GetItemResponse xmlns:m="` + nsMessages + `" xmlns:t="` + nsTypes + `"><m:ResponseMessages>` +
		`<m:GetItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Items><t:Message>` +
		`<t:Subject>&a6;&x;</t:Subject></t:Message></m:Items></m:GetItemResponseMessage></m:ResponseMessages></m:GetItemResponse></s:Body></s:Envelope>`
	hugeAnswer = 256 << 20
)

// hostile sends an answer that no client should accept.
func (c *call) hostile() bool {
	at := c.address()
	h := c.w.Header()
	if _, ok := c.x.faults.Hit(answerGarbage, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(c.w, garbage)
		return true
	}
	if _, ok := c.x.faults.Hit(answerEntities, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(c.w, entities)
		return true
	}
	if _, ok := c.x.faults.Hit(answerPage, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(c.w, signInPage)
		return true
	}
	if _, ok := c.x.faults.Hit(answerHuge, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		c.writeHuge()
		return true
	}
	return false
}

func (c *call) writeHuge() {
	chunk := bytes.Repeat([]byte("A"), 64<<10)
	if _, err := io.WriteString(c.w, xmlDeclaration+c.x.answers.open); err != nil {
		return
	}
	for range hugeAnswer / len(chunk) {
		if _, err := c.w.Write(chunk); err != nil { // the client stopped reading
			return
		}
	}
	io.WriteString(c.w, c.x.answers.end)
}
