package ews

import (
	"bytes"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
)

var update = flag.Bool("update", false, "write the golden requests of testdata/ews")

// requests returns what the client sends, for every operation.
func requests(t *testing.T, version string) map[string][]byte {
	t.Helper()
	var last []byte
	d := &Dialect{}
	d.old.Store(version == version2010)
	c := New(Options{Dialect: d, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		last, _ = io.ReadAll(r.Body)
		return nil, io.ErrUnexpectedEOF
	})})
	sent := map[string][]byte{}
	note := func(name string, err error) {
		if err == nil {
			t.Fatalf("%s did not ask", name)
		}
		sent[name] = last
	}
	tricky := `a&b<c>"d'` + "\x01"
	_, _, err := c.Subscribe(t.Context(), target)
	note("subscribe", err)
	_, _, err = c.Subscribe(t.Context(), Target{URL: target.URL})
	note("subscribe-unimpersonated", err)
	_, _, _, err = c.SubscribePush(t.Context(), target, Push{URL: "https://mailbell.contoso.example/callbacks/ews/", Secret: "c2VjcmV0", Frequency: 5 * time.Minute})
	note("subscribe-push", err)
	note("unsubscribe", c.Unsubscribe(t.Context(), target, "JgBjbzFwcjA2bWIyMjI="))
	_, err = c.GetStreamingEvents(t.Context(), target, []string{"JgBjbzFwcjA2bWIyMjI=", tricky}, 10*time.Minute)
	note("getstreamingevents", err)
	_, _, err = c.GetItem(t.Context(), target, []string{"AAMkADkz", tricky})
	note("getitem", err)
	_, err = c.FindItem(t.Context(), target, 100, 50)
	note("finditem", err)
	_, err = c.GetFolder(t.Context(), target)
	note("getfolder", err)
	_, err = c.Send(t.Context(), target, "mailbell canary "+tricky, "Sent by mailbell.")
	note("createitem", err)
	return sent
}

func TestRequestsAreAsTheyWere(t *testing.T) {
	for name, got := range requests(t, version2013) {
		file := filepath.Join("..", "testdata", "ews", "request-"+name+".xml")
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.TrimSpace(want), got) {
			t.Errorf("%s changed (go test -update):\n%s", name, got)
		}
	}
}

func TestRequestsValidateAgainstTheOfficialSchema(t *testing.T) {
	schema := preparedSchema(t)
	dir := t.TempDir()
	args := []string{"--noout", "--schema", schema}
	for _, version := range []string{version2013, version2010} {
		for name, request := range requests(t, version) {
			doc := etree.NewDocument()
			if err := doc.ReadFromBytes(request); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			headers, bodies := doc.FindElements("/soap:Envelope/soap:Header/*"), doc.FindElements("/soap:Envelope/soap:Body/*")
			if len(headers) != 2 && name != "subscribe-unimpersonated" || len(bodies) != 1 {
				t.Fatalf("%s has %d headers and %d bodies", name, len(headers), len(bodies))
			}
			for _, part := range append(headers, bodies...) {
				file := filepath.Join(dir, name+"-"+part.Tag+version+".xml")
				alone := part.Copy()
				alone.CreateAttr("xmlns:t", "http://schemas.microsoft.com/exchange/services/2006/types")
				alone.CreateAttr("xmlns:m", "http://schemas.microsoft.com/exchange/services/2006/messages")
				if err := etree.NewDocumentWithRoot(alone).WriteToFile(file); err != nil {
					t.Fatal(err)
				}
				args = append(args, file)
			}
			if preview := bytes.Contains(request, []byte("item:Preview")); preview != (name == "getitem" && version == version2013) {
				t.Errorf("%s of %q asks for a preview: %v", name, version, preview)
			}
		}
	}
	if out, err := exec.CommandContext(t.Context(), "xmllint", args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// preparedSchema returns messages.xsd in a form that xmllint takes: the import of the xml namespace names no file.
func preparedSchema(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("EWS_SCHEMA")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "ews-schema")
	}
	if _, err := os.Stat(filepath.Join(dir, "messages.xsd")); err != nil {
		t.Skipf("the official schema is not at %s (set EWS_SCHEMA): requests are not validated", dir)
	}
	if _, err := exec.LookPath("xmllint"); err != nil {
		t.Skip("xmllint is not installed: requests are not validated")
	}
	to := t.TempDir()
	for _, name := range []string{"messages.xsd", "types.xsd", "xml.xsd"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		const xmlImport = `<xs:import namespace="http://www.w3.org/XML/1998/namespace"`
		s := strings.Replace(string(b), xmlImport, xmlImport+` schemaLocation="xml.xsd"`, 1)
		if err := os.WriteFile(filepath.Join(to, name), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(to, "messages.xsd")
}

func TestAStreamAsksForWholeMinutesWithinTheSchema(t *testing.T) {
	for timeout, want := range map[time.Duration]string{
		0: ">1<", time.Second: ">1<", time.Minute: ">1<", time.Minute + 1: ">2<", 29*time.Minute + 59*time.Second: ">30<", 30 * time.Minute: ">30<", time.Hour: ">30<",
	} {
		var sent []byte
		c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent, _ = io.ReadAll(r.Body)
			return nil, io.EOF
		})})
		c.GetStreamingEvents(t.Context(), target, []string{"a"}, timeout)
		if !bytes.Contains(sent, []byte("ConnectionTimeout"+want)) {
			t.Errorf("%v: %s", timeout, sent)
		}
	}
}

func TestMoreThanTheServerTakesIsNotAsked(t *testing.T) {
	c := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("asked")
		return nil, io.EOF
	})})
	for _, n := range []int{0, MaxItems + 1} {
		if _, _, err := c.GetItem(t.Context(), target, make([]string, n)); err == nil {
			t.Errorf("%d items", n)
		}
	}
	for _, n := range []int{0, MaxSubscriptions + 1} {
		if _, err := c.GetStreamingEvents(t.Context(), target, make([]string, n), time.Minute); err == nil {
			t.Errorf("%d subscriptions", n)
		}
	}
}

func TestWhatGoesIntoARequestIsEscaped(t *testing.T) {
	for s, want := range map[string]string{
		"AAMkAD+/= ~": "AAMkAD+/= ~", `a b&<>"'`: "a b&amp;&lt;&gt;&#34;&#39;", "\n": "&#10;", "\x01": "\uFFFD", "\x1f": "\uFFFD", "é": "é", "\xff": "\uFFFD", "\x7f": "\x7f", "": "",
		"\uFFFE": "\uFFFD",
	} {
		var b bytes.Buffer
		escape(&b, s)
		if b.String() != want {
			t.Errorf("%q became %q, want %q", s, b.String(), want)
		}
	}
}
