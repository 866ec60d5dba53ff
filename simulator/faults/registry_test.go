package faults

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// some is a table for tests.
func some() []Kind {
	return []Kind{
		{Name: "dropped", Fields: "mailbox host share count seconds", Text: "Events are dropped."},
		{Name: "delay", Fields: "seconds", Text: "Answers come later.", Valued: true},
		ClockSkew,
	}
}

func TestFaultIsClearedByItsCountItsSecondsOrByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(some()...)
		defer r.Close()
		var changes []bool
		r.OnChange("dropped", func(_ Fault, set bool) { changes = append(changes, set) })
		set := func(name string, f Fault) {
			t.Helper()
			if err := r.Set(name, f); err != nil {
				t.Fatal(err)
			}
		}
		hit := func() bool { _, ok := r.Hit("dropped", "a@b.example", ""); return ok }
		set("dropped", Fault{Count: 2})
		met := []bool{hit(), hit(), hit()}
		if !slices.Equal(met, []bool{true, true, false}) || !r.None() {
			t.Errorf("a count of 2 is met %v", met)
		}
		set("dropped", Fault{Seconds: 3})
		if f, _ := r.Hit("dropped", "", ""); f.Seconds != 3 {
			t.Errorf("%v s are left of 3", f.Seconds)
		}
		<-time.After(4 * time.Second)
		synctest.Wait()
		if hit() {
			t.Error("it is set after its time")
		}
		set("dropped", Fault{})
		if err := r.Clear("dropped"); err != nil || hit() {
			t.Errorf("it is set after it was cleared: %v", err)
		}
		if want := []bool{true, false, true, false, true, false}; !slices.Equal(changes, want) {
			t.Errorf("told of the changes %v", changes)
		}
		set("delay", Fault{Seconds: 3})
		<-time.After(4 * time.Second)
		synctest.Wait()
		if f, on := r.On("delay", "", ""); !on || f.Duration() != 3*time.Second {
			t.Errorf("a fault whose seconds are a value: %+v, %v", f, on)
		}
	})
}

func TestFaultMeetsOnlyWhomItIsMeantFor(t *testing.T) {
	r := New(some()...)
	if err := r.Set("dropped", Fault{Mailbox: " User@B.example", Host: "online"}); err != nil {
		t.Fatal(err)
	}
	here, cloud := Host{r, "onpremises"}, Host{r, "online"}
	if _, on := here.On("dropped", "user@b.example", ""); on {
		t.Error("it meets another host")
	}
	if _, on := cloud.Hit("dropped", "other@b.example", ""); on {
		t.Error("it meets another mailbox")
	}
	if _, on := cloud.Hit("dropped", "user@b.example", ""); !on {
		t.Error("it does not meet its mailbox")
	}
}

func TestFaultThatIsDoneAtOnceIsNotSet(t *testing.T) {
	r := New(some()...)
	var met int
	r.AtOnce("dropped", func(c *Cases) bool {
		for range 5 {
			if c.Met() {
				met++
			}
		}
		return c.Mailbox == ""
	})
	if err := r.Set("dropped", Fault{Count: 2}); err != nil || met != 2 || !r.None() {
		t.Errorf("%d cases of 2, nothing set: %v, %v", met, r.None(), err)
	}
	if err := r.Set("dropped", Fault{Mailbox: "a@b.example"}); err != nil || r.None() {
		t.Errorf("what is not done at once is not set: %v", err)
	}
}

func TestOnlyAClockMayBeBehind(t *testing.T) {
	r := New(some()...)
	if r.Set("delay", Fault{Seconds: -1}) == nil {
		t.Error("a delay below 0 is taken")
	}
	if err := r.Set(ClockSkew.Name, Fault{Seconds: -60}); err != nil {
		t.Fatal(err)
	}
	if behind := time.Since(Clock{r}.Now()); behind < 59*time.Second || behind > 61*time.Second {
		t.Errorf("the clock is behind by %v", behind)
	}
}

func TestRetryAfterIsNeverTooEarly(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Second: "1", 1500 * time.Millisecond: "2", time.Nanosecond: "1"} {
		if got := RetryAfter(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}
