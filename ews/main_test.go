package ews

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample reads a file of testdata/ews.
func sample(t testing.TB, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("..", "testdata", "ews", name+"*.xml"))
	if err != nil || len(found) != 1 {
		t.Fatalf("sample %s: %v %v", name, found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// roundTrip is a server without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answers returns a client of a server that gives one answer to everything.
func answers(status int, body string, header ...string) *Client {
	return New(Options{UserAgent: "mailbell/test", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		h := http.Header{"Content-Type": {"text/xml; charset=utf-8"}}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Request: r, Body: io.NopCloser(strings.NewReader(body))}, nil
	})})
}

// streams returns a client of a server whose streams are fed through the writer that feed gets.
func streams(o Options, feed func(w *io.PipeWriter)) *Client {
	o.HTTP = roundTrip(func(r *http.Request) (*http.Response, error) {
		pr, pw := io.Pipe()
		context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
		go feed(pw)
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r, Body: pr}, nil
	})
	return New(o)
}

var target = Target{URL: "https://mail.contoso.com/EWS/Exchange.asmx", Mailbox: "mara@contoso.com"}

// soap wraps a body as Exchange does.
func soap(body string) string {
	return `<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header>` +
		`<h:ServerVersionInfo MajorVersion="15" MinorVersion="2" xmlns:h="http://schemas.microsoft.com/exchange/services/2006/types"/></s:Header>` +
		`<s:Body xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` + body + `</s:Body></s:Envelope>`
}

// response is an answer of an operation with these response messages.
func response(op, messages string) string {
	return soap(`<m:` + op + `Response xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"` +
		` xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><m:ResponseMessages>` + messages + `</m:ResponseMessages></m:` + op + `Response>`)
}

// failure is a response message with an error.
func failure(op, code, text, more string) string {
	return `<m:` + op + `ResponseMessage ResponseClass="Error"><m:MessageText>` + text + `</m:MessageText><m:ResponseCode>` + code +
		`</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>` + more + `</m:` + op + `ResponseMessage>`
}

// success is a response message without an error.
func success(op, payload string) string {
	return `<m:` + op + `ResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode>` + payload + `</m:` + op + `ResponseMessage>`
}
