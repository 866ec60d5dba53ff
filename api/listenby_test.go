package api

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/subscriptions"
)

func TestMailboxesMoveByTheCommandOfAnAdministratorWhichIsLogged(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, adminToken, "PUT", "/v1/exchange/online/listen_by", `{"listen_by": "graph"}`), 200,
		`{"exchange": "online", "listen_by": "graph", "mailboxes": 7}`)
	is(t, d.ask(t, adminToken, "PUT", "/v1/exchange/online/listen_by", `{"listen_by": "streaming", "mailbox": "Ann@Contoso.com"}`), 200, "")
	want := []Move{{"online", "graph", ""}, {"online", "streaming", "ann@contoso.com"}}
	if diff := cmp.Diff(want, d.moves); diff != "" {
		t.Error(diff)
	}
	lines := d.log.FilterMessage("mailboxes are listened to another way").All()
	if len(lines) != 2 || lines[1].ContextMap()["client"] != "operator" || lines[1].ContextMap()["mailbox"] != "ann@contoso.com" {
		t.Errorf("the log has %v", lines)
	}
}

func TestACommandToMoveThatIsWrongOrCannotBeObeyedIsAProblem(t *testing.T) {
	for body, want := range map[string]int{
		`{}`: 422, `{"listen_by": "pull"}`: 422, `{"listen_by": 1}`: 422, `{"listen_by": "graph", "mailbox": "x"}`: 422, `{"listen_by": "graph", "all": true}`: 422, `[]`: 422, ``: 400,
	} {
		d := newBackend(t)
		is(t, d.ask(t, adminToken, "PUT", "/v1/exchange/online/listen_by", body), want, "")
		if len(d.moves) > 0 {
			t.Errorf("%s was obeyed", body)
		}
	}
	for want, err := range map[int]error{
		404: ErrNoExchange, 409: NotMoved("no consent"), 503: errors.New("disk full"),
		422: &subscriptions.FieldError{Field: "mailbox", Code: "unknown", Detail: "it is not there"},
	} {
		d := newBackend(t)
		d.unmoved = err
		is(t, d.ask(t, adminToken, "PUT", "/v1/exchange/online/listen_by", `{"listen_by": "graph"}`), want, "")
	}
}
