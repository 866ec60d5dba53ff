package push

// This file is what mailbell shows APNs to be let in: the provider token of a key, or a client certificate.

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/sideshow/apns2/token"
	"go.uber.org/zap"
)

const (
	// tokenLife is when a provider token is renewed: APNs takes it for an hour, and asks to keep it for nearly that long.
	tokenLife = 50 * time.Minute
	// tokenFloor is the least time between two tokens: APNs refuses a key that signs more often, and the connection with it.
	tokenFloor = 20 * time.Minute
)

// Key is what signs the provider tokens: the .p8 file of an APNs key, its id, and the id of the team.
// https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
type Key struct {
	P8       []byte
	ID, Team string
}

func (k Key) isZero() bool { return len(k.P8) == 0 && k.ID == "" && k.Team == "" }

// credential is a certificate, or a key with its one provider token. Every connection of the process that uses the key shares it.
type credential struct {
	certificate *tls.Certificate // nil: it is a key
	p8          []byte
	token       token.Token // its own lock guards it and what is below
	until       time.Time   // no new token before this by the monotonic clock, which stands still while a machine is suspended,
	untilWall   time.Time   // or before this by the wall clock, whichever comes first
}

// newCredential checks the credential of a topic. A key signs a token, so that one that cannot is found at the start.
func newCredential(t Topic) (*credential, error) {
	if t.Certificate == nil {
		return newKey(t.Key)
	}
	if t.Certificate.Leaf == nil || t.Certificate.PrivateKey == nil {
		return nil, errors.New("an APNs certificate needs its leaf, parsed, and its private key")
	}
	return &credential{certificate: t.Certificate}, nil
}

// newKey reads a key and signs the first token with it.
func newKey(k Key) (*credential, error) {
	if k.ID == "" || k.Team == "" {
		return nil, errors.New("an APNs key needs its key id and the team id")
	}
	key, err := token.AuthKeyFromBytes(k.P8)
	if err != nil {
		return nil, fmt.Errorf("the APNs key is not a .p8 file as Apple issues it: %w", err)
	}
	c := &credential{p8: bytes.Clone(k.P8), token: token.Token{AuthKey: key, KeyID: k.ID, TeamID: k.Team}}
	if err := c.sign(time.Now()); err != nil {
		return nil, fmt.Errorf("the APNs key cannot sign: %w", err)
	}
	return c, nil
}

// isOf reports whether a topic has this credential.
func (c *credential) isOf(t Topic) bool {
	if c.certificate != nil || t.Certificate != nil {
		return c.certificate != nil && t.Certificate != nil && t.Certificate.Leaf != nil && c.certificate.Leaf.Equal(t.Certificate.Leaf)
	}
	return c.token.KeyID == t.Key.ID && c.token.TeamID == t.Key.Team
}

// name tells credentials apart in the log.
func (c *credential) name() zap.Field {
	if c.certificate != nil {
		return zap.String("certificate", c.certificate.Leaf.Subject.CommonName)
	}
	return zap.String("key_id", c.token.KeyID)
}

// expires is when a certificate expires; zero: it is a key, which does not.
func (c *credential) expires() time.Time {
	if c.certificate == nil {
		return time.Time{}
	}
	return c.certificate.Leaf.NotAfter
}

// sign makes a new token; the caller holds the lock, or nobody else has the credential yet.
func (c *credential) sign(now time.Time) error {
	if _, err := c.token.Generate(); err != nil {
		return err
	}
	c.rest(now)
	return nil
}

// rest has no new token made for a while; maySign says whether that is over. The caller holds the lock, as for sign.
func (c *credential) rest(now time.Time) {
	c.until = now.Add(tokenFloor)
	c.untilWall = c.until.Round(0)
}

func (c *credential) maySign(now time.Time) bool {
	return !now.Before(c.until) || !now.Before(c.untilWall)
}

// bearer returns the token, renewed where it has grown old. A key that signed once signs again; should it not, the old token
// is used until APNs refuses it. A certificate has none.
func (c *credential) bearer() string {
	if c.certificate != nil {
		return ""
	}
	c.token.Lock()
	defer c.token.Unlock()
	now := time.Now()
	// A token from the future is as useless as an old one: the clock of this machine was set back.
	if age := now.Sub(time.Unix(c.token.IssuedAt, 0)); (age >= tokenLife || age < -time.Minute) && c.maySign(now) {
		_ = c.sign(now)
	}
	return c.token.Bearer
}

// renew answers a refusal of the token that was sent. It reports whether there is another one now: one made since, or a new one.
func (c *credential) renew(sent string) bool {
	if c.certificate != nil {
		return false
	}
	c.token.Lock()
	defer c.token.Unlock()
	if c.token.Bearer != sent {
		return true
	}
	now := time.Now()
	return c.maySign(now) && c.sign(now) == nil
}

// keep stops renewals for a while: APNs has had too many.
func (c *credential) keep() {
	c.token.Lock()
	defer c.token.Unlock()
	c.rest(time.Now())
}
