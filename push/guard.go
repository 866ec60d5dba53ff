package push

// This file is the guard against mass removal. A phone whose token is gone has lost its app. When many phones fail within minutes,
// the fault is hardly theirs: a wrong topic or environment in the configuration, an app that was signed anew, APNs itself. Then none
// is removed until the share is normal again.

import (
	"hash/maphash"
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// guardWindow is how far back the guard looks: long enough for some alerts to most phones, short enough to be over soon.
	guardWindow = 10 * time.Minute
	// guardLeast phones may fail within the window, however few there are; where there are many, one in guardShare.
	guardLeast = 10
	guardShare = 20
	// maxGuarded bounds the phones that are watched, some megabytes. Where more are sent to within the window, those watched stand for all.
	maxGuarded = 50_000
)

// guard knows the phones that APNs answered about lately.
type guard struct {
	mu     sync.Mutex
	seed   maphash.Seed
	phones map[uint64]verdict // by a hash of the device token: a phone counts once, whatever is enrolled on it
	most   int                // phones that were in the map at once
	failed int                // phones in the map whose last answer refused them
	began  time.Time
	swept  time.Time
	told   time.Time // when the log was last told
}

// verdict is the last answer about a phone.
type verdict struct {
	at     int32 // seconds since the guard began
	failed bool
}

func newGuard() guard {
	return guard{seed: maphash.MakeSeed(), phones: map[uint64]verdict{}, began: time.Now()}
}

// at is a time as verdicts have it.
func (g *guard) at(now time.Time) int32 { return int32(now.Sub(g.began) / time.Second) }

// note takes in an answer about a phone, failed where it is the phone that APNs refuses. It returns how many phones were answered
// about and how many of them failed, and whether that is more than their own doing.
func (g *guard) note(token string, failed bool) (answered, failing int, mass bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Sub(g.swept) > guardWindow/10 {
		g.sweepLocked(now)
	}
	phone := maphash.String(g.seed, token)
	old, known := g.phones[phone]
	if old.failed {
		g.failed--
	}
	if known || len(g.phones) < maxGuarded {
		g.phones[phone] = verdict{g.at(now), failed}
		g.most = max(g.most, len(g.phones))
		if failed {
			g.failed++
		}
	}
	return len(g.phones), g.failed, g.failed > max(guardLeast, len(g.phones)/guardShare)
}

// sweepLocked forgets what is too long ago. Where few are left they go to another map, for one keeps its memory.
func (g *guard) sweepLocked(now time.Time) {
	g.swept = now
	maps.DeleteFunc(g.phones, func(_ uint64, v verdict) bool {
		old := g.at(now)-v.at > int32(guardWindow/time.Second)
		if old && v.failed {
			g.failed--
		}
		return old
	})
	if len(g.phones) < g.most/4 {
		kept := make(map[uint64]verdict, len(g.phones))
		maps.Copy(kept, g.phones)
		g.phones, g.most = kept, len(kept)
	}
}

// tell reports whether it is time to tell the log: once in a window is loud enough.
func (g *guard) tell() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Sub(g.told) < guardWindow {
		return false
	}
	g.told = now
	return true
}

// guarded notes an answer about a phone and reports whether so many fail that none is to be removed.
func (g *gateway) guarded(token string, r response, failed bool) bool {
	answered, failing, mass := g.guard.note(token, failed)
	if mass && failed && g.guard.tell() {
		g.log.Error("many devices fail alike, so none is removed", zap.Int("devices", failing), zap.Int("of", answered),
			zap.Duration("within", guardWindow), zap.Int("status", r.status), zap.String("reason", string(r.why())),
			zap.String("because", r.why().Sentence()), zap.String("compare", "topic, environment and credential with those of the app"))
	}
	return mass
}
