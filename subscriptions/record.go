package subscriptions

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// Record is where one mailbox stands: the log of the package comment. It is written as one, and it is a value: the
// methods below change a copy, which Mailbox.Update then makes durable.
type Record struct {
	ID           string             `json:"id"` // random, made once; names the mailbox in keys, so that a renamed user keeps everything
	Addresses    []string           `json:"addresses"`
	Account      string             `json:"account,omitempty"`      // the listener account that listens to it
	ListenBy     string             `json:"listen_by,omitempty"`    // how it is listened to; empty: as its exchange entry is configured
	At           *mail.Location     `json:"location,omitempty"`     // where it was found last, which is replaced and never changed; nil: it was not found yet
	Subscription string             `json:"subscription,omitempty"` // kept over a restart (rule 11)
	Subscribed   time.Time          `json:"subscribed,omitzero"`
	Callback     string             `json:"callback,omitempty"` // the nonce of its secret, where it is a push subscription; empty: it is not
	Graph        *GraphSubscription `json:"graph,omitempty"`    // nil: it has none
	Listed       int64              `json:"listed"`             // Unix seconds: the greatest received time that a complete listing has dealt with
	Since        int64              `json:"since"`              // Unix seconds: back to where listings read; moved by complete listings only
	End          uint32             `json:"end"`                // the number of the newest entry ever made
	Outcomes     Outcomes           `json:"outcomes,omitempty"`
	Behind       []Behind           `json:"behind,omitempty"`
	Dies         time.Time          `json:"dies,omitzero"` // when the record goes, while no device is enrolled (rule 5)
}

// GraphSubscription is the subscription that a mailbox has at Microsoft Graph. It is never changed, but replaced by another.
type GraphSubscription struct {
	ID          string    `json:"id,omitempty"`    // empty: the answer that brings it was never written down
	Nonce       string    `json:"nonce,omitempty"` // of its client state
	To          string    `json:"to,omitempty"`    // a digest of the URL to which it posts
	Made        time.Time `json:"made,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`      // as Graph has told
	Certificate string    `json:"certificate,omitempty"` // the id of that for which its messages are encrypted; empty: they do not come
	Asked       string    `json:"asked,omitempty"`       // the nonce of another one that was asked for; empty: none was, or it is this one
}

// Entry says that a message has its outcome.
type Entry struct {
	Key      uint64 // mail.Key.Short
	Number   uint32
	Received uint32 // Unix seconds, as believed
}

// Behind is a device that does not stand at the end of the log (rule 6).
type Behind struct {
	Device string         `json:"device"`
	Number uint32         `json:"number"` // up to here every entry has an acceptance or a reason why not
	Done   []uint64       `json:"done,omitempty"`
	Reason outcome.Reason `json:"reason"`
	Next   time.Time      `json:"next,omitzero"`
}

const (
	// newest bounds the log: listings read back to the 256th newest entry at most, however many came within the window.
	newest = 256
	// apart is how far since stays from the server's clock: no honest clock stands before it (rule 4).
	apart = 2 * mail.Tolerance
	// Asleep is how long a record outlives its last device (rule 5): longer than apart, so that what was alerted of is still known when
	// a device enrols again.
	Asleep = 15 * time.Minute
)

// Clone returns a copy that shares nothing that the methods change: addresses and entries are replaced, and never changed.
func (r *Record) Clone() *Record {
	c := *r
	c.Outcomes = slices.Clip(r.Outcomes) // the room behind them belongs to one copy: see Mailbox.Update
	c.Behind = slices.Clone(r.Behind)
	for i := range c.Behind {
		c.Behind[i].Done = slices.Clone(c.Behind[i].Done)
	}
	return &c
}

// Location is where the mailbox was found last; zero: it was not found yet.
func (r *Record) Location() mail.Location {
	if r.At == nil {
		return mail.Location{}
	}
	return *r.At
}

// Started says whether the record knows the server's clock: until then, since is not to be used.
func (r *Record) Started() bool { return r.Since != 0 }

// Has says whether the log holds an outcome under this key.
func (r *Record) Has(k mail.Key) bool {
	_, ok := r.entry(k.Short())
	return ok
}

func (r *Record) entry(short uint64) (int, bool) {
	for i, e := range slices.Backward(r.Outcomes) {
		if e.Key == short {
			return i, true
		}
	}
	return 0, false
}

// BehindOf returns how a device is behind; nil: it is not.
func (r *Record) BehindOf(device string) *Behind {
	for i := range r.Behind {
		if r.Behind[i].Device == device {
			return &r.Behind[i]
		}
	}
	return nil
}

// Start sets where listings read back to: the tolerance before the first enrolment, once the server's clock is known (rule 5), and
// twice the tolerance before that clock when it fell behind since, after what a listing showed has been entered with the reason clock
// (rule 4).
func (r *Record) Start(since time.Time) {
	r.Since, r.Listed = since.Unix(), since.Unix()
}

// Outcome is what became of one message for the devices of its mailbox.
type Outcome struct {
	Key      mail.Key
	Received time.Time
	ForAll   bool                // for every device, whatever it is: late, future, clock
	Done     map[string]struct{} // the devices that have an acceptance, or a reason why not
}

// Enter is the write that enters outcomes: rules 2 and 6. devices are those that the mailbox has at this moment: who is
// behind is decided here, and not by what was so when the pushes began. why tells the reason of a device that becomes behind.
func (r *Record) Enter(outcomes []Outcome, devices []*Device, why func(device string) (reason outcome.Reason, next time.Time)) {
	before := r.End
	var entered []Outcome
	for _, o := range outcomes {
		if r.Has(o.Key) { // it came from another record meanwhile, and perhaps devices for which ForAll was not decided
			for device := range o.Done {
				r.Deal(device, o.Key)
			}
			continue
		}
		r.End++
		r.Outcomes = r.Outcomes.with(Entry{Key: o.Key.Short(), Number: r.End, Received: seconds(o.Received)})
		entered = append(entered, o)
	}
	for _, d := range devices {
		var done []uint64
		owed := false
		for _, o := range entered {
			if _, ok := o.Done[d.ID]; ok || o.ForAll {
				done = append(done, o.Key.Short())
			} else {
				owed = true
			}
		}
		if b := r.BehindOf(d.ID); b != nil {
			b.Done = append(b.Done, done...)
		} else if owed {
			reason, next := why(d.ID)
			r.Behind = append(r.Behind, Behind{Device: d.ID, Number: before, Done: done, Reason: reason, Next: next})
		}
	}
	r.advance()
}

// Deal adds keys that have an acceptance for a device behind, or a reason why not: a late answer, or a catch-up on its way.
func (r *Record) Deal(device string, keys ...mail.Key) {
	b := r.BehindOf(device)
	if b == nil {
		return
	}
	for _, k := range keys {
		if !slices.Contains(b.Done, k.Short()) {
			b.Done = append(b.Done, k.Short())
		}
	}
	r.advance() // drops what it is not behind with
}

// CaughtUp ends a catch-up (rule 6): everything up to end, the end of the log before its listing began, has an acceptance or a reason.
func (r *Record) CaughtUp(device string, end uint32) {
	if b := r.BehindOf(device); b != nil && end > b.Number {
		b.Number = end
		r.advance()
	}
}

// Hold sets why a device is behind and when to try it next.
func (r *Record) Hold(device string, reason outcome.Reason, next time.Time) {
	if b := r.BehindOf(device); b != nil {
		b.Reason, b.Next = reason, next
	}
}

// Release ends the waiting of those whose mailbox could not be read.
func (r *Record) Release() {
	for i := range r.Behind {
		if r.Behind[i].Reason == outcome.MailboxFailing {
			r.Behind[i].Next = time.Time{}
		}
	}
}

// Owed returns the entries that a device behind has neither an acceptance nor a reason for, up to a number, newest number first.
func (r *Record) Owed(b *Behind, end uint32) (list []Entry) {
	for _, e := range slices.Backward(r.Outcomes) {
		if e.Number > b.Number && e.Number <= end && !slices.Contains(b.Done, e.Key) {
			list = append(list, e)
		}
	}
	return list
}

// advance moves the number of each device behind over what it is not owed, and takes it out of the list in the write in which the
// numbers meet. Entries that were pruned are no longer there to wait for: they count.
func (r *Record) advance() {
	r.Behind = slices.DeleteFunc(r.Behind, func(b Behind) bool {
		return b.Number >= r.End || len(r.Owed(&b, r.End)) == 0
	})
	for i := range r.Behind {
		b := &r.Behind[i]
		owed := r.Owed(b, r.End)
		b.Number = owed[len(owed)-1].Number - 1 // the oldest comes last
		b.Done = slices.DeleteFunc(b.Done, func(k uint64) bool {
			j, ok := r.entry(k)
			return !ok || r.Outcomes[j].Number <= b.Number
		})
	}
}

// dead says that the record has outlived its last device for long enough.
func (r *Record) dead(now time.Time) bool { return !r.Dies.IsZero() && !now.Before(r.Dies) }

// Remove forgets a device that was removed.
func (r *Record) Remove(device string) {
	r.Behind = slices.DeleteFunc(r.Behind, func(b Behind) bool { return b.Device == device })
}

// takeOver gives a device the place of another one with its phone.
func (r *Record) takeOver(d, from *Device) {
	d.Created, d.Since = from.Created, from.Since
	if b := r.BehindOf(from.ID); b != nil {
		b.Device = d.ID
	}
}

// takeUp has a device that is enrolled and has taken the phone of another one keep its own place, and be owed what the other was as well:
// the phone has not got it. What the phone has got, but not the device, it gets again.
func (r *Record) takeUp(d, from *Device) {
	if !from.Since.IsZero() && (d.Since.IsZero() || from.Since.Before(d.Since)) { // else what it takes up would be from before its enrolment
		d.Since = from.Since
	}
	was := r.BehindOf(from.ID)
	own := r.BehindOf(d.ID)
	if was == nil {
		return
	}
	if own == nil {
		was.Device = d.ID
		return
	}
	owed := append(r.Owed(own, r.End), r.Owed(was, r.End)...)
	both := Behind{Device: d.ID, Reason: was.Reason, Next: was.Next} // those of the phone
	for _, e := range r.Outcomes {
		if !slices.Contains(owed, e) {
			both.Done = append(both.Done, e.Key)
		}
	}
	*own = both
	r.Remove(from.ID)
	r.advance()
}

// Shown is a message as a listing showed it.
type Shown struct {
	Key      mail.Key
	Received time.Time
}

// Complete is the write at the end of a complete listing (rules 3 and 4), the only one that moves listed: a later received
// time raises an entry's, listed moves to the newest that was shown, and entries dated before the new since go. clock is the
// server's clock or ours, the earlier one: listed does not pass it, what is dated later does not count for since, and since stays twice
// the tolerance away from it. An entry after end, where the log ended before the listing began, goes only if it was shown: else only a read has
// told its time, and the next listing may show a later one.
// It returns how many entries went that some device behind was still owed.
//
// since is kept in the record and moved forwards here only. Were it computed at any time from the 256th newest entry, then 256
// hinted messages after a lost hint would move it past the message whose hint was lost before a listing could find it
// (TestALostHintIsFoundAfterThreeHundredOthers).
func (r *Record) Complete(shown []Shown, clock time.Time, end uint32) (expired int) {
	now := seconds(clock)
	later := map[uint64]uint32{}
	settled := map[uint64]bool{} // entries after end that were shown
	for _, s := range shown {
		at := seconds(s.Received)
		i, ok := r.entry(s.Key.Short())
		if ok && at > r.Outcomes[i].Received {
			later[s.Key.Short()] = max(later[s.Key.Short()], at)
		}
		if ok && r.Outcomes[i].Number > end {
			settled[s.Key.Short()] = true
		}
		if at <= now {
			r.Listed = max(r.Listed, int64(at))
		}
	}
	r.Outcomes = r.Outcomes.raised(later)
	since := max(r.Listed-int64(mail.Window/time.Second), r.newestEntries(now))
	r.Since = max(r.Since, min(since, clock.Add(-apart).Unix()))
	r.Release() // it could be read
	return r.prune(func(e Entry) bool {
		return int64(e.Received) < r.Since && (e.Number <= end || settled[e.Key])
	})
}

// newestEntries is the received time of the 256th newest entry that is not dated after now; 0 where there are fewer.
func (r *Record) newestEntries(now uint32) int64 {
	if len(r.Outcomes) < newest {
		return 0
	}
	dates := make([]uint32, 0, len(r.Outcomes))
	for _, e := range r.Outcomes {
		if e.Received <= now {
			dates = append(dates, e.Received)
		}
	}
	if len(dates) < newest {
		return 0
	}
	slices.SortFunc(dates, func(a, b uint32) int { return cmp.Compare(b, a) })
	return int64(dates[newest-1])
}

// prune takes out the entries that go.
func (r *Record) prune(goes func(e Entry) bool) (expired int) {
	for i := range r.Behind {
		for _, e := range r.Owed(&r.Behind[i], r.End) {
			if goes(e) {
				expired++
			}
		}
	}
	r.Outcomes = r.Outcomes.without(goes)
	r.advance()
	return expired
}

// Crowded says that the log has grown well past what a complete listing leaves: a listing is due, so that the record stays small.
// Entries that it could not prune do not count, else a busy mailbox would be listed again and again.
func (r *Record) Crowded(clock time.Time) bool {
	if len(r.Outcomes) < 2*newest {
		return false
	}
	since := min(r.newestEntries(seconds(clock)), clock.Add(-apart).Unix())
	prunable := 0
	for _, e := range r.Outcomes {
		if int64(e.Received) < since {
			prunable++
		}
	}
	return prunable >= newest
}

// seconds is a received time as an entry keeps it: whole Unix seconds, cut to what 32 bits hold (1970 to 2106).
func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// debts are what a device of the record is owed of the messages that its Inbox shows, and what it is not, by the keys that they have in another
// record.
func (r *Record) debts(d *Device, twins []Twin) map[uint64]bool {
	open := map[uint64]bool{}
	if b := r.BehindOf(d.ID); b != nil {
		for _, e := range r.Owed(b, r.End) {
			open[e.Key] = true
		}
	}
	debts := make(map[uint64]bool, len(twins))
	for _, t := range twins {
		debts[t.Here.Short()] = open[t.There.Short()] || !r.Has(t.There) && t.Received.Unix() >= d.Since.Unix()
	}
	return debts
}

// Backdate puts a device that came from another record to where it stands in this log: it is owed what its debts say. Of a message that the
// Inbox did not show nobody can tell by its key, for those differ: there, what was received at one time is taken for one message, and what a
// complete listing there has passed counts as dealt with. Its catch-up then sends what it is owed.
func (r *Record) Backdate(device string, there *Record, debts map[uint64]bool) {
	b := Behind{Device: device, Reason: outcome.Enrolled}
	owes := make(map[uint32]bool, len(there.Outcomes)) // by received time; false: it was dealt with
	for _, e := range there.Outcomes {
		owes[e.Received] = false
	}
	if was := there.BehindOf(device); was != nil {
		b.Reason, b.Next = was.Reason, was.Next
		for _, e := range there.Owed(was, there.End) {
			owes[e.Received] = true
		}
	}
	owed := false
	for _, e := range r.Outcomes {
		owe, known := debts[e.Key]
		if !known {
			owe, known = owes[e.Received]
		}
		if !known {
			owe = int64(e.Received) > there.Listed
		}
		if !owe {
			b.Done = append(b.Done, e.Key)
		}
		owed = owed || owe
	}
	if owed {
		r.Behind = append(r.Behind, b)
		r.advance()
	}
}

// adopt enters messages that the record there has dealt with and this one has not, or that are dated before since, where this one has not
// looked. devices are all that it has now, and comes has the debts of those that have come, by their ids. They catch up with them: since goes
// back to the oldest, and what is not dated before that is entered for whomever it is owed, so that the next listing, which shows it, sends it to
// nobody again.
func (r *Record) adopt(there *Record, twins []Twin, devices []*Device, comes map[string]coming) {
	since := r.Since
	var outcomes []Outcome
	for _, t := range twins {
		at := t.Received.Unix()
		if r.Has(t.Here) || !there.Has(t.There) && at >= r.Since { // the next listing deals with it
			continue
		}
		o := Outcome{Key: t.Here, Received: t.Received, Done: map[string]struct{}{}}
		for _, d := range devices {
			owes := at >= r.Since
			if c, ok := comes[d.ID]; ok {
				owes = c.debts[t.Here.Short()]
				if owes && d.Since.After(t.Received) { // it has the place of another one here
					d.Since = t.Received
				}
			}
			if !owes {
				o.Done[d.ID] = struct{}{}
			}
		}
		if len(o.Done) < len(devices) {
			since = min(since, at)
		}
		outcomes = append(outcomes, o)
	}
	outcomes = slices.DeleteFunc(outcomes, func(o Outcome) bool { return o.Received.Unix() < since })
	r.Enter(outcomes, devices, func(id string) (outcome.Reason, time.Time) {
		if b := there.BehindOf(comes[id].was); b != nil {
			return b.Reason, b.Next
		}
		return outcome.Enrolled, time.Time{}
	})
	r.Since = since
}

// coming is a device that comes from another record.
type coming struct {
	was   string // the id that it had there
	debts map[uint64]bool
}
