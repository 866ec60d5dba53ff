package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/subscriptions"
)

// line is a line of an import.
func line(id string) string {
	return strings.Replace(enrolment, "{", fmt.Sprintf(`{"id": %q, `, id), 1) + "\n"
}

// ndjson sends lines, and returns the answers and the sum.
func (d *backend) ndjson(t *testing.T, body string) (answers []ImportLine, end ImportEnd) {
	t.Helper()
	a := d.ask(t, enrolToken, "POST", "/v1/devices:import", body)
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%d %s", a.StatusCode, a.Header)
	}
	return toldOf(t, a.Body)
}

func toldOf(t *testing.T, r io.Reader) (answers []ImportLine, end ImportEnd) {
	t.Helper()
	var list []json.RawMessage
	for in := json.NewDecoder(r); in.More(); {
		var one json.RawMessage
		if err := in.Decode(&one); err != nil {
			t.Fatal(err)
		}
		list = append(list, one)
	}
	if len(list) == 0 || !strings.Contains(string(list[len(list)-1]), `"lines"`) {
		t.Fatalf("the answer ends without its sum: %s", list)
	}
	answers = make([]ImportLine, len(list)-1)
	var err error
	for i := range answers {
		err = errors.Join(err, json.Unmarshal(list[i], &answers[i]))
	}
	if err = errors.Join(err, json.Unmarshal(list[len(list)-1], &end)); err != nil {
		t.Fatal(err)
	}
	return answers, end
}

func TestAnImportAnswersEachLineAndCanBeRunAgain(t *testing.T) {
	d := newBackend(t)
	var body strings.Builder
	for i := range 3000 {
		body.WriteString(line(fmt.Sprintf("phone-%04d", i)))
	}
	for n, want := range []ImportEnd{{Lines: 3000, Created: 3000}, {Lines: 3000, Changed: 3000}} {
		answers, end := d.ndjson(t, body.String())
		if end != want || len(answers) != 3000 || len(d.devices) != 3000 {
			t.Errorf("%d: %+v, %d answers, %d devices", n, end, len(answers), len(d.devices))
		}
		for i, a := range answers {
			if a.Line != i+1 || a.ID != fmt.Sprintf("phone-%04d", i) || a.Status != []int{201, 200}[n] {
				t.Fatalf("answer %d is %+v", i, a)
			}
		}
	}
}

func TestAWrongLineOfAnImportIsRefusedAndNoOther(t *testing.T) {
	d := newBackend(t)
	answers, end := d.ndjson(t, line("a")+"\n"+`{"id": "b"}`+"\nnot JSON\n"+enrolment+"\n"+line("my phone")+line("..")+line(".")+line("...")+strings.TrimSpace(line("c")))
	if want := (ImportEnd{Lines: 9, Created: 3, Refused: 6}); end != want {
		t.Errorf("%+v", end)
	}
	var got []string
	for _, a := range answers {
		one := fmt.Sprint(a.Line, " ", a.ID, " ", a.Status)
		for _, e := range a.Errors {
			one += " " + e.Field + " " + e.Code
		}
		if (a.Detail == "") != (a.Status < 400) {
			t.Errorf("%+v", a)
		}
		got = append(got, one)
	}
	want := []string{"1 a 201", "3 b 422 mailbox required token required", "4  400", "5  422 id required", "6  422 id invalid", "7  422 id invalid", "8  422 id invalid", "9 ... 201", "10 c 201"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// PowerShell writes files with a byte order mark, and ends of lines of its own.
func TestAFileThatWindowsWroteIsImported(t *testing.T) {
	d := newBackend(t)
	if _, end := d.ndjson(t, "\ufeff"+strings.ReplaceAll(line("a")+line("b"), "\n", "\r\n")); end != (ImportEnd{Lines: 2, Created: 2}) {
		t.Errorf("%+v", end)
	}
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/c", "\ufeff"+enrolment), 201, "")
}

func TestTheLastLineOfADeviceCounts(t *testing.T) {
	d := newBackend(t)
	var body strings.Builder
	for i := range 500 {
		body.WriteString(strings.Replace(line("phone"), "ann@", fmt.Sprintf("ann%d@", i), 1))
	}
	d.ndjson(t, body.String())
	if got := d.devices["phone"].Mailbox; got != "ann499@contoso.com" {
		t.Errorf("it is enrolled for %s", got)
	}
}

func TestAnImportStopsWhereTheStateIsAway(t *testing.T) {
	d := newBackend(t)
	d.refuse = errors.New("connection refused")
	const all = 20_000
	_, end := d.ndjson(t, strings.Repeat(line("phone"), all))
	if end.Stopped != errState.Detail || end.Refused != end.Lines || end.Lines == 0 || end.Lines > 2*maxAhead+importers {
		t.Errorf("%+v", end)
	}
	d.refuse, d.panics = nil, true
	if answers, end := d.ndjson(t, strings.Repeat(line("phone"), all)); end.Stopped != errPanic.Detail || answers[0].Status != http.StatusInternalServerError {
		t.Errorf("after a panic: %+v", end)
	}
}

func TestAnImportThatHasEndedEarlyIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		d.refuse, d.pair = errors.New("timeout"), make(chan struct{}) // several wait for the state at the same time
		var all strings.Builder
		for i := range 1000 {
			all.WriteString(line(fmt.Sprintf("phone-%d", i)))
		}
		d.ndjson(t, all.String())
		if n := d.log.FilterMessage("an import has ended early").Len(); n != 1 {
			t.Errorf("logged %d times", n)
		}
	})
}

func TestALineOfAnImportIsBounded(t *testing.T) {
	d := newBackend(t)
	_, end := d.ndjson(t, line("a")+strings.Repeat("x", maxBody+1)+"\n"+line("b"))
	if end.Stopped == "" || end.Created != 1 || end.Lines != 1 {
		t.Errorf("%+v", end)
	}
}

func TestAnotherTypeThanNDJSONIsRefused(t *testing.T) {
	d := newBackend(t)
	for kind, want := range map[string]int{"application/x-ndjson; charset=utf-8": 200, "application/jsonl": 200, "text/csv": 415, "multipart/form-data": 415, "/": 415} {
		is(t, d.ask(t, enrolToken, "POST", "/v1/devices:import", line("a"), "Content-Type", kind), want, "")
	}
}

// The answers come while the body is still being sent, and a third import has to wait.
func TestAnImportIsAnsweredWhileItIsSent(t *testing.T) {
	d := newBackend(t)
	srv := httptest.NewServer(d.handler)
	defer srv.Close()
	defer srv.Client().CloseIdleConnections()
	send := func() (*io.PipeWriter, *http.Response) {
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v1/devices:import", r)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+enrolToken)
		go func() { _, _ = io.WriteString(w, line("first")) }()
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return w, resp
	}
	var open []*io.PipeWriter
	for range maxImports {
		w, resp := send()
		defer resp.Body.Close()
		open = append(open, w)
		first, err := bufio.NewReader(resp.Body).ReadString('\n')
		if err != nil || !strings.Contains(first, `"first"`) {
			t.Fatalf("%q, %v", first, err)
		}
	}
	w, resp := send()
	refusal, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	w.Close()
	if err != nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%d, %v", resp.StatusCode, err)
	}
	documented(t, "POST", "/v1/devices:import", resp, refusal)
	for _, w := range open {
		w.CloseWithError(errors.New("the client goes away"))
	}
}

func TestAnExportHasTokensForAnAdministratorWhoAsks(t *testing.T) {
	d := newBackend(t)
	const all = maxLimit + 5
	for i := range all {
		id := fmt.Sprintf("phone-%04d", i)
		d.devices[id] = subscriptions.Device{ID: id, Mailbox: "ann@contoso.com", Token: deviceHex, Topic: "com.contoso.mail", Environment: "sandbox", Exchange: "hq"}
	}
	export := func(token, query string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, "/v1/devices:export"+query, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, token := range []string{enrolToken, readToken, testToken} {
		if status, _ := export(token, "?tokens=true"); status != http.StatusForbidden {
			t.Errorf("%s: %d", token, status)
		}
	}
	if status, _ := export(adminToken, "?tokens=yes"); status != http.StatusUnprocessableEntity {
		t.Errorf("%d", status)
	}
	if status, text := export(readToken, ""); status != 200 || strings.Count(text, "\n") != all || strings.Contains(text, "token") {
		t.Errorf("%d: %d lines, %.300s", status, strings.Count(text, "\n"), text)
	}
	_, text := export(adminToken, "?tokens=true")
	clear(d.devices)
	if answers, end := d.ndjson(t, text); end.Created != all || !slices.ContainsFunc(answers, func(a ImportLine) bool { return a.ID == "phone-1004" }) {
		t.Errorf("taken back: %+v", end)
	}
	if got := d.devices["phone-0000"]; got.Token != deviceHex || got.Exchange != "hq" || got.Environment != "sandbox" {
		t.Errorf("%+v", got)
	}
}

func FuzzImport(f *testing.F) {
	f.Add(line("a") + line("b"))
	f.Add("{}\n\n[1]\n" + line("a")[:40])
	f.Fuzz(func(t *testing.T, body string) {
		d := newBackend(t)
		answers, end := d.ndjson(t, body)
		if end.Lines != len(answers) || end.Created+end.Changed+end.Refused != end.Lines || len(d.devices) > end.Lines {
			t.Errorf("%+v, %d answers, %d devices", end, len(answers), len(d.devices))
		}
	})
}

// A client that asks whether it may send its lines is told so before the answer begins: by a final status some take the call for refused, and
// send none (RFC 9110 section 10.1.1).
func TestAClientThatAsksFirstIsToldToSendItsLines(t *testing.T) {
	d := newBackend(t)
	address, stop, done := serve(t, d.handler, nil)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	lines, in := line("a"), bufio.NewReader(c)
	_, err = fmt.Fprintf(c, "POST /v1/devices:import HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", enrolToken, len(lines))
	if err != nil {
		t.Fatal(err)
	}
	if first, err := http.ReadResponse(in, nil); err != nil || first.StatusCode != http.StatusContinue {
		t.Errorf("the first answer: %v, %v", first, err)
	}
	if _, err := io.WriteString(c, lines); err != nil {
		t.Fatal(err)
	}
	a, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, end := toldOf(t, a.Body); end.Created != 1 || a.StatusCode != http.StatusOK {
		t.Errorf("%d: %+v", a.StatusCode, end)
	}
	_, _ = a.Body.Close(), c.Close()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
