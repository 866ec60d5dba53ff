package subscriptions_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func phoneOf(id string) subscriptions.Enrolment {
	return subscriptions.Enrolment{ID: id, Mailbox: alice, Token: "aa", Topic: "com.contoso.mail", Environment: "production"}
}

func TestAPreconditionSeesTheDeviceAsItIsAndRefusesWithoutATrace(t *testing.T) {
	b, reopen := book(t)
	errNo := errors.New("no")
	for _, known := range []bool{false, true} {
		asked := 0
		_, err := b.EnrolIf(t.Context(), phoneOf("d1"), func(d subscriptions.Device, is bool) error {
			asked++
			if is != known || known && d.Token != "aa" {
				t.Errorf("known %v: %v %+v", known, is, d)
			}
			return errNo
		}, subscriptions.Beginning{Now: noon, Since: noon})
		if !errors.Is(err, errNo) || asked != 1 {
			t.Errorf("%v, asked %d times", err, asked)
		}
		b = reopen()
		if _, is := b.Device("d1"); is != known {
			t.Errorf("known %v: it is enrolled: %v", known, is)
		}
		enrol(t, b, "d1", alice, "aa")
	}
}

func TestADeviceThatAnotherIDTakesOverMeanwhileIsNotMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBook(t, &storetest.Memory{})
		enrol(t, b, "d1", alice, "aa")
		errGone := errors.New("gone")
		taken := make(chan error, 1)
		_, err := b.EnrolIf(t.Context(), phoneOf("d1"), func(_ subscriptions.Device, known bool) error {
			go func() {
				_, err := b.Enrol(t.Context(), phoneOf("d2"), noon, noon)
				taken <- err
			}()
			synctest.Wait() // it has done all that it can meanwhile
			if !known {
				return errGone
			}
			return nil
		}, subscriptions.Beginning{Now: noon, Since: noon})
		if err := errors.Join(err, <-taken); err != nil {
			t.Fatal(err)
		}
		if _, is := b.Device("d1"); is {
			t.Error("the device is there again, after another id has taken it over")
		}

		// And where the other one was first, the precondition sees that.
		enrol(t, b, "d3", bob, "bb")
		first, second := make(chan struct{}), make(chan error, 1)
		go func() {
			defer close(first)
			e := phoneOf("d4")
			e.Mailbox, e.Token = bob, "bb"
			_, err := b.EnrolIf(t.Context(), e, func(subscriptions.Device, bool) error {
				go func() {
					e.ID = "d3"
					_, err := b.EnrolIf(t.Context(), e, func(_ subscriptions.Device, known bool) error {
						if !known {
							return errGone
						}
						return nil
					}, subscriptions.Beginning{Now: noon, Since: noon})
					second <- err
				}()
				synctest.Wait()
				return nil
			}, subscriptions.Beginning{Now: noon, Since: noon})
			if err != nil {
				t.Error(err)
			}
		}()
		<-first
		if err := <-second; !errors.Is(err, errGone) {
			t.Errorf("a device that was taken over is changed: %v", err)
		}
	})
}

// What is written while a request waits for its turn may be another device than the one that the client has seen: mailbell itself corrects
// the environment.
func TestAPreconditionSeesWhatWasWrittenWhileItsRequestWaited(t *testing.T) {
	errChanged := errors.New("it was changed")
	enrolled := func(mailbox string) func(ctx context.Context, b *subscriptions.Book) error {
		return func(ctx context.Context, b *subscriptions.Book) error {
			e := phoneOf("d1")
			e.Mailbox = mailbox
			_, err := b.EnrolIf(ctx, e, func(d subscriptions.Device, known bool) error {
				if !known || d.Environment != "production" {
					return errChanged
				}
				return nil
			}, subscriptions.Beginning{Now: noon, Since: noon})
			return err
		}
	}
	for name, request := range map[string]func(ctx context.Context, b *subscriptions.Book) error{
		"an enrolment":         enrolled(alice),
		"one in a new mailbox": enrolled("carol@contoso.example"),
		"one in another's":     enrolled(bob),
		"a removal": func(ctx context.Context, b *subscriptions.Book) error {
			_, removed, err := b.RemoveIf(ctx, "d1", func(d subscriptions.Device) bool { return d.Environment == "production" })
			if err == nil && !removed {
				return errChanged
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &during{}
				b := openBook(t, s)
				enrol(t, b, "d1", alice, "aa")
				enrol(t, b, "d2", bob, "bb")
				over := make(chan error, 1)
				s.call = func() {
					go func() { over <- request(t.Context(), b) }()
					synctest.Wait() // it has done all that it can meanwhile
				}
				err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) {
					moved := *d.Devices[0]
					moved.Environment = "sandbox"
					d.Put(moved)
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := <-over; !errors.Is(err, errChanged) {
					t.Errorf("the change was not seen: %v", err)
				}
				if d, ok := b.Device("d1"); !ok || d.Environment != "sandbox" || d.Mailbox != alice {
					t.Errorf("it was changed or removed: %+v", d)
				}
			})
		})
	}
}

func TestADeviceIsThereWhileItsMailboxIsChanged(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d1", alice, "aa")
	over, asked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(asked)
		for {
			select {
			case <-over:
				return
			default:
			}
			if _, ok := b.Device("d1"); !ok {
				t.Error("it is not enrolled")
				return
			}
		}
	}()
	for i := range 3000 {
		enrol(t, b, "d1", []string{bob, alice}[i%2], "aa")
	}
	close(over)
	<-asked
}
