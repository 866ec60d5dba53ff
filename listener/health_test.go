package listener

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/sicktest"
)

// Whatever a server says of an account and its mailboxes, and whatever becomes of the call that was to find out: once the account is let in, each
// mailbox is answered when its account may be tried again, and nothing is said against it any more.
func TestAfterWhateverAServerSaysOfAnAccountEachMailboxIsAnsweredOnceItIsLetIn(t *testing.T) {
	const (
		sickFor = time.Hour
		// The account is tried after four minutes at most; who asks comes back a quarter later than it was told, and may find another who tries.
		within = 2 * (maxBlock + 2*probe)
	)
	said := []error{
		&fault.Error{Op: "test", Code: "HTTP 401", Scope: fault.Account, Remedy: fault.Fix, After: maxBlock},
		&fault.Error{Op: "test", Code: "HTTP 403", Scope: fault.Account, Remedy: fault.Fix, After: maxBlock},
		&fault.Error{Op: "test", Code: "busy", Scope: fault.Account, Remedy: fault.Wait, After: 10 * time.Second},
		&fault.Error{Op: "test", Code: "certificate", Scope: fault.Server, Remedy: fault.Fix, After: maxBlock},
		&fault.Error{Op: "test", Code: "network", Scope: fault.Server, Remedy: fault.Retry},
		&fault.Error{Op: "test", Code: ews.CodeHangs, Scope: fault.Mailbox, Remedy: fault.Wait},
		&fault.Error{Op: "test", Code: graph.CodeHeld, Scope: fault.Mailbox, Remedy: fault.Retry},
		context.Canceled,
		context.DeadlineExceeded,
		&fault.Error{Op: "test", Code: "busy", Scope: fault.Mailbox, Remedy: fault.Wait}, // that it is let in, as has who gets an answer
		nil,
	}
	const refusals, lettingIn = 3, 2
	sicktest.Play(t, 20, func(t *testing.T, seed uint64, dice *sicktest.Dice) {
		mailboxes := 1 + dice.IntN(30)
		h := &health{log: zap.NewNop(), mailboxes: func() int { return mailboxes }, lifted: func() {}}
		sick, likely, all := dice.Float64(), dice.IntN(refusals), len(said)
		if seed%2 == 0 { // nobody is let in at all
			sick, all = 1, len(said)-lettingIn
		}
		ctx, cancel := context.WithTimeout(t.Context(), sickFor)
		defer cancel()
		var callers sync.WaitGroup
		for i := range mailboxes {
			for caller := range 3 {
				own := rand.New(rand.NewPCG(seed, uint64(10*i+caller+2)))
				callers.Go(func() {
					mailbox := fmt.Sprint(i)
					for failures := 1; ctx.Err() == nil; failures++ {
						err := h.allowed(mailbox)
						if err == nil && own.IntN(10) > 0 { // else something else keeps the call from being made
							<-time.After(time.Duration(1+own.IntN(500)) * time.Millisecond)
							switch {
							case own.Float64() >= sick:
							case own.IntN(2) == 0:
								err = said[likely]
							default:
								err = said[own.IntN(all)]
							}
							err = h.call(mailbox).note(err)
						}
						wait := time.Duration(1+own.IntN(30_000)) * time.Millisecond
						if err == nil {
							failures = 0
						} else if own.IntN(3) > 0 {
							wait = min(fault.Of(err).Pause(failures), 5*time.Minute)
						}
						select {
						case <-time.After(wait):
						case <-ctx.Done():
						}
					}
				})
			}
		}
		callers.Wait()
		well := time.Now()
		for i := range mailboxes {
			callers.Go(func() {
				mailbox := fmt.Sprint(i)
				for failures := 1; ; failures++ {
					err := h.allowed(mailbox)
					if err == nil {
						<-time.After(20 * time.Millisecond)
						err = h.call(mailbox).note(nil)
					}
					if time.Since(well) > within {
						t.Errorf("mailbox %s, %v after the account is let in: %v", mailbox, time.Since(well), err)
					} else if err != nil {
						<-time.After(fault.Of(err).Pause(failures))
						continue
					}
					return
				}
			})
		}
		callers.Wait()
		if f, next := h.state(); f != nil || len(h.refused) != 0 || h.prober != "" || h.blocks != 0 {
			t.Errorf("the account is blocked until %v: %v; %d are refused, %q tries", next, f, len(h.refused), h.prober)
		}
	})
}

func TestARefusalOfTheFormerCredentialSaysNothingOfTheNew(t *testing.T) {
	h, _ := healthOf(1)
	former := h.call(alice)
	h.unblock()
	f := fault.Of(former.note(row("HTTP 401", "")))
	if blocked, _ := h.state(); blocked != nil || f.Scope != fault.Mailbox || f.Remedy != fault.Retry {
		t.Errorf("the account is blocked by %v, and the mailbox told %v (%s, %s)", blocked, f, f.Scope, f.Remedy)
	}
	_ = h.call(alice).note(row("HTTP 401", ""))
	if blocked, _ := h.state(); blocked == nil {
		t.Error("one of the new does not block it")
	}
}

func TestACallThatWasNotAnsweredEndsNoBlock(t *testing.T) {
	for _, code := range []string{ews.CodeHangs, ews.CodeHeldBack, ews.CodeHost, ews.CodeUntrusted, ews.CodeURL} {
		h, _ := healthOf(1)
		_ = h.call(alice).note(row("HTTP 401", ""))
		_ = h.call(bob).note(row(code, ""))
		if f, _ := h.state(); f == nil {
			t.Errorf("%s: the account is let in", code)
		}
	}
}
