package ews

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestTheAnswerOfTheInboxNamesTheServerOfItsMailbox(t *testing.T) {
	const cookie = "X-BackEndOverrideCookie=EX02.contoso.com~1941996295; path=/; secure; HttpOnly"
	folder := response("GetFolder", success("GetFolder", `<m:Folders><t:Folder><t:FolderId Id="AQApA=" ChangeKey="AQAAAB"/></t:Folder></m:Folders>`))
	for name, c := range map[string]struct {
		want   string
		header []string
	}{
		"the header counts first": {"ex01.contoso.com", []string{"X-CalculatedBETarget", "ex01.contoso.com", "Set-Cookie", cookie}},
		"the cookie":              {"EX02.contoso.com", []string{"Set-Cookie", cookie}},
		"a 2010":                  {"", []string{"Set-Cookie", "exchangecookie=ddb8c383; path=/"}},
		"no name of a host":       {"", []string{"X-CalculatedBETarget", "ex01.contoso.com/EWS <b>"}},
		"no name in the cookie":   {"", []string{"Set-Cookie", "X-BackEndOverrideCookie=EX 02~1; path=/"}},
		"a name without an end":   {"EX02.contoso.com", []string{"X-CalculatedBETarget", strings.Repeat("ex01.", 10_000) + "com", "Set-Cookie", cookie}},
	} {
		a, err := answers(http.StatusOK, folder, c.header...).GetFolder(t.Context(), target)
		if err != nil || a.Server() != c.want {
			t.Errorf("%s: %q, %v; want %q", name, a.Server(), err, c.want)
		}
	}
}

func TestOnlyAMailboxThatIsNotHereIsElsewhere(t *testing.T) {
	for _, row := range Rows() {
		if !isCode(row.Code) {
			continue
		}
		_, err := answers(http.StatusOK, response("GetFolder", failure("GetFolder", row.Code, row.Text, ""))).GetFolder(t.Context(), target)
		if f := fault.Of(err); f.Code != row.Code || f.Elsewhere != (row.Code == "ErrorNonExistentMailbox" || row.Code == "ErrorCannotFindUser") {
			t.Errorf("%s: elsewhere is %v: %v", row.Code, f.Elsewhere, err)
		}
	}
}
