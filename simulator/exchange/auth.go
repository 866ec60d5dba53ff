package exchange

// Who calls: by a user name and a password on premises and at the other provider, by an access token at Exchange Online.

import (
	"crypto/subtle"
	"crypto/tls"
	"net/http"
	"strings"

	"github.com/mailbell/mailbell/simulator/entra"
)

// Authentication methods of the Exchange on premises, for Options.Auth.
const (
	AuthBasic = "basic"
	AuthNTLM  = "ntlm" // offered as Negotiate too
)

// caller is who signed in.
type caller struct {
	account      string // the listener account, a mailbox's address, or the client id of an app
	impersonates bool   // may act on every mailbox
	byToken      bool
	app          bool // by an app-only token: every call says on which mailbox it acts
}

// signIn returns who sends a request. It refuses the request if nobody is signed in.
func (x *Host) signIn(w http.ResponseWriter, r *http.Request) (caller, bool) {
	signIn := x.signInByPassword
	if x.name == Online {
		signIn = x.signInByToken
	}
	who, ok := signIn(w, r)
	if !ok {
		return caller{}, false
	}
	if f, on := x.faults.On(wrongPassword, "", ""); on && f.Mailbox == "" {
		if _, hit := x.faults.Hit(wrongPassword, "", ""); hit {
			x.unauthorized(w)
			return caller{}, false
		}
	}
	return who, true
}

func (x *Host) signInByPassword(w http.ResponseWriter, r *http.Request) (caller, bool) {
	name, password, basic := r.BasicAuth()
	switch {
	case basic && x.basic:
		if who, known := x.user(name); known && subtle.ConstantTimeCompare([]byte(password), []byte(x.password.Load().(string))) == 1 {
			return who, true
		}
	case x.ntlm != nil:
		name, ok := x.ntlm.authenticate(w, r)
		if !ok {
			return caller{}, false
		}
		if who, known := x.user(name); known {
			return who, true
		}
	}
	x.unauthorized(w)
	return caller{}, false
}

// takeNTLM also accepts a sign-in by NTLM.
func (x *Host) takeNTLM(certificate tls.Certificate) error {
	server, err := newNTLM(certificate, func(user string) (name, password string, ok bool) {
		who, ok := x.user(user)
		return who.account, x.password.Load().(string), ok
	}, x.unauthorized)
	if err != nil {
		return err
	}
	if !x.protected {
		server.protection = protectionAllowed
	}
	x.ntlm = server
	return nil
}

// user finds an account by the user name that it signs in with. At the other provider that is the primary address only.
func (x *Host) user(name string) (caller, bool) {
	account := normal(name)
	if account == ListenerAddress || x.name != Other && strings.EqualFold(name, ListenerName) {
		return caller{account: ListenerName, impersonates: true}, true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.find(account)
	if b == nil || x.name == Other && b.address != account {
		return caller{}, false
	}
	return caller{account: b.address}, true
}

// signInByToken accepts an access token of Entra ID. A delegated one acts on its user's own mailbox: since February 2025 Exchange
// Online no longer lets a user impersonate.
func (x *Host) signInByToken(w http.ResponseWriter, r *http.Request) (caller, bool) {
	token, refusal := x.tokens.Check(r, x.url, x.clock.Now())
	if refusal != nil {
		x.refuseToken(w, refusal)
		return caller{}, false
	}
	if !token.Delegated {
		return caller{account: token.App, impersonates: true, byToken: true, app: true}, true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if b := x.find(normal(token.User)); b != nil {
		return caller{account: b.address, byToken: true}, true
	}
	return caller{account: normal(token.User), byToken: true}, true
}

func (x *Host) refuseToken(w http.ResponseWriter, refusal *entra.Refusal) {
	x.mu.Lock()
	x.refused++
	x.mu.Unlock()
	refusal.Write(w)
}

// unauthorized refuses a request, and says how to sign in.
func (x *Host) unauthorized(w http.ResponseWriter) {
	if x.name == Online {
		_, refusal := x.tokens.Check(&http.Request{Header: http.Header{}}, x.url, x.clock.Now())
		x.refuseToken(w, refusal)
		return
	}
	x.mu.Lock()
	x.refused++
	x.mu.Unlock()
	if x.ntlm != nil {
		offerNTLM(w.Header())
	}
	if x.basic {
		w.Header().Add("WWW-Authenticate", `Basic realm="`+x.address()+`"`)
	}
	w.Header().Set("X-Powered-By", "ASP.NET")
	w.WriteHeader(http.StatusUnauthorized)
}

// address is host:port.
func (x *Host) address() string { return strings.TrimPrefix(x.url, "https://") }
