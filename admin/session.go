package admin

// Who is signed in. Sessions are in memory only: after a restart, or on another instance, a person signs in again.

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"sync"
	"time"

	"github.com/mailbell/mailbell/admin/openid"
	"github.com/mailbell/mailbell/api"
)

const (
	// maxIdle is how long a session lasts without a request: a working day, so that nobody signs in twice a day.
	maxIdle = 12 * time.Hour
	// maxSignedIn is how long a session lasts at most that a provider began: once a day it says again whether the person may.
	maxSignedIn = 24 * time.Hour
	// maxSessions bounds the sessions: far more than there are administrators. Only who has a token can make one; beyond it the one that was
	// idle for longest ends.
	maxSessions = 1000
)

// session is one sign-in.
type session struct {
	key   api.Key          // of the client whose token it was
	who   *openid.Identity // whom a provider signed in; nil: it was a token
	csrf  string           // has to be in each form that is posted
	used  time.Time
	began time.Time
}

// over says whether the session has ended by itself.
func (s *session) over() bool {
	return time.Since(s.used) >= maxIdle || s.who != nil && time.Since(s.began) >= maxSignedIn
}

// sessions are those that have not ended.
type sessions struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]*session // by the hash of the cookie's value, so that the time of a look-up reveals nothing
}

func newSessions() *sessions { return &sessions{open: map[[sha256.Size]byte]*session{}} }

// begin begins a session and returns the value of its cookie, which nobody has seen before.
func (s *sessions) begin(key api.Key) string { return s.add(session{key: key}) }

// beginFor begins a session for somebody whom a provider signed in.
func (s *sessions) beginFor(who openid.Identity) string { return s.add(session{who: &who}) }

func (s *sessions) add(one session) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if len(s.open) >= maxSessions {
		s.endOldest()
	}
	cookie := rand.Text()
	one.csrf, one.used, one.began = rand.Text(), time.Now(), time.Now()
	s.open[sha256.Sum256([]byte(cookie))] = &one
	return cookie
}

// find returns the session of a cookie. touch: a person does something, so it lasts on.
func (s *sessions) find(cookie string, touch bool) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := sha256.Sum256([]byte(cookie))
	found := s.open[hash]
	switch {
	case found == nil:
		return session{}, false
	case found.over():
		delete(s.open, hash)
		return session{}, false
	case touch:
		found.used = time.Now()
	}
	return *found, true
}

// end ends the session of a cookie, if there is one.
func (s *sessions) end(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(cookie)))
}

// expire forgets the sessions that were idle for too long. The mutex is held.
func (s *sessions) expire() {
	for hash, one := range s.open {
		if one.over() {
			delete(s.open, hash)
		}
	}
}

// endOldest ends the session that was idle for longest. The mutex is held.
func (s *sessions) endOldest() {
	var oldest [sha256.Size]byte
	var used time.Time
	for hash, one := range s.open {
		if used.IsZero() || one.used.Before(used) {
			oldest, used = hash, one.used
		}
	}
	delete(s.open, oldest)
}

// wrote says whether a form was made for this session.
func (s session) wrote(csrf string) bool {
	return subtle.ConstantTimeCompare([]byte(s.csrf), []byte(csrf)) == 1
}
