package check

// The listener accounts: what each needs to listen to a mailbox.

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// entry tries the accounts of an entry.
func (r *runner) entry(ctx context.Context, e Entry) {
	name := "exchange " + e.Name
	if e.EWS == "" && len(e.Accounts) > 0 && e.Accounts[0].Finder != nil {
		r.autodiscover(ctx, name, e)
	}
	for _, a := range e.Accounts {
		c := Circumstances{Online: e.Online, Method: a.Method}
		name := name + ": account " + a.Name
		if e.Online && a.Method == credential.ListenerAccount {
			r.tell(name, "looking at its credential", 0, c, doubt{&fault.Error{Op: "listener_account", Code: "ErrorImpersonateUserDenied", Scope: fault.Account, Remedy: fault.Fix,
				Text: "since February 2025 it cannot impersonate: use client_secret or certificate"}})
		}
		if k, tried := r.signedIn[e.Name+"/"+a.Name]; tried && !k.accepted {
			continue // its refusal was reported
		}
		if a.ByToken {
			c.Step = StepCredential
			if !r.try(ctx, name+": token", "getting a token", c, func(ctx context.Context) error { return prepare(ctx, a.Credential) }) {
				continue
			}
		}
		r.account(ctx, name, e, a, c)
	}
}

// autodiscover asks for the mailbox, or for an address that does not exist.
func (r *runner) autodiscover(ctx context.Context, name string, e Entry) {
	address, known := r.mailbox, slices.Contains(e.Domains, mail.Domain(r.mailbox))
	if !known {
		if len(e.Domains) == 0 {
			return
		}
		address = stranger + "@" + e.Domains[0]
	}
	a := e.Accounts[0]
	if e.Graph {
		r.graph(ctx, name, e, address, known)
		return
	}
	r.try(ctx, name+": Autodiscover", "asking Autodiscover for "+address, Circumstances{Step: StepLocation, Online: e.Online, Method: a.Method}, func(ctx context.Context) error {
		_, err := a.Finder.Find(ctx, address)
		f := fault.Of(err)
		switch {
		case err == nil:
			return nil
		case f.Elsewhere, !known && f.Scope == fault.Mailbox && slices.Contains(unknownMailbox, f.Code):
			return nil // it answers, and that is the answer
		}
		return err
	})
}

// account signs in, and tries what listening needs if the mailbox is in this entry.
func (r *runner) account(ctx context.Context, name string, e Entry, a Account, c Circumstances) {
	if r.at.Location.Entry == e.Name && r.at.Location.URL != "" {
		ctx, cancel := context.WithTimeout(ctx, wayTimeout)
		defer cancel()
		w := &walk{ctx: ctx, way: r.Way, at: Route{Account: a, Location: r.at.Location, Online: e.Online}}
		w.after = func(step string, took time.Duration, err error) {
			c.Step = step
			r.tell(name+": "+step, tries[step]+" for "+r.mailbox, took, c, err)
		}
		w.open()
		return
	}
	c.Step = StepSignIn
	if k := r.signedIn[e.Name+"/"+a.Name]; k.accepted {
		r.tell(name+": "+StepSignIn, "signing in at "+e.Guess, k.took, c, nil)
		return
	}
	if e.EWS == "" {
		r.tell(name+": "+StepSignIn, "", 0, c, r.nowhereToSignIn(e))
		return
	}
	r.try(ctx, name+": "+StepSignIn, "signing in at "+e.EWS, c, func(ctx context.Context) error { return signIn(ctx, a, e.EWS) })
}

// signIn signs in at a URL of EWS.
func signIn(ctx context.Context, a Account, url string) error {
	if err := a.Exchange.Look(ctx, mail.Location{URL: url}); err != nil && !answered(err) {
		return err
	}
	return nil
}

// firstSignIn is how a sign-in at the URL that EWS usually has ended.
type firstSignIn struct {
	accepted bool
	took     time.Duration
}

// guess signs in at the URL that EWS usually has, before Autodiscover is asked: a check makes at most one refused sign-in per account, and
// this one tells a wrong password from an Autodiscover that alone refuses. If something else answers there, nothing is reported.
func (r *runner) guess(ctx context.Context, e Entry) {
	if e.Guess == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for _, a := range e.Accounts {
		if a.ByToken {
			continue
		}
		began := time.Now()
		err := signIn(ctx, a, e.Guess)
		f := fault.Of(err)
		refused := err != nil && f.Scope == fault.Account && (f.Status == http.StatusUnauthorized || f.Code == wrongPassword)
		if err != nil && !refused {
			continue
		}
		took := time.Since(began)
		r.signedIn[e.Name+"/"+a.Name] = firstSignIn{accepted: err == nil, took: took}
		if err != nil {
			r.tell("exchange "+e.Name+": account "+a.Name+": "+StepSignIn, "signing in at "+e.Guess, took, Circumstances{Step: StepSignIn, Online: e.Online, Method: a.Method}, err)
		}
	}
}

// nowhereToSignIn says why no sign-in is tried: Autodiscover gives the URL of EWS, and no mailbox was found in this entry.
func (r *runner) nowhereToSignIn(e Entry) omitted {
	tells := omitted("Autodiscover tells for a mailbox where to sign in. ")
	if e.Graph {
		tells = "Microsoft Graph lets an app in for a mailbox. "
	}
	switch {
	case r.mailbox == "":
		return tells + "Name one of this exchange entry: --mailbox ADDRESS."
	case r.at.Location.Entry == "":
		return tells + omitted(r.mailbox) + " was not located."
	}
	return tells + omitted(r.mailbox) + " is in the exchange entry " + omitted(r.at.Location.Entry) + "; name one of " + omitted(e.Name) + "."
}
