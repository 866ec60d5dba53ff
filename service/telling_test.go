package service

// When the log is told what is wrong, in fake time.

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/check"
)

// telling is conditions with their log.
type telling struct {
	*conditions
	logs *observer.ObservedLogs
}

func newTelling() telling {
	core, logs := observer.New(zap.DebugLevel)
	return telling{newConditions(zap.New(core)), logs}
}

// pass lets time pass while this is wrong, and returns what the log was told meanwhile: how many warnings, and how many ends.
func (l telling) pass(d time.Duration, wrong ...check.Condition) (warned, ended int) {
	l.logs.TakeAll()
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.compare(append([]check.Condition{}, wrong...))
		<-time.After(compareEvery)
	}
	for _, e := range l.logs.All() {
		switch e.Level {
		case zap.WarnLevel:
			warned++
		case zap.InfoLevel:
			ended++
		}
	}
	return warned, ended
}

var away = check.Condition{Kind: check.KindExchange, Name: "headquarters", Level: check.LevelWarn, Count: 4, Reason: "connect", Cause: "the connection is refused", Advice: "look"}

func TestAConditionThatLastsIsToldLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTelling()
		if warned, _ := l.pass(time.Minute, away); warned != 1 {
			t.Errorf("%d warnings in the first minute", warned)
		}
		fields := l.logs.All()[0].ContextMap()
		if fields["cause"] != away.Cause || fields["advice"] != away.Advice || fields["mailboxes"] != int64(4) || fields["exchange"] != "headquarters" {
			t.Errorf("%v", fields)
		}
		if warned, _ := l.pass(time.Hour, away); warned < 3 || warned > 6 {
			t.Errorf("%d further warnings within an hour", warned)
		}
		if warned, ended := l.pass(24*time.Hour, away); warned < 23 || warned > 25 || ended != 0 {
			t.Errorf("%d further warnings within a day, %d ends", warned, ended)
		}
	})
}

func TestWhatIsOverIsToldOnceWithHowLongItLasted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTelling()
		l.pass(10*time.Minute, away)
		if warned, ended := l.pass(overAfter - compareEvery); warned != 0 || ended != 0 {
			t.Errorf("%d warnings, %d ends before it is settled", warned, ended)
		}
		if warned, ended := l.pass(time.Hour); warned != 0 || ended != 1 {
			t.Fatalf("%d warnings, %d ends", warned, ended)
		}
		e := l.logs.All()[0]
		if lasted := e.ContextMap()["lasted"].(time.Duration); e.Message != "mailboxes are listened to again" || lasted < 9*time.Minute || lasted > 10*time.Minute {
			t.Errorf("%s, after %v", e.Message, lasted)
		}
		if len(l.known) != 0 {
			t.Errorf("%d conditions are remembered", len(l.known))
		}
	})
}

func TestAConditionThatComesAndGoesIsToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTelling()
		total := 0
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
			warned, _ := l.pass(2*compareEvery, away)
			total += warned
			l.pass(2 * compareEvery)
		}
		if total < 1 || total > 10 {
			t.Errorf("%d warnings in ten minutes", total)
		}
	})
}

func TestWhatConcernsOneMailboxIsNotInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTelling()
		one := away
		one.Level, one.Count = check.LevelInfo, 1
		if warned, ended := l.pass(time.Hour, one); warned != 0 || ended != 0 {
			t.Errorf("%d warnings, %d ends", warned, ended)
		}
		if _, ended := l.pass(time.Hour); ended != 0 {
			t.Errorf("%d ends", ended)
		}
	})
}

func TestTheStatusSaysSinceWhenAndTheWorstFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTelling()
		began := time.Now()
		l.pass(time.Hour, away)
		state := check.Condition{Kind: check.KindState, Level: check.LevelError, Reason: "disk full", Cause: "the disk of the state is full"}
		list := l.now([]check.Condition{away, state})
		if len(list) != 2 || list[0].Kind != check.KindState || !list[0].Since.Equal(time.Now()) || !list[1].Since.Equal(began) {
			t.Errorf("%+v", list)
		}
	})
}
