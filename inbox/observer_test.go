package inbox

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// watcher notes what an observer is told.
type watcher struct {
	mu    sync.Mutex
	list  []string
	names map[mail.Key]string
}

func (w *watcher) Read(key mail.Key, m *mail.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[key] = m.Subject
	w.list = append(w.list, "read "+m.Subject)
}

func (w *watcher) Decided(d subscriptions.Decision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, fmt.Sprintf("%s: %s on %s", w.names[d.Key], d.Outcome, d.Device))
}

func (w *watcher) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.list
	w.list = nil
	return told
}

func TestAnObserverSeesEachMessageReadBeforeWhatIsDecidedAboutIt(t *testing.T) {
	inScene(t, func(s *scene) {
		w := &watcher{names: map[mail.Key]string{}}
		s.observer = w
		s.start()
		s.enrol("a1", alice)
		s.source.come(alice)
		synctest.Wait()
		if got, want := w.told(), []string{"read No. 1", "No. 1: accepted on a1"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		s.source.silence() // only a listing finds it
		s.source.come(alice)
		s.mailbox(alice).List()
		synctest.Wait()
		if got, want := w.told(), []string{"read No. 2", "No. 2: accepted on a1"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		release := s.apns.hold("a1", outcome.Throttled, time.Second)
		s.source.come(alice)
		s.mailbox(alice).List()
		synctest.Wait()
		if got, want := w.told(), []string{"read No. 3", "No. 3: behind on a1"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		release()
		s.pass(time.Minute) // it catches up
		if got := w.told(); len(got) == 0 || got[len(got)-1] != "No. 3: accepted on a1" {
			t.Errorf("%q", got)
		}
	})
}
