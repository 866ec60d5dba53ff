package changes

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
)

const (
	// sweepAfter is how long after the first mailbox has joined the list of subscriptions is compared with what is known: until then most
	// have joined.
	sweepAfter = time.Minute
	// sweepTries bounds how often the list is asked for where that fails.
	sweepTries = 5
	// unknownFor is how long a subscription is unknown before it is removed: longer than what is being made takes to be written down.
	unknownFor = 2 * time.Minute
)

// sweep compares, once after a start, the subscriptions at Graph with those that are known here. One that only Graph has (its record was
// lost, or was never written) is removed; one that Graph does not have any more is made anew. Only subscriptions with a URL of this
// mailbell are touched.
func (k *Keeper) sweep() {
	if !pause.For(k.ctx, sweepAfter) {
		return
	}
	began := time.Now()
	all, err := k.o.Server.Subscriptions(k.ctx)
	for tries := 1; err != nil && tries < sweepTries; tries++ {
		if !pause.For(k.ctx, fault.Of(err).Pause(tries)) {
			return
		}
		began = time.Now()
		all, err = k.o.Server.Subscriptions(k.ctx)
	}
	if err != nil {
		if k.ctx.Err() == nil {
			k.o.Log.Warn("the subscriptions at Microsoft Graph could not be listed; those that an earlier start has left behind end by themselves", zap.Error(err))
		}
		return
	}
	k.replaceLost(all, began)
	unknown := k.unknown(all)
	if len(unknown) == 0 || !pause.For(k.ctx, unknownFor) {
		return
	}
	unknown = k.unknown(unknown)
	k.o.Log.Info("subscriptions at Microsoft Graph that no mailbox has are removed", zap.Int("subscriptions", len(unknown)))
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range unknown {
		k.add(removal, write{id: s.ID})
	}
}

// unknown returns the subscriptions of this mailbell that no mailbox has.
func (k *Keeper) unknown(list []graph.Listed) (unknown []graph.Listed) {
	ours, _, _ := strings.Cut(k.o.Receiver.shown, "…")
	known := k.o.Known()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range list {
		_, recorded := known[s.ID]
		if strings.HasPrefix(s.NotificationURL, ours) && !recorded && k.current[s.ID] == nil {
			unknown = append(unknown, s)
		}
	}
	return unknown
}

// replaceLost has the mailboxes subscribed anew whose subscription was made before the list began and is not in it.
func (k *Keeper) replaceLost(all []graph.Listed, began time.Time) {
	listed := make(map[string]struct{}, len(all))
	for _, s := range all {
		listed[s.ID] = struct{}{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	lost := 0
	for id, m := range k.current {
		if _, there := listed[id]; there || m.now == nil || m.now.id != id || !m.now.renewed.Before(began) {
			continue
		}
		m.lose()
		lost++
	}
	if lost > 0 {
		k.o.Log.Info("subscriptions at Microsoft Graph are lost; their mailboxes are subscribed anew", zap.Int("mailboxes", lost))
		k.changed()
	}
}
