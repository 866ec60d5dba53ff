package auth

import (
	"strings"
	"testing"

	"github.com/mailbell/mailbell/internal/credential"
)

func TestAnUnknownAuthenticationMethodIsAnError(t *testing.T) {
	for _, method := range []string{"", "kerberos", "Basic"} {
		c, err := New(credential.Description{Method: method, Username: "svc-bell", Secret: "hunter2"}, TokenService{})
		if c != nil || err == nil || !strings.Contains(err.Error(), `"`+method+`"`) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, %v", method, c, err)
		}
	}
}

func TestADescriptionThatLacksWhatItsMethodNeedsIsAnError(t *testing.T) {
	at := TokenService{Authority: "https://login.microsoftonline.com", Scope: "https://outlook.office365.com/.default"}
	for _, method := range []string{credential.ClientSecret, credential.Certificate, credential.ListenerAccount} {
		for _, d := range []credential.Description{{Method: method}, {Method: method, Tenant: "contoso.com", ClientID: "11111111-2222-3333-4444-555555555555"}} {
			if c, err := New(d, at); c != nil || err == nil {
				t.Errorf("%s of nothing: %v, %v", method, c, err)
			}
		}
	}
}
