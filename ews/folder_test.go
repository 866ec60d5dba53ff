package ews

import (
	"net/http"
	"testing"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestTheAnswerOfTheInboxNamesTheServerOfItsMailbox(t *testing.T) {
	const cookie = "X-BackEndOverrideCookie=EX02.contoso.com~1941996295; path=/; secure; HttpOnly"
	folder := response("GetFolder", success("GetFolder", `<m:Folders><t:Folder><t:FolderId Id="AQApA=" ChangeKey="AQAAAB"/></t:Folder></m:Folders>`))
	for want, header := range map[string][]string{
		"ex01.contoso.com": {"X-CalculatedBETarget", "ex01.contoso.com", "Set-Cookie", cookie},
		"EX02.contoso.com": {"Set-Cookie", cookie},
		"":                 {"Set-Cookie", "exchangecookie=ddb8c383; path=/"}, // a 2010
	} {
		a, err := answers(http.StatusOK, folder, header...).GetFolder(t.Context(), target)
		if err != nil || a.Server() != want {
			t.Errorf("%q, %v; want %q", a.Server(), err, want)
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
