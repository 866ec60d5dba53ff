package subscriptions_test

import (
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
