package inbox

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// logged has an inbox log what it does from now on.
func logged(s *scene, level zapcore.Level) *observer.ObservedLogs {
	core, logs := observer.New(level)
	s.in.log = zap.New(core)
	return logs
}

// of is what lines say that have an id.
func of(lines []observer.LoggedEntry, id string) (said []string) {
	for _, l := range lines {
		if l.ContextMap()["correlation_id"] == id {
			said = append(said, l.Message)
		}
	}
	return said
}

func TestOneIDLeadsFromAHintToTheAnswerOfAPNsAndToTheDecision(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("phone", alice)
		logs := logged(s, zap.DebugLevel)
		s.source.come(alice)
		synctest.Wait()
		decisions := s.decisions(alice)
		if len(decisions) != 1 || decisions[0].Outcome != outcome.Accepted || decisions[0].Correlation == 0 {
			t.Fatalf("%+v", decisions)
		}
		id := decisions[0].Correlation.String()
		want := []string{"reading begins", "messages read", "alert sent", "outcome", "outcomes recorded", "reading ended"}
		lines := logs.TakeAll()
		got := of(lines, id)
		hinted := slices.Index(got, "hint") // anywhere: the worker does not wait until that is logged
		if hinted < 0 {
			t.Fatalf("no line of %q is about the hint", got)
		}
		if got := slices.Delete(got, hinted, hinted+1); !slices.Equal(got, want) || len(lines) != len(want)+1 {
			t.Errorf("%s: %q of %d lines, want %q", id, got, len(lines), want)
		}
		for _, l := range lines {
			fields := l.ContextMap()
			if fields["mailbox"] != alice {
				t.Errorf("%s is about %v", l.Message, fields["mailbox"])
			}
			if apns := fields["apns_id"]; (l.Message == "alert sent" || l.Message == "outcome") && apns != decisions[0].PushID.String() {
				t.Errorf("%s has the apns-id %v, want %v", l.Message, apns, decisions[0].PushID)
			}
		}
		s.source.come(alice)
		synctest.Wait()
		if again := s.decisions(alice)[0].Correlation; again.String() == id || len(of(logs.TakeAll(), id)) > 0 {
			t.Errorf("the next message has the same id")
		}
	})
}

func TestWhatAReadingThatFailedLeavesGoesOnUnderItsID(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("phone", alice)
		logs := logged(s, zap.DebugLevel)
		s.source.set(func() {
			s.source.fails = &fault.Error{Op: "read", Code: "busy", Scope: fault.Mailbox, Remedy: fault.Retry}
			s.source.onRead = func() { // another message, while the first is read
				s.source.set(func() { s.source.onRead = nil })
				s.source.come(alice)
			}
		})
		s.source.come(alice)
		synctest.Wait()
		lines := logs.TakeAll()
		first, second := lines[0].ContextMap()["correlation_id"], ""
		for _, l := range lines {
			if id := l.ContextMap()["correlation_id"].(string); l.Message == "hint" && id != first {
				second = id
			}
		}
		if second == "" {
			t.Fatalf("both messages have the id %s", first)
		}
		if warned := of(lines, first.(string)); !slices.Contains(warned, "a mailbox cannot be read") {
			t.Errorf("the warning has another id than %s: %q", first, warned)
		}
		s.source.set(func() { s.source.fails = nil })
		s.pass(time.Minute)
		synctest.Wait()
		joined := slices.ContainsFunc(logs.All(), func(l observer.LoggedEntry) bool { return l.ContextMap()["joined_by"] == second })
		for _, d := range s.decisions(alice) {
			if d.Correlation.String() != first || !joined {
				t.Errorf("a decision has the id %s, want %s, joined by %s: %v", d.Correlation, first, second, joined)
			}
		}
		if n := len(s.decisions(alice)); n != 2 {
			t.Errorf("%d decisions", n)
		}
	})
}

func TestACatchUpHasAnIDOfItsOwn(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("phone", alice)
		s.apns.set(func() { s.apns.dead = true })
		s.source.come(alice)
		synctest.Wait()
		behind := s.decisions(alice)[0]
		s.apns.set(func() { s.apns.dead = false })
		logs := logged(s, zap.DebugLevel)
		s.in.TopicReady(topic, "production")
		s.pass(time.Hour)
		synctest.Wait()
		accepted := s.decisions(alice)[0]
		if behind.Outcome != outcome.Behind || accepted.Outcome != outcome.Accepted || accepted.Correlation == behind.Correlation || accepted.PushID != behind.PushID {
			t.Errorf("%+v, then %+v", behind, accepted)
		}
		if said := of(logs.All(), accepted.Correlation.String()); !slices.Contains(said, "catching up begins") || !slices.Contains(said, "alert sent") {
			t.Errorf("%q", said)
		}
	})
}

func TestALineThatIsNotLoggedCostsNothing(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("phone", alice)
		logs := logged(s, zap.InfoLevel)
		m := s.mailbox(alice)
		n := testing.AllocsPerRun(100, func() {
			id := m.in.correlation()
			m.debug("reading begins", id, func() []zap.Field { return []zap.Field{joinedBy(id)} })
		})
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
		s.source.come(alice)
		synctest.Wait()
		if logs.Len() > 0 {
			t.Errorf("%v", logs.All())
		}
	})
}

func TestAnIDIsNeverNone(t *testing.T) {
	in := &Inbox{}
	in.correlated.Store(1<<32 - 2)
	for _, want := range []string{"ffffffff", "00000001", "00000001"} {
		if got := in.correlation().String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if none := subscriptions.Correlation(0).String(); none != "" {
		t.Error(none)
	}
}
