package check

// Microsoft Graph: whether it answers, and what it lets the app read beyond the mailboxes with alerts.

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// narrow is how the rights of an app are narrowed.
const narrow = "RBAC for Applications narrows the app to a group of mailboxes: mailbell check --plan N prints the commands. Then remove the consent to Mail.Read and Mail.ReadBasic.All in Entra ID, because rights add up."

// graph asks Graph for the mailbox, or for an address that does not exist.
func (r *runner) graph(ctx context.Context, name string, e Entry, address string, known bool) {
	a := e.Accounts[0]
	c := Circumstances{Step: StepLocation, Online: true, Method: a.Method}
	r.try(ctx, name+": Microsoft Graph", "asking Microsoft Graph for "+address, c, func(ctx context.Context) error {
		_, err := a.Finder.Find(ctx, address)
		f := fault.Of(err)
		switch {
		case err == nil, f.Elsewhere: // it answers, and that is the answer
			return nil
		case !known && f.Peer == fault.Graph && f.Status == http.StatusForbidden:
			return nil // it says no more of an address that nobody has
		}
		return err
	})
}

// beyond tries mailboxes that the app is not to be able to read: those that the administrator has named, and an address that nobody has.
func (r *runner) beyond(ctx context.Context, name string, e Entry) {
	if !e.Graph || len(e.Accounts) == 0 {
		return
	}
	for _, a := range e.Accounts {
		c := Circumstances{Online: true, Method: a.Method}
		named := 0
		for _, address := range r.Beyond {
			if !slices.Contains(e.Domains, mail.Domain(address)) {
				continue
			}
			named++
			r.lookBeyond(ctx, name+": account "+a.Name+": beyond "+address, address, a, c)
		}
		if named == 0 && r.mailbox == "" {
			r.complete(Result{Name: name + ": account " + a.Name + ": least privilege", Tried: "reading what it is not to read"}, c,
				omitted("Name mailboxes that mailbell is not to read: --beyond ADDRESS,ADDRESS. It tries each, and does not read what a token says: rights of RBAC for Applications are in none."))
			continue
		}
		if slices.Contains(e.Domains, mail.Domain(r.mailbox)) {
			r.lookBeyond(ctx, name+": account "+a.Name+": beyond, at random", atRandom(r.mailbox), a, c)
		}
	}
}

// notBeyond says of which named mailboxes nothing was tried.
func (r *runner) notBeyond() {
	for _, address := range r.Beyond {
		if !slices.ContainsFunc(r.Entries, func(e Entry) bool { return e.Graph && slices.Contains(e.Domains, mail.Domain(address)) }) {
			r.complete(Result{Name: "beyond " + address, Tried: "opening its Inbox by Microsoft Graph"}, Circumstances{},
				omitted("No exchange entry that listens by Microsoft Graph has its mail domain."))
		}
	}
}

// atRandom is an address that nobody has, of the mail domain of another.
func atRandom(address string) string {
	return "mailbell-" + strings.ToLower(rand.Text()[:10]) + "@" + mail.Domain(address)
}

// lookBeyond tries one mailbox.
func (r *runner) lookBeyond(ctx context.Context, name, address string, a Account, c Circumstances) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	result := Result{Name: name, Tried: "opening the Inbox of " + address}
	_, err := a.Finder.Find(ctx, address)
	switch f := fault.Of(err); {
	case err == nil:
		result.State, result.Error, result.Advice = Warning, "the app can read "+address+", which mailbell is not to read", "To be narrowed: "+narrow
		r.say(result)
		return
	case f.Peer == fault.Graph && f.Status == http.StatusForbidden:
		result.Found = fmt.Sprintf("Graph refuses it (%s): the app is narrowed", f.Code)
	case f.Elsewhere:
		result.Found = fmt.Sprintf("Graph knows no such mailbox (%s), and so does not say whether the app could read it", f.Code)
	default:
		r.complete(result, c, err)
		return
	}
	r.complete(result, c, nil)
}
