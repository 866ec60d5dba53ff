package push

// This file is the guard against mass removal. A device whose token is gone has lost its app. When many devices fail within
// minutes, the fault is hardly theirs: a wrong topic or environment in the configuration, an app that was signed anew, APNs
// itself. Then no device is removed until the share is normal again.

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// guardWindow is how far back the guard looks: long enough for some alerts to most devices, short enough to be over soon.
	guardWindow = 10 * time.Minute
	// guardLeast devices may fail within the window, however few there are; where there are many, one in guardShare.
	guardLeast = 10
	guardShare = 20
	// maxGuarded bounds the devices that are watched, some megabytes. Where more are rung within the window, they stand for all.
	maxGuarded = 50_000
)

// guard knows the devices that APNs answered lately.
type guard struct {
	mu      sync.Mutex
	devices map[string]verdict // by device token: a phone counts once
	failed  int
	swept   time.Time
	told    time.Time // when the log was last told
}

// verdict is the last answer about a device.
type verdict struct {
	at     time.Time
	failed bool
}

// note takes in an answer about a device, failed where it is the device that APNs does not take. It returns how many devices
// were answered and how many of them failed, and whether that is more than their own doing.
func (g *guard) note(token string, failed bool) (answered, failing int, mass bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Sub(g.swept) > guardWindow/10 {
		g.sweepLocked(now)
	}
	old, known := g.devices[token]
	if old.failed {
		g.failed--
	}
	if known || len(g.devices) < maxGuarded {
		g.devices[token] = verdict{now, failed}
		if failed {
			g.failed++
		}
	}
	return len(g.devices), g.failed, g.failed > max(guardLeast, len(g.devices)/guardShare)
}

// sweepLocked forgets what is too long ago.
func (g *guard) sweepLocked(now time.Time) {
	g.swept = now
	for token, v := range g.devices {
		if now.Sub(v.at) > guardWindow {
			delete(g.devices, token)
			if v.failed {
				g.failed--
			}
		}
	}
}

// tell reports whether it is time to tell the log: once in a window is loud enough.
func (g *guard) tell() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !g.told.IsZero() && now.Sub(g.told) < guardWindow {
		return false
	}
	g.told = now
	return true
}

// guarded notes an answer about a device and reports whether so many fail that none is to be removed.
func (g *gateway) guarded(token string, m meaning, failed bool) bool {
	answered, failing, mass := g.guard.note(token, failed)
	if mass && failed && g.guard.tell() {
		g.log.Error("many devices fail alike, so none is removed; are topic, environment and credential those of the app?", zap.Int("devices", failing),
			zap.Int("of", answered), zap.Duration("within", guardWindow), zap.Int("status", m.status), zap.String("reason", label(m.reason)), zap.String("because", m.text))
	}
	return mass
}
