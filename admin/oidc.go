package admin

// Signing in at a provider of OpenID Connect (package openid): who gets which role, and what binds a sign-in to the browser that began it.

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/admin/openid"
	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/internal/audit"
)

const (
	beginPath = signInPath + "/oidc"
	// CallbackPath is where a provider sends people back to, below the address of the pages.
	CallbackPath = beginPath + "/callback"
	// flowCookie holds a sign-in under way. It is SameSite=Lax: the browser comes back from another site.
	flowCookie = "__Host-mailbell-sign-in"
	// maxRedeems bounds the answers of a provider that are exchanged for tokens at once: each keeps a person waiting, and a connection.
	maxRedeems = 16
	// Anybody can be refused, as often as they like: of refusals the log has the first ones, and then one a minute.
	firstRefusals = 20
	refusalsEvery = time.Minute
	// maxGroupsShown bounds the groups that a person without a role is shown, to tell them to whoever can help.
	maxGroupsShown = 20
)

// OIDC is how people sign in at a provider.
type OIDC struct {
	Provider  *openid.Provider
	Groups    map[string]api.Role // by the group's name in the token
	Addresses map[string]api.Role // by verified address, in lower case
}

// SignInBy has people sign in at another provider from now on; nil: at none.
func (p *Pages) SignInBy(o *OIDC) {
	p.changing.Lock()
	defer p.changing.Unlock()
	if p.stopOIDC != nil {
		p.stopOIDC()
		p.stopOIDC = nil
	}
	p.oidc.Store(o)
	if o == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stopOIDC = stop
	p.running.Go(func() { o.Provider.Run(ctx) })
}

// person is whose session it is now. false: nobody's any more.
func (p *Pages) person(s session) (api.Person, bool) {
	if s.who == nil {
		return p.api.Person(s.key)
	}
	by := p.oidc.Load()
	if by == nil || by.Provider.Issuer() != s.who.Issuer {
		return api.Person{}, false
	}
	return by.person(*s.who)
}

// person is somebody with a role. false: none is granted.
func (o *OIDC) person(who openid.Identity) (api.Person, bool) {
	role := o.Addresses[who.Address]
	for _, group := range who.Groups {
		if granted := o.Groups[group]; rank(granted) > rank(role) {
			role = granted
		}
	}
	// A name that is not verified may be anybody's: the log needs the provider's id with it.
	return api.Person{Name: cmp.Or(who.Address, fmt.Sprintf("%s (%s)", who.Name, who.Subject)), Role: role}, role != ""
}

// rank orders the roles: who is in several groups has the role that may most.
func rank(r api.Role) int {
	switch r {
	case api.RoleAdmin:
		return 3
	case api.RoleTest:
		return 2
	case api.RoleRead:
		return 1
	}
	return 0
}

// flows keeps the sign-ins under way: in the browsers that began them, sealed.
type flows struct {
	seal    cipher.AEAD   // with a key of this process
	redeems chan struct{} // a place for each
}

func newFlows() flows {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has the right length
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // a block of AES has the right length
	}
	return flows{seal: seal, redeems: make(chan struct{}, maxRedeems)}
}

// cookie holds a sign-in under way, until the browser is closed or comes back.
func (f flows) cookie(flow openid.Flow) (*http.Cookie, error) {
	text, err := json.Marshal(flow)
	if err != nil {
		return nil, err
	}
	sealed := f.seal.Seal(nil, nil, text, []byte(flowCookie)) //nolint:gosec // the nonce is random: see newFlows
	return flowOf(base64.RawURLEncoding.EncodeToString(sealed)), nil
}

func flowOf(value string) *http.Cookie {
	return &http.Cookie{Name: flowCookie, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// of is the sign-in that is under way in a browser; zero: none is.
func (f flows) of(r *http.Request) (flow openid.Flow) {
	c, err := r.Cookie(flowCookie)
	if err != nil {
		return openid.Flow{}
	}
	sealed, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return openid.Flow{}
	}
	text, err := f.seal.Open(nil, nil, sealed, []byte(flowCookie))
	if err != nil || json.Unmarshal(text, &flow) != nil {
		return openid.Flow{}
	}
	return flow
}

// beginOIDC sends a person to the provider.
func (p *Pages) beginOIDC(w http.ResponseWriter, r *http.Request) {
	by := p.oidc.Load()
	if by == nil {
		p.fail(w, http.StatusNotFound, "There is nothing at this address.")
		return
	}
	flow, to, err := by.Provider.Begin(safeNext(r.URL.Query().Get("next")))
	if err != nil {
		p.notSignedIn(w, http.StatusServiceUnavailable, err)
		return
	}
	c, err := p.flows.cookie(flow)
	if err != nil {
		p.notSignedIn(w, http.StatusInternalServerError, err)
		return
	}
	http.SetCookie(w, c)
	http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // the URL is of the provider that the configuration names
}

// endOIDC begins a session for somebody who comes back from the provider.
func (p *Pages) endOIDC(w http.ResponseWriter, r *http.Request) {
	by := p.oidc.Load()
	if by == nil {
		p.fail(w, http.StatusNotFound, "There is nothing at this address.")
		return
	}
	flow := p.flows.of(r)
	if flow.Answered(r.URL.Query()) { // it is good for one answer; another sign-in that was begun since is still under way
		gone := flowOf("") //nolint:gosec // flowOf sets all three
		gone.MaxAge = -1
		http.SetCookie(w, gone)
	}
	who, err := p.finish(r, by, flow)
	if errors.Is(err, errManyRedeems) {
		p.fail(w, http.StatusServiceUnavailable, "Too many people sign in at the moment. Sign in again.")
		return
	}
	if err != nil {
		p.api.SignInFailed(r)
		p.notSignedIn(w, http.StatusForbidden, err)
		return
	}
	person, ok := by.person(who)
	event := audit.Event{Action: audit.SignedIn, Client: person.Name, Role: string(person.Role), Issuer: who.Issuer, Subject: who.Subject}
	if !ok {
		event.Outcome, event.Code = audit.Refused, roleNotAllowed
		p.api.Record(r, event, nil)
		p.render(w, http.StatusForbidden, "no-role", page{Title: "No role", Body: withoutRole(by, who)})
		return
	}
	p.endFormer(r)
	http.SetCookie(w, cookie(p.sessions.beginFor(who)))
	p.api.Record(r, event, nil)
	// No redirect: the cookie of the session is not sent along with one that began at another site.
	p.render(w, http.StatusOK, "again", page{Title: "One moment", Body: safeNext(flow.Next)})
}

var errManyRedeems = errors.New("too many answers of the provider are exchanged at once")

// finish says who comes back from the provider. It has a place of redeems no longer than that takes.
func (p *Pages) finish(r *http.Request, by *OIDC, flow openid.Flow) (openid.Identity, error) {
	select {
	case p.flows.redeems <- struct{}{}:
		defer func() { <-p.flows.redeems }()
	default:
		return openid.Identity{}, errManyRedeems
	}
	return by.Provider.Finish(r.Context(), flow, r.URL.Query())
}

// notSignedIn answers why somebody is not signed in.
func (p *Pages) notSignedIn(w http.ResponseWriter, status int, err error) {
	text := "This did not work. Sign in again."
	if refusal, ok := errors.AsType[*openid.Refusal](err); ok {
		text = refusal.Text
	}
	p.refusals.Do(func() { p.log.Warn("nobody was signed in to the admin page", zap.Error(err)) })
	p.render(w, status, "sign-in", page{Title: "Sign in", Body: p.form(root, text)})
}

// stranger is somebody without a role.
type stranger struct {
	Name, At string
	Address  string
	Groups   string
	Hidden   bool
}

func withoutRole(by *OIDC, who openid.Identity) stranger {
	s := stranger{Name: who.Name, At: by.Provider.Host(), Address: who.Address, Hidden: who.Hidden}
	s.Groups = strings.Join(who.Groups[:min(len(who.Groups), maxGroupsShown)], ", ")
	return s
}
