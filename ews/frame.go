package ews

// The framer: a body cut into whole envelopes.

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

const (
	// maxEnvelope bounds one envelope: a listing of 1,000 messages has about 1 MiB, fifty events 40 KiB.
	maxEnvelope = 4 << 20
	// firstBuffer holds an envelope with one event, or one item.
	firstBuffer = 4 << 10
	// keptBuffer is how large a buffer may be that waits for the next envelope; a larger one was the exception.
	keptBuffer = 64 << 10
)

// foreign says that the body is not a SOAP envelope.
type foreign string

func (f foreign) Error() string { return "no SOAP envelope: " + string(f) }

// errTooLarge is an envelope beyond maxEnvelope.
const errTooLarge = malformed("the envelope is larger than 4 MiB")

// framer cuts a body into whole envelopes. A stream is a sequence of envelopes, which end independently of the chunks of HTTP. An XML
// declaration may precede each envelope, only the first, or none.
type framer struct {
	r     io.Reader
	err   error  // of r, kept until all that it read is used up
	buf   []byte // buf[start:end] is read and not handed out
	start int
	end   int
	at    int  // from start: what lies before has been looked at
	look  look // at the markup that begins there
	depth int  // of elements there
}

func (f *framer) reset(r io.Reader) {
	buf := f.buf
	if cap(buf) > keptBuffer {
		buf = nil
	}
	*f = framer{r: r, buf: buf}
}

// next returns the next envelope as soon as it is complete. It is valid until the next call. After the last it returns io.EOF. An error
// of the reader is returned as it is, any other is a foreign or a malformed.
func (f *framer) next() ([]byte, error) {
	for {
		if n, err := f.scan(); n > 0 || err != nil {
			doc := f.buf[f.start : f.start+n]
			f.start += n
			f.at, f.look = 0, look{}
			return doc, err
		}
		if f.err == nil {
			f.fill()
			continue
		}
		if isEnd(f.err) && f.start < f.end {
			return nil, errEOF
		}
		return nil, f.err
	}
}

// fill reads once, and makes room for it before.
func (f *framer) fill() {
	if f.start == f.end {
		f.start, f.end = 0, 0
		if cap(f.buf) > keptBuffer {
			f.buf = nil
		}
	}
	switch {
	case f.buf == nil:
		f.buf = make([]byte, firstBuffer)
	case f.end < len(f.buf):
	case f.start > 0:
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	case len(f.buf) >= maxEnvelope:
		f.err = errTooLarge
		return
	default:
		larger := make([]byte, min(2*len(f.buf), maxEnvelope))
		f.end = copy(larger, f.buf[:f.end])
		f.buf = larger
	}
	for range 100 { // a reader may return nothing, but not for ever
		n, err := f.r.Read(f.buf[f.end:])
		f.end += n
		f.err = err
		if n > 0 || err != nil {
			return
		}
	}
	f.err = io.ErrNoProgress
}

// scan returns the length of the envelope if it is complete, and 0 if more has to be read.
func (f *framer) scan() (int, error) {
	for {
		if f.depth == 0 {
			if more, err := f.between(); more || err != nil {
				return 0, err
			}
		}
		rest := f.buf[f.start+f.at : f.end]
		if n := bytes.IndexByte(rest, '<'); n != 0 {
			if n < 0 {
				n = len(rest)
			}
			f.at += n
			if n == len(rest) {
				return 0, nil
			}
			continue
		}
		k, n := markup(rest, &f.look)
		switch k {
		case markupPart:
			return 0, nil
		case markupDTD:
			if f.depth == 0 {
				return 0, foreign("it begins with a document type (DTD), as a web page does")
			}
			return 0, errDTD
		case markupText:
			if f.depth == 0 {
				return 0, foreign("it begins with text")
			}
		case markupStart:
			if f.depth == 0 && !isEnvelope(rest[1:n-1]) {
				return 0, foreign("it begins with another element")
			}
			if rest[n-2] != '/' {
				f.depth++
			}
		case markupEnd:
			if f.depth == 0 {
				return 0, malformed("an end tag without a start tag")
			}
			f.depth--
		case markupCDATA:
			if f.depth == 0 {
				return 0, foreign("it begins with text")
			}
		case markupSkip:
			if f.depth == 0 {
				if err := declaration(rest[:n]); err != nil {
					return 0, err
				}
				f.start += n // so that nothing piles up between envelopes
				f.look = look{}
				continue
			}
		}
		f.at += n
		f.look = look{}
		if f.depth == 0 {
			return f.at, nil
		}
	}
}

var (
	bom   = []byte("\xef\xbb\xbf")
	utf16 = foreign("it is UTF-16, and EWS is UTF-8")
)

// between drops what is allowed between envelopes: white space and byte order marks. It reports whether more has to be read.
func (f *framer) between() (more bool, err error) {
	for {
		rest := f.buf[f.start:f.end]
		rest = bytes.TrimLeft(rest, space)
		f.start = f.end - len(rest)
		switch {
		case len(rest) == 0:
			return true, nil
		case rest[0] == '<' && len(rest) == 1:
			return true, nil
		case rest[0] == '<' && rest[1] == 0, rest[0] == 0, rest[0] == 0xFE, rest[0] == 0xFF:
			return false, utf16
		case rest[0] == '<':
			return false, nil
		case !opens(rest, string(bom)):
			return false, foreign("it begins with text")
		case len(rest) < len(bom):
			return true, nil
		}
		f.start += len(bom)
	}
}

// isEnvelope reports whether the tag is that of an Envelope, in any namespace.
func isEnvelope(tag []byte) bool {
	if n := bytes.IndexAny(tag, space+"/"); n >= 0 {
		tag = tag[:n]
	}
	return string(local(tag)) == "Envelope"
}

// declaration refuses an XML declaration that names another encoding than UTF-8.
func declaration(pi []byte) error {
	if !bytes.HasPrefix(pi, []byte("<?xml")) {
		return nil
	}
	_, rest, _ := bytes.Cut(pi, []byte("encoding"))
	// standalone="yes" may follow the encoding.
	const around = space + `="'?>`
	encoding := bytes.TrimLeft(rest, around)
	if n := bytes.IndexAny(encoding, around); n >= 0 {
		encoding = encoding[:n]
	}
	is := func(name string) bool { return bytes.EqualFold(encoding, []byte(name)) }
	switch {
	case len(encoding) == 0, is("utf-8"), is("utf8"), is("us-ascii"):
		return nil
	case len(encoding) >= len("utf-16") && strings.EqualFold(string(encoding[:len("utf-16")]), "utf-16"):
		return utf16
	}
	return foreign("its encoding is not UTF-8")
}

// isEnd reports whether an error is the normal end of a reader: io.EOF itself.
func isEnd(err error) bool { return err == io.EOF } //nolint:errorlint // an error that wraps it means that the connection broke

// isContent reports whether an error is about the content, and not about the connection.
func isContent(err error) bool {
	if _, ok := errors.AsType[malformed](err); ok {
		return true
	}
	_, ok := errors.AsType[foreign](err)
	return ok
}
