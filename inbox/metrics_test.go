package inbox

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/mailbell/mailbell/subscriptions"
)

// The histogram has the time from the notification to the acceptance, for each device, and nothing of what only a listing found.
func TestTheTimeToAnAlertIsThatFromTheNotificationToTheAcceptance(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.pass(time.Minute)
		s.apns.set(func() {
			s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
				<-time.After(300 * time.Millisecond)
				return subscriptions.Answer{At: time.Now()}
			}
		})
		told := s.source.come(alice)
		s.pass(time.Second)
		s.source.quietly(func() { s.source.come(alice) })
		s.mailbox(alice).List()
		s.pass(time.Minute)
		s.accepted(1, "a", told)
		var m dto.Metric
		if err := s.in.metrics.alert.(prometheus.Metric).Write(&m); err != nil {
			t.Fatal(err)
		}
		h := m.GetHistogram()
		if h.GetSampleCount() != 2 || h.GetSampleSum() < 0.6 || h.GetSampleSum() > 0.61 || h.GetSchema() == 0 && len(h.GetPositiveSpan()) == 0 {
			t.Errorf("%v", h)
		}
	})
}
