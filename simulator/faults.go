package simulator

// The faults: one table of all of them, and what is set at the moment.

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Fault says whom a fault meets and how often. Every field may be left out; which ones a fault takes stands in its row of
// the table. Without Share and Count it meets everything, until it is cleared.
type Fault struct {
	Mailbox string  `json:"mailbox,omitempty"` // only this one
	Host    string  `json:"host,omitempty"`    // only this host of Exchange: OnPremises, Online or Other
	Token   string  `json:"token,omitempty"`   // only this device
	Share   float64 `json:"share,omitempty"`   // of the cases, above 0 to 1
	Count   int     `json:"count,omitempty"`   // so many cases, then it is cleared
	Status  int     `json:"status,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // cleared after that time, where the row says nothing else
	Limit   int     `json:"limit,omitempty"`
}

// FaultInfo describes a fault, and how it is set if it is.
type FaultInfo struct {
	Name   string   `json:"name"`
	Text   string   `json:"text"`
	Fields []string `json:"fields"`
	Set    *Fault   `json:"set"`
}

// faultKind is a row of the table.
type faultKind struct {
	name   string
	fields string // those of Fault that it takes, by their JSON names
	text   string
}

// Names of the faults as the code uses them.
const (
	streamFIN            = "stream_fin"
	streamRST            = "stream_rst"
	streamHalf           = "stream_half"
	streamSilent         = "stream_silent"
	eventsDropped        = "events_dropped"
	eventsDoubled        = "events_doubled"
	eventsReordered      = "events_reordered"
	subscriptionsLost    = "subscriptions_lost"
	wrongPassword        = "wrong_password"
	mailboxUnknown       = "mailbox_unknown"
	impersonationRefused = "impersonation_refused"
	serverBusy           = "server_busy"
	serverRestart        = "server_restart"
	mailboxMove          = "mailbox_move"
	moveSilent           = "move_silent"
	ewsBlocked           = "ews_blocked"
	subscriptionsNone    = "subscriptions_none"
	autodiscoverAway     = "autodiscover_away"
	autodiscoverRefused  = "autodiscover_refused"
	autodiscoverLimit    = "autodiscover_limit"
	exchangeAnswer       = "exchange_answer"
	exchangeDelay        = "exchange_delay"
	itemUnreadable       = "item_unreadable"
	receivedAsSent       = "received_as_sent"
	clockSkew            = "clock_skew"
	answerGarbage        = "answer_garbage"
	answerHuge           = "answer_huge"
	answerEntities       = "answer_entities"
	answerControlChars   = "answer_control_chars"
	apnsCut              = "apns_cut"
	apnsGoAway           = "apns_goaway"
	apnsGoAwayClose      = "apns_goaway_close"
	apnsDead             = "apns_dead"
	apnsStall            = "apns_stall"
	apnsAnswer           = "apns_answer"
	apnsDelay            = "apns_delay"
	apnsStreams          = "apns_streams"
	apnsLimitKept        = "apns_limit_kept"
)

// Shapes of server_busy, by its reason.
const (
	busyFault   = "fault"
	busyMessage = "message"
	busyInner   = "inner"
	busyHTTP    = "http"
)

// answerClosed is the reason with which autodiscover_away closes connections.
const answerClosed = "closed"

const often = "mailbox host share count seconds"

// faultTable has every fault. "At once" means that it is done when it is set and over with that.
var faultTable = []faultKind{
	{streamFIN, "mailbox host share count", "At once: open streams end with a FIN, without ConnectionStatus Closed."},
	{streamRST, "mailbox host share count", "At once: open streams end with a TCP reset."},
	{streamHalf, often, "The next envelope of a stream is cut off half-way and its connection closed; the events in it are gone."},
	{streamSilent, "mailbox host seconds", "Streams write nothing, not even heartbeats, while their connections stay open; what they would have written comes when the fault is cleared, or is gone with the connection."},
	{eventsDropped, often, "A new message causes no events."},
	{eventsDoubled, often, "A new message causes its events twice."},
	{eventsReordered, "mailbox host seconds", "The events of a new message come behind those of the next one for its mailbox, or when the fault is cleared."},
	{subscriptionsLost, "mailbox host share count", "At once: subscriptions are forgotten; their streams are told ErrorSubscriptionNotFound."},
	{wrongPassword, often, "HTTP 401 to every request of EWS and Autodiscover; with a mailbox, to those that act on it."},
	{mailboxUnknown, often, "EWS answers ErrorNonExistentMailbox, Autodiscover its error 500."},
	{impersonationRefused, often, "EWS answers ErrorImpersonateUserDenied to requests that impersonate."},
	{serverBusy, often + " reason", "EWS throttles, and asks for a back-off of the time left of `seconds`, or 10 s. `reason` is the shape: fault (that is also the default), a SOAP fault with BackOffMilliseconds; message, ErrorServerBusy in the response messages; inner, ErrorInternalServerError there, with ErrorServerBusy inside and no back-off; http, a bare HTTP 503 with Retry-After."},
	{serverRestart, "host seconds", "At once: all subscriptions are forgotten and all connections to Exchange cut; it accepts none for `seconds`."},
	{mailboxMove, "mailbox host seconds", "Mailboxes move: their subscriptions end with ErrorInvalidSubscription and the text of a move, and EWS answers ErrorMailboxMoveInProgress to what acts on them, until the fault is cleared. Autodiscover tells the same place as before."},
	{moveSilent, often, "A mailbox that moves to another host or mailbox server ends its subscriptions without a word: its streams beat, and tell nothing of it any more. Otherwise they are told ErrorInvalidSubscription and the text of a move."},
	{ewsBlocked, "host share count seconds", "EWS answers every call with HTTP 403 and no body, as Exchange Online does where the tenant has switched it off (EWSEnabled) or the app is not on its list (EwsAllowedAppIDs)."},
	{subscriptionsNone, often, "Subscribe answers ErrorExceededSubscriptionCount, whatever there is: EWSMaxSubscriptions is 0 for the mailbox, which turns off every kind of notification."},
	{autodiscoverAway, "host seconds reason", "Autodiscover is not there, V2 included: HTTP 404, or with the reason closed the connection ends without an answer."},
	{autodiscoverRefused, "host share count seconds status", "Autodiscover answers HTTP `status` (403), or 401, to requests with a token, as to an app that has its rights by RBAC for Applications; V2 needs no token and answers."},
	{autodiscoverLimit, "host seconds limit", "Autodiscover as SOAP takes `limit` (10) addresses of a request, not 100, and answers InvalidRequest to more."},
	{exchangeAnswer, often + " status reason", "EWS answers every operation with the response code `reason` (ErrorInternalServerTransientError), or with the bare HTTP `status`."},
	{exchangeDelay, "mailbox host seconds", "EWS answers `seconds` later; streams are not delayed."},
	{itemUnreadable, often + " reason", "GetItem answers the response code `reason` (ErrorItemCorrupt) for an item; listings still show it."},
	{receivedAsSent, "mailbox host", "GetItem tells the sender's Date as DateTimeReceived, as some servers do; listings tell it right."},
	{clockSkew, "host seconds", "The clock of Exchange is ahead by `seconds` (below 0: behind): HTTP Date, time stamps and received times."},
	{answerGarbage, often, "An answer of EWS that is not XML."},
	{answerHuge, often, "An answer of EWS of 256 MiB: no client should read it to its end."},
	{answerEntities, often, "An answer of EWS with a DTD and entities that unfold without end."},
	{answerControlChars, often, "Subjects in answers of EWS hold characters that XML does not allow, as references such as &#x1F; and as raw bytes."},
	{tokenAway, "share count seconds status", "The token service is away: it closes connections without an answer, or answers the bare HTTP `status`."},
	{tokenSlow, "seconds", "The token service answers `seconds` later; without them it answers no request that comes meanwhile."},
	{tokenRefused, "share count seconds reason", "The token service refuses with the error code `reason`, as AADSTS7000215; without one it is a transient error."},
	{tokenShort, "seconds", "Access tokens that are issued now live for `seconds`, at least one."},
	{tokensRevoked, "", "At once: Exchange Online takes none of the access tokens issued so far; new ones work."},
	{apnsCut, "token share count", "Connections to APNs are closed, answers in flight are lost. Without share and count at once, all connections; else whenever it meets a request, which is taken, but not answered."},
	{apnsGoAway, "", "At once: APNs asks every connection to go away, answers what it has, then closes."},
	{apnsGoAwayClose, "", "At once: APNs asks every connection to go away and closes it there and then; requests in flight may have been taken, their answers are lost."},
	{apnsDead, "seconds", "The connections to APNs that are open are dead: neither read nor written nor closed, and PING is not answered; new ones work. When the fault is cleared they are cut, and what was sent on them meanwhile never came."},
	{apnsStall, "token seconds", "APNs reads requests but neither takes nor answers them until the fault is cleared; PING is answered."},
	{apnsAnswer, "token share count seconds status reason", "APNs answers `status` and `reason` instead of taking the alert. Each follows from the other where Apple's table has it; without both it is 500 InternalServerError. A 410 comes with a timestamp: now, or that of Unregister; a 503 with Retry-After: the time left of `seconds`, or 1 s."},
	{apnsDelay, "token seconds", "APNs answers `seconds` later."},
	{apnsStreams, "seconds limit", "The stream limit of a connection (MAX_CONCURRENT_STREAMS) is `limit` (1) after an accepted alert, not 1000; open connections are told at once."},
	{apnsLimitKept, "seconds", "A refused alert leaves the stream limit as it is. Without this fault the limit falls to 1 until the next accepted one, as at Apple."},
}

// valued lists the faults whose seconds are not the time after which they are cleared.
var valued = []string{exchangeDelay, apnsDelay, clockSkew, serverRestart, tokenSlow, tokenShort}

// FaultError says why a fault cannot be set.
type FaultError struct {
	Name, Field string // Field is empty where the name is the mistake
	Text        string
}

func (e *FaultError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("fault %q: %s", e.Name, e.Text)
	}
	return fmt.Sprintf("fault %q: %s: %s", e.Name, e.Field, e.Text)
}

func faultRow(name string) (faultKind, bool) {
	i := slices.IndexFunc(faultTable, func(k faultKind) bool { return k.name == name })
	if i < 0 {
		return faultKind{}, false
	}
	return faultTable[i], true
}

// check reports what is wrong with f as the fault of that name; nil if nothing is.
func (f Fault) check(name string) error {
	row, ok := faultRow(name)
	if !ok {
		return &FaultError{Name: name, Text: "there is no such fault"}
	}
	takes := strings.Fields(row.fields)
	for field, given := range map[string]bool{
		"mailbox": f.Mailbox != "", "host": f.Host != "", "token": f.Token != "", "share": f.Share != 0, "count": f.Count != 0,
		"status": f.Status != 0, "reason": f.Reason != "", "seconds": f.Seconds != 0, "limit": f.Limit != 0,
	} {
		if given && !slices.Contains(takes, field) {
			return &FaultError{name, field, "this fault does not take it"}
		}
	}
	switch {
	case f.Host != "" && !slices.Contains([]string{OnPremises, Online, Other}, f.Host):
		return &FaultError{name, "host", "must be onpremises, online or other"}
	case math.IsNaN(f.Share) || f.Share < 0 || f.Share > 1:
		return &FaultError{name, "share", "must be above 0 and at most 1"}
	case f.Count < 0:
		return &FaultError{name, "count", "must be above 0"}
	case math.IsNaN(f.Seconds) || math.Abs(f.Seconds) > maxFaultSeconds || f.Seconds < 0 && name != clockSkew:
		return &FaultError{name, "seconds", fmt.Sprintf("must be above 0 and at most %d", int(maxFaultSeconds))}
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return &FaultError{name, "status", "must be an HTTP status, 200 to 599"}
	case f.Limit < 0 || f.Limit > math.MaxInt32:
		return &FaultError{name, "limit", "must be above 0"}
	case name == serverBusy && !slices.Contains([]string{"", busyFault, busyMessage, busyInner, busyHTTP}, f.Reason):
		return &FaultError{name, "reason", "must be fault, message, inner or http"}
	case name == autodiscoverAway && f.Reason != "" && f.Reason != answerClosed:
		return &FaultError{name, "reason", "must be closed"}
	case name == autodiscoverRefused && f.Status != 0 && f.Status != http.StatusUnauthorized && f.Status != http.StatusForbidden:
		return &FaultError{name, "status", "must be 401 or 403"}
	case name == exchangeAnswer && f.Reason != "" && f.Status != 0:
		return &FaultError{name, "status", "goes without reason"}
	case name == tokenRefused:
		if _, known := findAADSTS(f.Reason); f.Reason != "" && !known {
			return &FaultError{name, "reason", "must be a code of Entra ID that this simulator knows, as AADSTS7000215"}
		}
	case len(f.Reason) > 100 || strings.ContainsFunc(f.Reason, func(r rune) bool { return r < 'A' || r > 'z' || r > 'Z' && r < 'a' }):
		return &FaultError{name, "reason", "must be a name of letters"}
	}
	return nil
}

// maxFaultSeconds is a year: more than any test means, and far from where a time.Duration overflows.
const maxFaultSeconds = 365 * 24 * 3600.0

// faults is what is set at the moment.
type faults struct {
	changed func(name string) // called without a lock after a fault was set or cleared
	set     atomic.Int32      // how many are set: 0 costs nothing on the hot paths

	mu     sync.Mutex
	active map[string]*activeFault
}

type activeFault struct {
	Fault
	left  int // of Count
	until time.Time
	timer *time.Timer
	dice  *rand.Rand
}

func newFaults(changed func(string)) *faults {
	return &faults{changed: changed, active: map[string]*activeFault{}}
}

// put sets a fault in place of an earlier one of that name.
func (s *faults) put(name string, f Fault) {
	a := &activeFault{Fault: f, left: f.Count, dice: rand.New(rand.NewPCG(1, 2))} // a fixed seed: a test's run can be had again
	s.mu.Lock()
	s.drop(name)
	if f.Seconds > 0 && !slices.Contains(valued, name) {
		d := seconds(f.Seconds)
		a.until = time.Now().Add(d)
		a.timer = time.AfterFunc(d, func() { s.clearIf(name, a) })
	}
	s.active[name] = a
	s.set.Store(int32(len(s.active)))
	s.mu.Unlock()
	s.changed(name)
}

// drop removes a fault; s.mu is held.
func (s *faults) drop(name string) bool {
	a, ok := s.active[name]
	if !ok {
		return false
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	delete(s.active, name)
	s.set.Store(int32(len(s.active)))
	return true
}

func (s *faults) clearIf(name string, a *activeFault) {
	s.mu.Lock()
	same := s.active[name] == a
	if same {
		s.drop(name)
	}
	s.mu.Unlock()
	if same {
		s.changed(name)
	}
}

func (s *faults) clear(name string) {
	s.mu.Lock()
	was := s.drop(name)
	s.mu.Unlock()
	if was {
		s.changed(name)
	}
}

// close stops the timers.
func (s *faults) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.active {
		s.drop(name)
	}
}

// on reports a fault that holds for the mailbox or token, without using up one of its cases.
func (s *faults) on(name, mailbox, token string) (Fault, bool) {
	return s.onAt("", name, mailbox, token)
}

// hit reports whether a fault meets this case, and counts it.
func (s *faults) hit(name, mailbox, token string) (Fault, bool) {
	return s.hitAt("", name, mailbox, token)
}

// hostFaults is the faults as a host of Exchange meets them.
type hostFaults struct {
	*faults
	host string
}

func (s hostFaults) on(name, mailbox, token string) (Fault, bool) {
	return s.onAt(s.host, name, mailbox, token)
}

func (s hostFaults) hit(name, mailbox, token string) (Fault, bool) {
	return s.hitAt(s.host, name, mailbox, token)
}

func (s *faults) onAt(host, name, mailbox, token string) (Fault, bool) {
	if s.set.Load() == 0 {
		return Fault{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.active[name]
	if !ok || !a.concerns(host, mailbox, token) {
		return Fault{}, false
	}
	return a.Fault, true
}

func (s *faults) hitAt(host, name, mailbox, token string) (Fault, bool) {
	if s.set.Load() == 0 {
		return Fault{}, false
	}
	s.mu.Lock()
	a, ok := s.active[name]
	if !ok || !a.concerns(host, mailbox, token) || !a.met() {
		s.mu.Unlock()
		return Fault{}, false
	}
	f := a.Fault
	if !a.until.IsZero() {
		f.Seconds = max(0, time.Until(a.until).Seconds())
	}
	used := a.Count > 0 && a.left == 0
	if used {
		s.drop(name)
	}
	s.mu.Unlock()
	if used {
		s.changed(name)
	}
	return f, true
}

func (a *activeFault) concerns(host, mailbox, token string) bool {
	return a.at(host) && (a.Mailbox == "" || a.Mailbox == mailbox) && (a.Token == "" || strings.EqualFold(a.Token, token))
}

func (a *activeFault) at(host string) bool { return a.Host == "" || a.Host == host }

// met draws for Share and counts down Count.
func (a *activeFault) met() bool {
	if a.Share > 0 && a.Share < 1 && a.dice.Float64() >= a.Share {
		return false
	}
	if a.Count > 0 {
		if a.left == 0 {
			return false
		}
		a.left--
	}
	return true
}

func (s *faults) snapshot() map[string]Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[string]Fault, len(s.active))
	for name, a := range s.active {
		m[name] = a.Fault
	}
	return m
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// SetFault sets a fault, in place of an earlier one of that name, or does it at once where the table says so. A mistake is
// a *FaultError.
func (s *Server) SetFault(name string, f Fault) error {
	if err := f.check(name); err != nil {
		return err
	}
	f.Mailbox = normal(f.Mailbox)
	once := &activeFault{Fault: f, left: f.Count, dice: rand.New(rand.NewPCG(1, 2))}
	switch {
	case name == apnsCut && f.Share == 0 && f.Count == 0 && f.Token == "":
		s.pushes.cutAll()
	case name == apnsGoAway:
		s.pushes.goAwayAll()
	case name == apnsGoAwayClose:
		s.pushes.goAwayAndClose()
	case name == tokensRevoked:
		s.entra.revoke()
	case slices.Contains([]string{serverRestart, subscriptionsLost, streamFIN, streamRST}, name):
		for _, x := range s.org.hosts {
			x.breakOnce(name, once)
		}
	default:
		s.faults.put(name, f)
	}
	if name == mailboxMove {
		for _, x := range s.org.hosts {
			x.endMoved(once)
		}
	}
	s.logf("fault %s", name)
	return nil
}

// breakOnce does what a fault does at once.
func (x *exchange) breakOnce(name string, f *activeFault) {
	switch {
	case !f.at(x.name):
	case name == serverRestart:
		x.restart(seconds(f.Seconds))
	case name == subscriptionsLost:
		x.loseSubscriptions(f)
	default:
		x.cutStreams(f, name == streamRST)
	}
}

// ClearFault ends a fault. One that is not set is no mistake, an unknown name is a *FaultError.
func (s *Server) ClearFault(name string) error {
	if _, ok := faultRow(name); !ok {
		return &FaultError{Name: name, Text: "there is no such fault"}
	}
	s.faults.clear(name)
	return nil
}

// Faults lists every fault, with a sentence each, and how it is set.
func (s *Server) Faults() []FaultInfo {
	set := s.faults.snapshot()
	all := make([]FaultInfo, 0, len(faultTable))
	for _, row := range faultTable {
		info := FaultInfo{Name: row.name, Text: row.text, Fields: strings.Fields(row.fields)}
		if f, ok := set[row.name]; ok {
			info.Set = &f
		}
		all = append(all, info)
	}
	return all
}

// faultNames is for messages.
func faultNames() []string {
	names := make([]string, 0, len(faultTable))
	for _, row := range faultTable {
		names = append(names, row.name)
	}
	return names
}

// clock is the one of Exchange, which a fault can set wrong.
type clock struct {
	faults interface {
		on(name, mailbox, token string) (Fault, bool)
	}
}

func (c clock) now() time.Time {
	t := time.Now()
	if f, ok := c.faults.on(clockSkew, "", ""); ok {
		t = t.Add(seconds(f.Seconds))
	}
	return t.UTC()
}

func (c clock) httpDate() string { return c.now().Format(http.TimeFormat) }
