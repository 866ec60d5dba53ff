package admin

// Signing in and out, and what every request of a person goes through before a page is made.

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/mailbell/mailbell/admin/openid"
	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/internal/audit"
)

const (
	// cookieName has the prefix that makes browsers take the cookie only over HTTPS (or from this machine), for this host and every path.
	cookieName = "__Host-mailbell"
	// maxForm is the most that a form may have: a token, or the id of a device.
	maxForm = 4 << 10
	// maxNext bounds the address to go to after the sign-in: longer than any page's.
	maxNext = 1 << 10
)

// roleNotAllowed is the code of the API's problem for who may not do what they ask.
const roleNotAllowed = "role_not_allowed"

// visitor is who asks for a page.
type visitor struct {
	api.Person
	cookie string
	csrf   string
}

// visitor finds out who asks. false: nobody who is signed in and may read.
func (p *Pages) visitor(r *http.Request, touch bool) (visitor, bool) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return visitor{}, false
	}
	s, ok := p.sessions.find(c.Value, touch)
	if !ok {
		return visitor{}, false
	}
	who, ok := p.person(s)
	if !ok || !who.Reads() { // the configuration has changed: the token is not valid any more, or its role is another
		p.sessions.end(c.Value)
		return visitor{}, false
	}
	return visitor{Person: who, cookie: c.Value, csrf: s.csrf}, true
}

// post has h answer a form that this session's page sent. Everything that does something is posted.
func (p *Pages) post(h func(http.ResponseWriter, *http.Request, visitor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !p.readForm(w, r) {
			return
		}
		v, ok := p.visitor(r, true)
		switch s, found := p.sessions.find(v.cookie, false); {
		case !ok || !found:
			if wantsStream(r) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, signInPath, http.StatusSeeOther)
		case !s.wrote(r.PostForm.Get("csrf")):
			p.refuse(w, r, http.StatusForbidden, "This form is not of this session, so nothing was done. Open the page again.")
		default:
			h(w, r, v)
		}
	}
}

// readForm reads a form of at most maxForm bytes. false: it answered why it could not.
func (p *Pages) readForm(w http.ResponseWriter, r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		p.fail(w, http.StatusUnsupportedMediaType, "This is not a form of these pages.")
		return false
	}
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			p.fail(w, http.StatusRequestEntityTooLarge, "The form is larger than 4 KiB.")
			return false
		}
		p.fail(w, http.StatusBadRequest, "The form cannot be read.")
		return false
	}
	return true
}

const signInPath = root + "sign-in"

// goSignIn leads a person without a session to the sign-in, and back afterwards.
//
// A link in a mail or a chat leads here without the cookie, because it is SameSite=Strict: so a person who is signed in would have to sign
// in once more. The answer to a navigation from another site is therefore a page that leads to the same address from this site.
func (p *Pages) goSignIn(w http.ResponseWriter, r *http.Request) {
	here := r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		here += "?" + r.URL.RawQuery
	}
	if site := r.Header.Get("Sec-Fetch-Site"); (site == "cross-site" || site == "same-site") && safeNext(here) == here {
		p.render(w, http.StatusOK, "again", page{Title: "One moment", Body: here})
		return
	}
	to := signInPath
	if next := safeNext(here); next != root {
		to += "?next=" + url.QueryEscape(next)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// safeNext returns where to go after the sign-in: a page of ours, else the overview.
func safeNext(next string) string {
	if len(next) > maxNext {
		return root
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Opaque != "" || u.Host != "" || u.User != nil || u.Fragment != "" || !strings.HasPrefix(next, root) {
		return root
	}
	for _, c := range next {
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' {
			return root
		}
	}
	clean := path.Clean(u.Path)
	if clean+"/" != root && (clean != u.Path || !strings.HasPrefix(clean, root)) || strings.HasPrefix(clean, signInPath) || clean == root+"sign-out" {
		return root
	}
	return next
}

// signInForm is what the page of the sign-in shows.
type signInForm struct {
	Next  string
	Error string
	At    string // the host of the provider to sign in at; empty: there is none
	Begin string // the address at which that begins
	Away  string // why it cannot be used now; empty: it can
}

// form is the form of the sign-in.
func (p *Pages) form(next, mistake string) signInForm {
	f := signInForm{Next: next, Error: mistake}
	if by := p.oidc.Load(); by != nil {
		f.At, f.Begin = by.Provider.Host(), beginPath+"?next="+url.QueryEscape(next)
		if refusal, ok := errors.AsType[*openid.Refusal](by.Provider.Problem()); ok {
			f.Away = refusal.Text
		}
	}
	return f
}

// askToken answers with the form of the sign-in.
func (p *Pages) askToken(w http.ResponseWriter, r *http.Request) {
	next := safeNext(r.URL.Query().Get("next"))
	if _, ok := p.visitor(r, false); ok {
		http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // safeNext lets our pages through only
		return
	}
	p.render(w, http.StatusOK, "sign-in", page{Title: "Sign in", Body: p.form(next, "")})
}

// signIn begins a session for who has the token of a client.
func (p *Pages) signIn(w http.ResponseWriter, r *http.Request) {
	if !p.readForm(w, r) {
		return
	}
	form := p.form(safeNext(r.PostForm.Get("next")), "")
	key, ok := p.api.SignIn(r, r.PostForm.Get("token"))
	if !ok {
		form.Error = "No client in the configuration has this token."
		w.Header().Set("WWW-Authenticate", `Bearer realm="mailbell"`)
		p.render(w, http.StatusUnauthorized, "sign-in", page{Title: "Sign in", Body: form})
		return
	}
	who, _ := p.api.Person(key)
	if !who.Reads() {
		p.api.Record(r, audit.Event{Action: audit.SignedIn, Client: who.Name, Outcome: audit.Refused, Code: roleNotAllowed}, nil)
		form.Error = "The role of the client " + who.Name + " is " + string(who.Role) + ". These pages need read, test or admin."
		p.render(w, http.StatusForbidden, "sign-in", page{Title: "Sign in", Body: form})
		return
	}
	p.endFormer(r)
	http.SetCookie(w, cookie(p.sessions.begin(key)))
	p.api.Record(r, audit.Event{Action: audit.SignedIn, Client: who.Name}, nil)
	http.Redirect(w, r, form.Next, http.StatusSeeOther)
}

// endFormer ends the session of whoever was signed in here.
func (p *Pages) endFormer(r *http.Request) {
	if old, err := r.Cookie(cookieName); err == nil {
		p.sessions.end(old.Value)
	}
}

// signOut ends a session.
func (p *Pages) signOut(w http.ResponseWriter, r *http.Request, v visitor) {
	p.sessions.end(v.cookie)
	gone := cookie("") //nolint:gosec // cookie sets all three
	gone.MaxAge = -1
	http.SetCookie(w, gone)
	p.api.Record(r, audit.Event{Action: audit.SignedOut, Client: v.Name}, nil)
	http.Redirect(w, r, signInPath, http.StatusSeeOther)
}

// cookie is the cookie of a session. It has no date: it goes with the browser's window, and the server ends the session.
func cookie(value string) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}
