package changes

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	// maxReading bounds the posts that arrive at once: Graph posts on few connections, and quickly.
	maxReading = 256
	// maxQueued and maxBytes bound the posts that were answered and are not looked at yet. What is beyond is posted again.
	maxQueued = 4096
	maxBytes  = 32 << 20
	// maxWorking is how many of them are looked at at once: forged ones are not to have every processor.
	maxWorking = 2
	// readTimeout bounds the time that a post may take to arrive.
	readTimeout = 5 * time.Second
	// maxToken bounds what is echoed in a handshake. Graph's token has some 150 characters.
	maxToken = 2048
)

// The results of a post, as metrics have them.
const (
	resultOK         = "ok"
	resultHandshake  = "handshake"
	resultUnreadable = "unreadable" // from who knows the URL
	resultStranger   = "stranger"   // to another URL
	resultLimited    = "limited"
)

// Receiver takes the posts for all mailboxes, of every listener account.
//
// Whatever is wrong with a post, it is answered as any other: Graph repeats what is refused for four hours, and takes an endpoint for slow
// that takes its time. So a post is answered before it is looked at.
type Receiver struct {
	url    string // to which Graph posts
	path   string
	shown  string // the URL without its secret
	to     string // a digest of the URL, for records
	secret mail.Secret
	seed   maphash.Seed

	reading chan struct{}
	posts   *prometheus.CounterVec
	items   *prometheus.CounterVec
	// of the messages that came in notifications
	contents *prometheus.CounterVec

	mu      sync.RWMutex
	members map[digest]known

	queue queue
}

// known is a client state that is ours.
type known struct {
	member *Member
	state  string
}

// digest of a client state: how long a look-up takes says nothing about one.
type digest [sha256.Size]byte

func digestOf(state string) digest { return sha256.Sum256([]byte(state)) }

// NewReceiver returns a receiver that knows no subscription yet; reg may be nil.
func NewReceiver(publicURL string, secret mail.Secret, reg prometheus.Registerer) *Receiver {
	f := promauto.With(reg)
	path := Path + secret.GraphPath(publicURL)
	sum := sha256.Sum256([]byte(publicURL + path))
	return &Receiver{
		url: publicURL + path, path: path, shown: publicURL + Path + "…", to: base64.RawURLEncoding.EncodeToString(sum[:9]),
		secret: secret, seed: maphash.MakeSeed(), reading: make(chan struct{}, maxReading), members: map[digest]known{},
		posts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_graph_callbacks_total", Help: "Posts of Microsoft Graph by what came of them."}, []string{"result"}),
		items: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_graph_notifications_total", Help: "Notifications in posts of Microsoft Graph by what came of them."}, []string{"result"}),
		contents: f.NewCounterVec(prometheus.CounterOpts{
			Name: "mailbell_graph_contents_total", Help: "Messages in notifications of Microsoft Graph by what came of them."}, []string{"result"}),
	}
}

// Close waits for the posts that are looked at. What comes later is posted again.
func (r *Receiver) Close() { r.queue.close() }

// add has notifications with a client state go to a member.
func (r *Receiver) add(state string, m *Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members[digestOf(state)] = known{m, state}
}

// forget forgets a client state.
func (r *Receiver) forget(state string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, digestOf(state))
}

// unreached is the fault of a mailbox that no notification tells of, though it is subscribed.
func (r *Receiver) unreached() *fault.Error {
	return &fault.Error{Op: "POST subscriptions", Code: CodeUntold, Scope: fault.Mailbox, Remedy: fault.Wait, Missed: true, Untold: true,
		Evidence: fault.Evidence{Peer: fault.Graph},
		Text: "Microsoft Graph has accepted the subscription, and tells of no new mail: what it posts to " + r.shown + " may be held up on its way " +
			"(firewall, reverse proxy)"}
}

// ServeHTTP answers a post.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.HasPrefix(req.URL.Path, Path) {
		http.Error(w, "there is nothing here", http.StatusNotFound)
		return
	}
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)) // a writer without deadlines has no connection either
	token, handshake := validationToken(req.URL.RawQuery)
	switch {
	case digestOf(req.URL.Path) != digestOf(r.path) && handshake:
		http.Error(w, "there is nothing here", http.StatusNotFound)
		r.posts.WithLabelValues(resultStranger).Inc()
	case digestOf(req.URL.Path) != digestOf(r.path): // of a subscription from before public_url changed, or of nobody
		r.accept(w, resultStranger)
	case handshake:
		r.greet(w, token)
	default:
		r.read(w, req)
	}
}

// validationToken is what Graph wants to have back before it makes a subscription.
func validationToken(query string) (token string, handshake bool) {
	if !strings.Contains(query, "validationToken") {
		return "", false
	}
	values, err := url.ParseQuery(query)
	if err != nil || !values.Has("validationToken") {
		return "", false
	}
	return values.Get("validationToken"), true
}

// markup is what makes a text more than a text. Graph's tokens have none of it.
var markup = strings.NewReplacer("<", "&lt;", ">", "&gt;")

// greet echoes a validation token, as plain text whatever it looks like: anybody who knows the URL may have sent it.
func (r *Receiver) greet(w http.ResponseWriter, token string) {
	if token == "" || len(token) > maxToken {
		r.posts.WithLabelValues(resultUnreadable).Inc()
		http.Error(w, "want a validation token", http.StatusBadRequest)
		return
	}
	r.posts.WithLabelValues(resultHandshake).Inc()
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, markup.Replace(token)) //nolint:gosec // plain text without markup; whoever does not read it asks again
}

// read takes a post in, within the bounds, and answers it.
func (r *Receiver) read(w http.ResponseWriter, req *http.Request) {
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	default:
		r.limited(w)
		return
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, graph.MaxNotifications+1))
	switch {
	case err != nil: // it was cut off on its way
		r.posts.WithLabelValues(resultUnreadable).Inc()
		http.Error(w, "the post did not arrive", http.StatusBadRequest)
	case len(body) > graph.MaxNotifications:
		r.accept(w, resultUnreadable)
	case !r.queue.add(body, r.look):
		r.limited(w)
	default:
		r.accept(w, resultOK)
	}
}

func (r *Receiver) accept(w http.ResponseWriter, result string) {
	r.posts.WithLabelValues(result).Inc()
	w.WriteHeader(http.StatusAccepted)
}

// limited answers a post beyond a bound: Graph posts again.
func (r *Receiver) limited(w http.ResponseWriter) {
	r.posts.WithLabelValues(resultLimited).Inc()
	w.Header().Set("Retry-After", "10")
	http.Error(w, "too many at once", http.StatusServiceUnavailable)
}

// look marks the mailboxes that a post is about. Those of others are passed over.
func (r *Receiver) look(body []byte) {
	post, err := graph.ParseNotifications(bytes.NewReader(body))
	if err != nil {
		r.posts.WithLabelValues(resultUnreadable).Inc()
		return
	}
	now := time.Now()
	for i := range post.Notifications {
		n := &post.Notifications[i]
		r.mu.RLock()
		k := r.members[digestOf(n.ClientState)]
		r.mu.RUnlock()
		result := toldStranger
		if k.member != nil {
			result = k.member.told(n, post.Tokens, k.state, now)
		}
		r.items.WithLabelValues(result).Inc()
	}
}

// queue are the posts that were answered and are not looked at yet, and who looks at them.
type queue struct {
	tasks sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	posts   [][]byte // first in first out
	bytes   int
	working int
}

// add queues a post. false: there are too many, or all ends.
func (q *queue) add(post []byte, look func([]byte)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.posts) >= maxQueued || q.bytes+len(post) > maxBytes {
		return false
	}
	q.posts = append(q.posts, post)
	q.bytes += len(post)
	if q.working < maxWorking {
		q.working++
		q.tasks.Go(func() {
			for post := q.next(); post != nil; post = q.next() {
				look(post)
			}
		})
	}
	return true
}

// next takes the oldest post; nil: there is none, and the worker has ended.
func (q *queue) next() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.posts) == 0 {
		q.working--
		return nil
	}
	post := q.posts[0]
	q.posts[0] = nil
	q.posts = q.posts[1:]
	q.bytes -= len(post)
	return post
}

// close lets what is queued be looked at, and takes no more.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.tasks.Wait()
}
