package callbacks

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// maxReading bounds the posts that are read at once: Exchange posts once a subscription, small and at once.
	maxReading = 256
	// maxOfOne bounds those of one mailbox: Exchange waits for an answer before it posts again. So whoever knows one secret cannot take all
	// places by posting slowly.
	maxOfOne = 4
	// readTimeout bounds the time that a post may take to arrive.
	readTimeout = 5 * time.Second
	// strangers is how many posts a second with an unknown secret are answered: those of subscriptions that mailbell has given up come once,
	// and once more in 30 s where they are not answered.
	strangers = 500
	// keptFor is how long a subscription of the last start goes on while its mailbox does not join: it cannot be found, or has no device any
	// more.
	keptFor = time.Hour
)

// Receiver takes the posts for all mailboxes, of every listener account.
//
// A post to an unknown secret is answered that its subscription ends, whatever the secret looks like: that is how a subscription ends that
// mailbell has given up. So nobody learns from an answer whether a mailbox exists, has a subscription, or what a secret is like.
type Receiver struct {
	secret    mail.Secret
	started   time.Time
	strangers *rate.Limiter
	reading   chan struct{}
	bodies    ews.Posts

	posts *prometheus.CounterVec
	gaps  prometheus.Counter
	hints prometheus.Counter

	mu      sync.RWMutex
	members map[digest]*Member
	kept    map[digest]*kept // of the last start, whose mailboxes have not joined yet
	trials  map[digest]func()
}

// kept is a subscription of the last start.
type kept struct {
	box      *subscriptions.Mailbox
	lastPost time.Time // when it was posted to; zero: it was not
}

// digest of a secret: how long a look-up takes says nothing about a secret.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

// NewReceiver returns a receiver that knows no subscription yet; reg may be nil.
func NewReceiver(secret mail.Secret, reg prometheus.Registerer) *Receiver {
	f := promauto.With(reg)
	return &Receiver{
		secret: secret, started: time.Now(), strangers: rate.NewLimiter(strangers, strangers), reading: make(chan struct{}, maxReading),
		members: map[digest]*Member{}, kept: map[digest]*kept{}, trials: map[digest]func(){},
		posts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_callbacks_total", Help: "Callbacks of Exchange by what came of them."}, []string{"result"}),
		gaps: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_callback_gaps_total", Help: "Callbacks before which others were lost; the mailbox was listed."}),
		hints: f.NewCounter(prometheus.CounterOpts{
			Name: "mailbell_callback_hints_total", Help: "New mail that callbacks told of."}),
	}
}

// The results of a post, as metrics have them.
const (
	resultOK          = "ok"
	resultUnsubscribe = "unsubscribe"
	resultUnreadable  = "unreadable" // from who knows the secret
	resultLimited     = "limited"
)

// Keep has the push subscription that a mailbox has from the last start, if any, go on until the mailbox joins, or its record has it no more.
func (r *Receiver) Keep(box *subscriptions.Mailbox) {
	secret := keptSecret(r.secret, box.Record())
	if secret == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[digestOf(secret)] = &kept{box: box}
}

// Expect returns a new secret for somebody who tries whether posts reach us. came is closed with the first one, which ends its
// subscription; forget ends the waiting.
func (r *Receiver) Expect() (secret string, came <-chan struct{}, forget func()) {
	secret = rand.Text() // 130 bits
	c := make(chan struct{})
	d := digestOf(secret)
	forget = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.trials, d)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trials[d] = sync.OnceFunc(func() { close(c) })
	return secret, c, forget
}

// tried tells whoever waits for a post to a secret that it came.
func (r *Receiver) tried(secret string) bool {
	r.mu.RLock()
	came := r.trials[digestOf(secret)]
	r.mu.RUnlock()
	if came == nil {
		return false
	}
	came()
	return true
}

// Trials answers what Expect waits for and nothing else: who only tries ends no subscription of those who work.
func (r *Receiver) Trials() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if secret, ok := strings.CutPrefix(req.URL.Path, Path); ok && req.Method == http.MethodPost && r.tried(secret) {
			r.answer(w, resultUnsubscribe)
			return
		}
		r.limited(w)
	})
}

// add has posts to a secret go to a member. It says when that secret was posted to before the member joined.
func (r *Receiver) add(secret string, m *Member) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digestOf(secret)
	r.members[d] = m
	k := r.kept[d]
	if k == nil {
		return time.Time{}
	}
	delete(r.kept, d)
	return k.lastPost
}

// forget forgets a secret: the next post to it ends its subscription.
func (r *Receiver) forget(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digestOf(secret)
	delete(r.members, d)
	delete(r.kept, d)
}

// find returns who is meant by a secret. known without a member: its mailbox has not joined yet, and is listed once it has.
func (r *Receiver) find(secret string) (m *Member, known bool) {
	d := digestOf(secret)
	r.mu.RLock()
	m = r.members[d]
	was := r.kept[d]
	r.mu.RUnlock()
	if m != nil || was == nil {
		return m, m != nil
	}
	goesOn := keptSecret(r.secret, was.box.Record()) == secret && time.Since(r.started) < keptFor
	r.mu.Lock()
	defer r.mu.Unlock()
	m = r.members[d]
	if m != nil { // it has joined meanwhile
		return m, true
	}
	if !goesOn {
		delete(r.kept, d)
		return nil, false
	}
	was.lastPost = time.Now()
	return nil, true
}

// ServeHTTP answers a post. It marks the mailbox and does nothing else, so that the answer takes no time.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	secret, ok := strings.CutPrefix(req.URL.Path, Path)
	switch {
	case !ok || secret == "" || strings.Contains(secret, "/"):
		http.Error(w, "there is nothing here", http.StatusNotFound)
		return
	case req.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)) // a writer without deadlines has no connection either
	m, known := r.find(secret)
	switch {
	case !known && r.tried(secret):
		r.answer(w, resultUnsubscribe)
	case !known && !r.strangers.Allow():
		r.limited(w)
	case !known:
		r.answer(w, resultUnsubscribe)
	case m == nil:
		r.answer(w, resultOK)
	default:
		r.read(w, req, m, secret)
	}
}

// read reads a post to a known secret, within the bounds.
func (r *Receiver) read(w http.ResponseWriter, req *http.Request, m *Member, secret string) {
	if m.reading.Add(1) > maxOfOne {
		m.reading.Add(-1)
		r.limited(w)
		return
	}
	defer m.reading.Add(-1)
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	default:
		r.limited(w)
		return
	}
	posted, err := r.bodies.Read(req.Body)
	if err != nil {
		m.unreadable(secret)
		r.posts.WithLabelValues(resultUnreadable).Inc()
		http.Error(w, "want a SendNotification", http.StatusBadRequest)
		return
	}
	if !m.posted(secret, posted, time.Now()) {
		r.answer(w, resultUnsubscribe)
		return
	}
	r.answer(w, resultOK)
}

func (r *Receiver) answer(w http.ResponseWriter, result string) {
	r.posts.WithLabelValues(result).Inc()
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	text := ews.ResultOK
	if result == resultUnsubscribe {
		text = ews.ResultUnsubscribe
	}
	_, _ = w.Write([]byte(text)) // whoever does not read it posts again
}

// limited answers a post beyond a bound: Exchange posts again after 30 s.
func (r *Receiver) limited(w http.ResponseWriter) {
	r.posts.WithLabelValues(resultLimited).Inc()
	w.Header().Set("Retry-After", "30")
	http.Error(w, "too many at once", http.StatusServiceUnavailable)
}
