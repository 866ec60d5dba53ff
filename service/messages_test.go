package service_test

// The messages of testdata/messages go the real way, from the simulator over TLS and EWS into alerts, and what a phone is
// shown of each is compared with the golden file beside it.

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/simulator"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil { // most of their time these tests wait
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// A golden file is the same whenever and wherever it is written.
const (
	messages = "../testdata/messages"
	mailbox  = "user0001@contoso.example"
	record   = "record"
	itemID   = "AAMkAD="
)

var received = time.Date(2026, 11, 22, 9, 0, 5, 0, time.UTC)

// golden is a golden file.
type golden struct {
	Read    told            `json:"read"` // what EWS told of the message
	Subject json.RawMessage `json:"sender_subject"`
	Preview json.RawMessage `json:"sender_subject_preview"` // here and below the text alone: the rest is the same
	Generic json.RawMessage `json:"generic"`
}

type told struct {
	Name       string `json:"name"`
	Address    string `json:"address"`
	Subject    string `json:"subject"`
	Preview    string `json:"preview"`
	Class      string `json:"class"`
	Importance string `json:"importance,omitempty"`
	Private    bool   `json:"private,omitempty"`
	Sent       string `json:"sent"`
	InternetID string `json:"internet_id"`
}

func TestHardMessagesShowWhatTheirGoldenFilesSay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(messages, "*.eml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no messages: %v", err)
	}
	began := time.Now().Add(-time.Second) // EWS tells whole seconds
	read := readThem(t, files)
	for i, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".eml"), func(t *testing.T) {
			m := read[i]
			g := golden{Read: told{Name: m.From.Name, Address: m.From.Address, Subject: m.Subject, Preview: m.Preview, Class: m.Class,
				Importance: [...]string{"", "low", "high"}[m.Importance], Private: m.Private, Sent: m.Sent.Format(time.RFC3339), InternetID: m.InternetID}}
			if m.Sent.After(began) && m.Sent.Before(began.Add(time.Hour)) {
				g.Read.Sent, m.Sent = "no date: when it came in", received
			}
			m.ItemID = itemID
			g.Subject = payload(t, m, alerts.SenderSubject)
			g.Preview = textOf(t, payload(t, m, alerts.SenderSubjectPreview))
			g.Generic = textOf(t, payload(t, m, alerts.Generic))
			compare(t, strings.TrimSuffix(file, ".eml")+".alert.json", readable(t, g))
		})
	}
}

func TestEveryHardMessageIsExplained(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(messages, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for line := range strings.Lines(string(readme)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 && !strings.ContainsAny(cells[1], "`") {
			want = append(want, strings.Split(strings.TrimSpace(cells[1]), ", ")...)
		}
	}
	files, err := filepath.Glob(filepath.Join(messages, "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if message, ok := strings.CutSuffix(name, ".eml"); ok {
			got = append(got, message)
			if !slices.Contains(want, message) {
				t.Errorf("README.md does not say what %s is", name)
			}
		}
	}
	for _, file := range files {
		if message, ok := strings.CutSuffix(filepath.Base(file), ".alert.json"); ok && !slices.Contains(got, message) {
			t.Errorf("%s has no message", file)
		}
	}
}

// readThem delivers the messages and reads them as the listener does. A listing has to know each by the same key.
func readThem(t *testing.T, files []string) (read []*mail.Message) {
	s, err := simulator.Start(t.Context(), simulator.Options{Addresses: []string{mailbox}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	authorised := auth.Basic{Username: s.Username, Password: auth.Secret(s.Password)}.RoundTripper(auth.Hosts{URLs: []string{s.EWSURL}}, proxy.Settings{Roots: s.RootCAs()}, 1)
	t.Cleanup((&http.Client{Transport: authorised}).CloseIdleConnections)
	client := ews.New(ews.Options{HTTP: authorised, UserAgent: "mailbell/test"})
	target := ews.Target{URL: s.EWSURL, Mailbox: mailbox}

	var ids []string
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Deliver(mailbox, received, raw)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	keys := map[string]mail.Key{}
	for some := range slices.Chunk(ids, ews.MaxItems) {
		items, _, err := client.GetItem(t.Context(), target, some)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if item.Err != nil || item.Message.ItemID != item.ID {
				t.Fatalf("%s: %v, item %q, want %q", files[len(read)], item.Err, item.Message.ItemID, item.ID)
			}
			read = append(read, item.Message)
			keys[item.ID] = mail.Secret{}.Key(record, item.Message)
		}
	}
	listing, err := client.FindItem(t.Context(), target, 0, len(ids))
	if err != nil || len(listing.Messages) != len(ids) {
		t.Fatalf("%d messages listed, want %d: %v", len(listing.Messages), len(ids), err)
	}
	for _, m := range listing.Messages {
		if (mail.Secret{}).Key(record, &m) != keys[m.ItemID] {
			t.Errorf("%s has one key in the listing and another when it is read", files[slices.Index(ids, m.ItemID)])
		}
	}
	return read
}

func payload(t *testing.T, m *mail.Message, content alerts.Content) []byte {
	t.Helper()
	return alerts.Payload(alerts.Alert{Message: m, Keys: []mail.Key{mail.Secret{}.Key(record, m)}, Device: "phone", Source: mail.EWS, Thread: "thread"}, content)
}

// textOf is what the payload shows.
func textOf(t *testing.T, payload []byte) json.RawMessage {
	t.Helper()
	var p struct {
		APS struct {
			Alert json.RawMessage `json:"alert"`
		} `json:"aps"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	return p.APS.Alert
}

// readable writes the golden file so that what cannot be seen, or would turn the text around it, stands in it as \uXXXX.
// It is the same JSON.
func readable(t *testing.T, g golden) []byte {
	t.Helper()
	var b, out bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(g); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		joiner := r == '\u200d' // emoji are seen as what they are
		if r != '\n' && !joiner && (unicode.In(r, unicode.C, unicode.Other_Default_Ignorable_Code_Point) || unicode.IsSpace(r) && r != ' ') {
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04x`, unit)
			}
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes()
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (- want, + got; -update writes it anew, after a look with the eyes of the one who gets it):\n%s", file, diff)
	}
}
