package service

// What systemd is told of the service: that it has started, reloads and stops, how it stands in a line, and that it lives. A service is ready
// once its sockets and its state are open and calls are answered, by a standby too: that takes nothing of Exchange, APNs or Redis, whose
// outages another start would not mend. For the same reason it lives as long as its own parts do their work: the watchdog asks them nothing
// that they would have to ask somebody else.

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/internal/systemd"
	"github.com/mailbell/mailbell/subscriptions"
)

// superviseEvery is the time between two lines for systemd where it keeps no watchdog; with one, half of its time.
const superviseEvery = 30 * time.Second

// Notify has systemd told how the service stands, and started called once calls are answered. It is called before Run.
func (s *Service) Notify(n *systemd.Notifier, started func()) { s.systemd, s.started = n, started }

// tell logs that systemd could not be told: it would end a service that it does not hear of.
func (s *Service) tell(err error) {
	if err != nil {
		s.log.Warn("systemd could not be told", zap.Error(err))
	}
}

// begun tells that the service has started.
func (s *Service) begun() {
	s.started()
	s.tell(s.systemd.Ready())
	s.tell(s.systemd.Status(s.standing()))
}

// supervise tells systemd how the service stands, and that it lives, until ctx ends. Where a part of it hangs, this hangs too, and systemd hears
// nothing more.
func (s *Service) supervise(ctx context.Context) {
	if !s.systemd.Asked() {
		return
	}
	every := superviseEvery
	if w := s.systemd.Watchdog(); w > 0 {
		every = w / 2
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.tell(s.systemd.Stopping())
			s.tell(s.systemd.Status("stopping"))
			return
		case <-tick.C:
		}
		s.tell(s.systemd.Status(s.standing()))
		if s.lives() {
			s.tell(s.systemd.Alive())
		}
	}
}

// lives looks whether the service does its work.
func (s *Service) lives() bool {
	r := s.working.Load()
	if r == nil {
		return true
	}
	idle := r.inbox.Idle()
	if len(idle) > 0 {
		s.log.Error("marked mailboxes are not read although they may be; systemd is not told that mailbell lives", zap.Strings("exchange", idle))
	}
	return len(idle) == 0
}

// standing is how the service stands, in a line.
func (s *Service) standing() string {
	r := s.working.Load()
	if r == nil {
		if why := s.aside.Load(); why != nil {
			return *why
		}
		return "starting"
	}
	count, all := r.listener.Count(), 0 // it asks every mailbox, with its locks
	var words []string
	for _, state := range subscriptions.States() {
		all += count[state]
		if count[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	if all == 0 {
		return "no mailbox"
	}
	return quantity.Of(all, "mailbox", "mailboxes") + ": " + strings.Join(words, ", ")
}
