package expiry

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines sums up what the log has.
func lines(log *observer.ObservedLogs) (list []string) {
	for _, l := range log.TakeAll() {
		m := l.ContextMap()
		s := fmt.Sprint(l.Message, " ", m["kind"], " ", m["name"])
		if days, ok := m["days"]; ok {
			s += fmt.Sprint(" ", days)
		}
		list = append(list, s)
	}
	return list
}

// running is a calendar that runs until the test ends.
func running(t *testing.T) (*Calendar, *observer.ObservedLogs) {
	t.Helper()
	core, log := observer.New(zap.DebugLevel)
	c := New(zap.New(core))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return c, log
}

func TestItWarnsThirtySevenAndOneDaysAheadAndOnTheDayOnceEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := running(t)
		c.Set(credential.ClientSecret, "listener-01", time.Now().Add(40*day))
		for _, step := range []struct {
			after time.Duration
			want  []string
		}{
			{9 * day, nil},
			{day, []string{"expires soon client_secret listener-01 30"}},
			{22 * day, nil},
			{day, []string{"expires soon client_secret listener-01 7"}},
			{5 * day, nil},
			{day, []string{"expires soon client_secret listener-01 1"}},
			{23 * time.Hour, nil},
			{time.Hour, []string{"has expired client_secret listener-01"}},
			{100 * day, nil},
		} {
			<-time.After(step.after)
			synctest.Wait()
			if diff := cmp.Diff(step.want, lines(log)); diff != "" {
				t.Errorf("after %v more (-want +got):\n%s", step.after, diff)
			}
		}
	})
}

func TestWhatIsSetLateIsToldAtOnceAndOnlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := running(t)
		at := time.Now().Add(5 * day)
		for range 3 {
			c.Set(Server, "ex.contoso.com", at)
			synctest.Wait()
		}
		c.Set(TLS, "portal", time.Now().Add(-time.Hour))
		synctest.Wait()
		if diff := cmp.Diff([]string{"expires soon server ex.contoso.com 5", "has expired tls portal"}, lines(log)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatIsRenewedStartsAnewAndWhatIsGoneIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := running(t)
		c.Set(APNsCertificate, "com.contoso.mail", time.Now().Add(20*day))
		c.Set(credential.Certificate, "app-01", time.Now().Add(35*day))
		synctest.Wait()
		lines(log)
		c.Set(APNsCertificate, "com.contoso.mail", time.Now().Add(365*day))
		c.Set(credential.Certificate, "app-01", time.Time{})
		<-time.After(330 * day)
		synctest.Wait()
		if got := lines(log); len(got) != 0 {
			t.Errorf("too early, or of what is gone: %v", got)
		}
		<-time.After(5 * day)
		synctest.Wait()
		if diff := cmp.Diff([]string{"expires soon apns_certificate com.contoso.mail 30"}, lines(log)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheListAndTheMetricHaveTheFirstFirst(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c := New(zap.NewNop())
	c.Set(TLS, "portal", noon.Add(day))
	c.Set(Server, "b.contoso.com", noon)
	c.Set(Server, "a.contoso.com", noon)
	c.Set(credential.ClientSecret, "gone", noon)
	c.Set(credential.ClientSecret, "gone", time.Time{})
	want := []Entry{{Server, "a.contoso.com", noon}, {Server, "b.contoso.com", noon}, {TLS, "portal", noon.Add(day)}}
	if diff := cmp.Diff(want, c.List()); diff != "" {
		t.Error(diff)
	}
	const metric = `# HELP mailbell_credential_expires_timestamp_seconds When a credential or certificate expires, in seconds since 1970.
# TYPE mailbell_credential_expires_timestamp_seconds gauge
mailbell_credential_expires_timestamp_seconds{kind="server",name="a.contoso.com"} 1.7953488e+09
mailbell_credential_expires_timestamp_seconds{kind="server",name="b.contoso.com"} 1.7953488e+09
mailbell_credential_expires_timestamp_seconds{kind="tls",name="portal"} 1.7954352e+09
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(metric)); err != nil {
		t.Error(err)
	}
}

func TestTheNamesAreBounded(t *testing.T) {
	c := New(zap.NewNop())
	for i := range maxEntries + 5 {
		c.Set(Server, fmt.Sprint(i), time.Now())
	}
	if n := len(c.List()); n != maxEntries {
		t.Errorf("%d names", n)
	}
	later := time.Now().Add(day)
	c.Set(Server, "3", later)
	if list := c.List(); !list[len(list)-1].At.Equal(later) {
		t.Error("one that is there cannot be renewed")
	}
}

func TestAChainExpiresWithItsFirstCertificate(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	chain := []*x509.Certificate{{NotAfter: noon.Add(day)}, {NotAfter: noon}, {NotAfter: noon.Add(2 * day)}}
	if got := Earliest(chain); !got.Equal(noon) {
		t.Errorf("got %v", got)
	}
	if got := Earliest(nil); !got.IsZero() {
		t.Errorf("an empty chain expires at %v", got)
	}
}

func TestAClockThatWasAheadTakesNoWarningAway(t *testing.T) {
	core, log := observer.New(zap.DebugLevel)
	c, now := New(zap.New(core)), time.Now()
	c.Set(TLS, "portal", now.Add(20*day))
	for _, at := range []time.Duration{365 * day, 0, time.Hour, 14 * day} {
		c.warn(now.Add(at))
	}
	want := []string{"has expired tls portal", "expires soon tls portal 6"}
	if diff := cmp.Diff(want, lines(log)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
