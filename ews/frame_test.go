package ews

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const small = `<s:Envelope xmlns:s="u"><s:Body>x</s:Body></s:Envelope>`

// frames cuts what r brings, and returns the envelopes and the error behind the last.
func frames(r io.Reader) (docs []string, err error) {
	var f framer
	f.reset(r)
	for {
		doc, err := f.next()
		if err != nil {
			return docs, err
		}
		docs = append(docs, string(doc))
	}
}

func TestABodyIsCutIntoEnvelopesHoweverItArrives(t *testing.T) {
	decl := `<?xml version="1.0" encoding="utf-8"?>`
	tricky := `<Envelope a="</Envelope>" b='>'><!-- </Envelope> --><![CDATA[</Envelope>]]><?pi </Envelope> ?><Envelope/>&gt;</Envelope>`
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"one":                        {small, []string{small}},
		"two with declarations":      {decl + small + decl + small, []string{small, small}},
		"two, declared once":         {decl + small + small, []string{small, small}},
		"white space and BOMs":       {"\xef\xbb\xbf" + decl + "\r\n" + small + " \n\xef\xbb\xbf\t" + small + "\n", []string{small, small}},
		"comments between":           {small + "<!-- x -->" + small + "<!---->", []string{small, small}},
		"end tags that are none":     {tricky + small, []string{tricky, small}},
		"an empty envelope":          {`<Envelope/>` + small, []string{`<Envelope/>`, small}},
		"single quotes":              {`<?xml version='1.0' encoding='UTF-8'?>` + small, []string{small}},
		"nothing":                    {"", nil},
		"white space alone":          {" \n", nil},
		"a sample of Microsoft's":    {sample(t, "04"), []string{sample(t, "04")[strings.Index(sample(t, "04"), "<s:Env"):]}},
		"an error, then the success": {sample(t, "05") + sample(t, "33"), nil},
	} {
		for how, r := range map[string]io.Reader{
			"at once": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in)), "in halves": iotest.HalfReader(strings.NewReader(c.in)),
			"with its end": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			docs, err := frames(r)
			if err != io.EOF {
				t.Errorf("%s, %s: %v", name, how, err)
			}
			for i := range docs {
				docs[i] = strings.TrimSpace(docs[i])
			}
			for i := range c.want {
				c.want[i] = strings.TrimSpace(c.want[i])
			}
			if c.want != nil && !slices.Equal(docs, c.want) || c.want == nil && strings.Contains(name, "error") && len(docs) != 2 {
				t.Errorf("%s, %s: got %q", name, how, docs)
			}
		}
	}
}

func TestAnEnvelopeIsHandedOutBeforeTheNextByteIsNeeded(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		w.Write([]byte(small)) // and then nothing: the stream waits
	}()
	var f framer
	f.reset(r)
	if doc, err := f.next(); err != nil || string(doc) != small {
		t.Errorf("%q, %v", doc, err)
	}
}

func TestWhatIsNoEnvelopeIsRefusedAtOnce(t *testing.T) {
	for in, want := range map[string]string{
		"<html><body>Sign in</body></html>": "no SOAP envelope",
		"OK":                                "no SOAP envelope",
		"<![CDATA[x]]>":                     "no SOAP envelope",
		"\xff\xfe<\x00s\x00":                "UTF-16",
		"\x00<\x00s":                        "UTF-16",
		"<\x00s\x00":                        "UTF-16",
		`<?xml version="1.0" encoding="utf-16"?>` + small: "UTF-16",
		`<?xml version="1.0" encoding="iso-8859-1"?><a/>`: "not UTF-8",
		`<!DOCTYPE Envelope [<!ENTITY a "b">]>` + small:   "no SOAP envelope: it begins with a document type",
		"<!-- x --><!doctype html><html>":                 "no SOAP envelope: it begins with a document type",
		"< Envelope/>":                                    "no SOAP envelope",
		`<Envelope><!DOCTYPE x></Envelope>`:               "DTD",
		`</Envelope>`:                                     "without a start tag",
		small[:len(small)-3]:                              "too early",
		`<Envelope a="`:                                   "too early",
		"\xef\xbb":                                        "too early",
		"<Envelope>" + strings.Repeat("x", 4<<20):         "larger than",
		`<Envelope a="` + strings.Repeat("x", 4<<20):      "larger than",
	} {
		slow := iotest.OneByteReader(strings.NewReader(in))
		if len(in) > 4<<20 {
			slow = iotest.HalfReader(strings.NewReader(in)) // byte by byte takes seconds with the race detector
		}
		for _, r := range []io.Reader{strings.NewReader(in), slow} {
			docs, err := frames(r)
			if len(docs) != 0 || !isContent(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%.50q: %d envelopes, %v; want %q", in, len(docs), err, want)
			}
		}
	}
}

func TestEveryDeclarationOfUTF8IsTaken(t *testing.T) {
	for _, d := range []string{
		`<?xml version="1.0" encoding="utf-8" standalone="yes"?>`, `<?xml version="1.0" encoding="UTF-8" standalone="no" ?>`,
		`<?xml version='1.0' encoding = 'utf-8' standalone='yes'?>`, `<?xml version="1.0" standalone="yes"?>`, `<?xml version="1.1" encoding="utf8"?>`,
		"<?xml version=\"1.0\"\n\tencoding=\"us-ascii\"\n\tstandalone=\"yes\"\n?>", `<?xml version="1.0" encoding=""?>`, "<?xml?>",
	} {
		for _, in := range []string{d + small, d + "\r\n" + small, "\xef\xbb\xbf" + d + small, small + d + small} {
			docs, err := frames(strings.NewReader(in))
			if err != io.EOF || len(docs) == 0 || docs[0] != small {
				t.Errorf("%s: %q, %v", in, docs, err)
			}
		}
	}
}

func TestALessThanThatBeginsNoTagEndsNoEnvelope(t *testing.T) {
	one, two := `<Envelope><a>1 < 2</a></Envelope>`, `<Envelope><a>I <3 </a><b>x <- y <= z</b></Envelope>`
	for _, r := range []io.Reader{strings.NewReader(one + two), iotest.OneByteReader(strings.NewReader(one + two))} {
		if docs, err := frames(r); err != io.EOF || !slices.Equal(docs, []string{one, two}) {
			t.Errorf("%q, %v", docs, err)
		}
	}
}

func TestAReadersErrorIsNotTakenForTheContents(t *testing.T) {
	broken := errors.New("reset by peer")
	if _, err := frames(io.MultiReader(strings.NewReader(small[:9]), iotest.ErrReader(broken))); err != broken || isContent(err) {
		t.Errorf("got %v", err)
	}
	if docs, err := frames(io.MultiReader(strings.NewReader(small), iotest.ErrReader(broken))); err != broken || len(docs) != 1 {
		t.Errorf("got %d, %v", len(docs), err)
	}
}

// endless brings the same envelope for ever.
type endless struct {
	doc string
	n   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.doc[e.n:])
	e.n = (e.n + n) % len(e.doc)
	return n, nil
}

func TestTheBufferStaysWithinItsBounds(t *testing.T) {
	large := `<Envelope a="` + strings.Repeat("x", 1<<20) + `"/>`
	var f framer
	f.reset(io.MultiReader(strings.NewReader(large), io.LimitReader(&endless{doc: small + " <!-- between -->\n"}, 1<<20)))
	for i := 0; ; i++ {
		_, err := f.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if errors.Is(err, errEOF) { // the limit cut the last
				break
			}
			t.Fatal(err)
		}
		if cap(f.buf) > 4<<20 {
			t.Fatalf("%d bytes", cap(f.buf))
		}
		if i > 200000 {
			t.Fatal("no end")
		}
	}
	f.reset(nil)
	if cap(f.buf) > keptBuffer {
		t.Errorf("%d bytes are kept after a large envelope", cap(f.buf))
	}
}

// FuzzFramer holds that no body makes the framer panic, and that it cuts the same however the body arrives.
func FuzzFramer(f *testing.F) {
	for _, s := range []string{small, small + small, `<?xml version="1.0" encoding="utf-8"?>` + small, "\xef\xbb\xbf" + small, `<Envelope a='>'><!-- --><![CDATA[]]></Envelope>`, "<!DOCTYPE x>", `<?xml?><`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		whole, err := frames(bytes.NewReader(body))
		for _, r := range []io.Reader{iotest.OneByteReader(bytes.NewReader(body)), iotest.HalfReader(bytes.NewReader(body)), iotest.DataErrReader(bytes.NewReader(body))} {
			again, err2 := frames(r)
			if !slices.Equal(whole, again) || err.Error() != err2.Error() {
				t.Fatalf("at once %q %v, otherwise %q %v", whole, err, again, err2)
			}
		}
		for _, doc := range whole { // and each is one document
			s := &scanner{doc: []byte(doc)}
			for s.child(0) {
			}
			if s.err == nil && s.depth != 0 {
				t.Fatalf("%q ends at depth %d", doc, s.depth)
			}
		}
	})
}

func TestALargeBufferDoesNotWaitForTheNextEnvelope(t *testing.T) {
	for size, kept := range map[int]bool{64 << 10: true, 64<<10 + 1: false} {
		f := &framer{buf: make([]byte, size)}
		f.reset(strings.NewReader(""))
		if (f.buf != nil) != kept {
			t.Errorf("of %d bytes: kept is %v", size, f.buf != nil)
		}
		s := &scanner{buf: make([]byte, size)}
		s.reset(nil)
		if (s.buf != nil) != kept {
			t.Errorf("text of %d bytes: kept is %v", size, s.buf != nil)
		}
	}
	large := "<Envelope>" + strings.Repeat("x", 100<<10) + "</Envelope>"
	for doc, kept := range map[string]bool{large: false, "<Envelope>" + strings.Repeat("x", 20<<10) + "</Envelope>": true} {
		f := &framer{}
		f.reset(io.MultiReader(strings.NewReader(doc), strings.NewReader("<Envelope/>")))
		for range 2 {
			if _, err := f.next(); err != nil {
				t.Fatal(err)
			}
		}
		if (len(f.buf) > firstBuffer) != kept {
			t.Errorf("after an envelope of %d bytes the next one waits in %d", len(doc), len(f.buf))
		}
	}
}

// idle is a reader that brings nothing and says nothing.
type idle struct{ reads int }

func (r *idle) Read([]byte) (int, error) { r.reads++; return 0, nil }

func TestAReaderThatBringsNothingIsGivenUp(t *testing.T) {
	r := &idle{}
	f := &framer{}
	f.reset(r)
	if _, err := f.next(); !errors.Is(err, io.ErrNoProgress) || r.reads != 100 {
		t.Errorf("after %d reads: %v", r.reads, err)
	}
	// For once it may: the rest comes later.
	f.reset(io.MultiReader(strings.NewReader("<Envelope>"), iotest.DataErrReader(strings.NewReader("</Envelope>"))))
	if _, err := f.next(); err != nil {
		t.Error(err)
	}
}

func TestAMarkAtTheEndOfAStreamIsNoDocument(t *testing.T) {
	f := &framer{}
	f.reset(strings.NewReader("<Envelope/>\r\n\xef\xbb\xbf"))
	if _, err := f.next(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.next(); err != io.EOF {
		t.Errorf("a byte order mark at the end: %v", err)
	}
	f.reset(strings.NewReader("< s:Envelope></s:Envelope>"))
	if _, err := f.next(); !errors.As(err, new(foreign)) {
		t.Errorf("a tag without a name: %v", err)
	}
}
