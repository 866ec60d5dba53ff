package service

// Changes that are taken up without a restart: secrets, certificates, keys, the proxy, and the API's certificate and clients. The service
// checks the files that the configuration names every few seconds. If one has changed, it reads the whole configuration again. So it
// reports a mistake as at the start, and a mistake changes nothing.

import (
	"context"
	"crypto/x509"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/fault"
)

// lookEvery is the time between two checks of the files: a new password is used soon, at the cost of reading some ten small files.
const lookEvery = 10 * time.Second

// Reload checks the files now.
func (s *Service) Reload() {
	select {
	case s.look <- struct{}{}:
	default: // it is about to
	}
}

// watch checks the files until ctx ends. It reads a configuration with mistakes again each time, because the correction may be in a file
// that the present configuration does not name.
func (s *Service) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var reported error // the present mistakes, which are reported once
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.look:
			asked = true
			s.tell(s.systemd.Reloading())
		}
		changed, err := s.readAgain() //nolint:contextcheck // it makes no request
		if err != nil && (reported == nil || err.Error() != reported.Error()) {
			s.log.Error("changed configuration has mistakes, old one stays in use", zap.Error(err))
		}
		reported = err
		s.audit.Use(s.current().Audit.File) // anew, in case it was renamed by now
		if changed {
			s.signalChange()
		}
		if s.tryProxy(ctx) {
			s.signalChange()
		}
		s.notTakenUp.Store(s.refusal(err))
		if asked {
			s.tell(s.systemd.Ready())
		}
	}
}

// refusal says why a change is not taken up: mistakes, or a proxy that leads nowhere; nil: all is.
func (s *Service) refusal(mistakes error) *error {
	var err error
	switch {
	case mistakes != nil:
		err = &fault.Error{Op: "read the configuration", Code: check.CodeConfiguration, Scope: fault.Server, Remedy: fault.Fix, Text: mistakes.Error()}
	case s.offered != nil && s.offered.refused != nil:
		err = s.offered.refused
	default:
		return nil
	}
	return &err
}

// readAgain reads the configuration if its files have changed, and checks it. It reports whether there is a new one without mistakes.
func (s *Service) readAgain() (changed bool, err error) {
	before := s.current()
	if !before.Changed() {
		return false, nil
	}
	c, err := config.Load(before.File)
	if err == nil {
		err = s.use(c)
	}
	if err != nil {
		return false, err
	}
	s.configuration.Store(c)
	for _, w := range c.Warnings {
		s.log.Warn("configuration probably wrong", zap.Error(w))
	}
	sayRestart(s.log, processDiffers, s.startedWith, before, c)
	return true, nil
}

// sayRestart logs which keys of now wait for a restart, because they differ from those in use, and which do no longer. before is the
// configuration for which that was logged last.
func sayRestart(log *zap.Logger, differs func(a, b *config.Config) []string, inUse, before, now *config.Config) {
	waiting := differs(inUse, now)
	for _, key := range differs(before, now) {
		if !slices.Contains(waiting, key) {
			log.Info("the configuration is again what mailbell runs with", zap.String("key", key))
			continue
		}
		log.Warn("change of the configuration needs a restart", zap.String("key", key))
	}
}

// signalChange has the rooms take up what has changed.
func (s *Service) signalChange() {
	select {
	case s.changed <- struct{}{}:
	default: // they are about to
	}
}

// use checks c, and takes up what it can; a changed proxy is tried first (proxy.go). On an error nothing is changed.
func (s *Service) use(c *config.Config) error {
	if err := s.checkKeys(c); err != nil {
		return err
	}
	v, err := via(c.Proxy)
	if err != nil {
		return err
	}
	if err := s.useTLS(c); err != nil {
		return err
	}
	s.redis.use(c.State)
	s.offerProxy(v)
	return nil
}

// keys are the names of keys of the configuration.
type keys []string

// add adds a key, unless its values are the same.
func (k *keys) add(key string, same bool) {
	if !same {
		*k = append(*k, key)
	}
}

// processDiffers returns the keys that differ between two configurations, and that the process keeps as it was started with them.
func processDiffers(a, b *config.Config) []string {
	var k keys
	k.add("listen", a.Listen == b.Listen && (a.TLS == nil) == (b.TLS == nil))
	k.add("callbacks", a.Callbacks.Listen == b.Callbacks.Listen && (a.Callbacks.TLS == nil) == (b.Callbacks.TLS == nil))
	k.add("state", sameState(a.State, b.State))
	k.add("log", a.Log == b.Log)
	return k
}

// roomsDiffer returns the keys that differ between two configurations, and that the rooms keep as they were built with them. A standby has no
// rooms yet, and builds them by the newest configuration when it takes over.
func roomsDiffer(a, b *config.Config) []string {
	var k keys
	k.add("public_url", a.PublicURL == b.PublicURL)
	k.add("exchange", slices.EqualFunc(a.Exchange, b.Exchange, sameEntry))
	k.add("apns", slices.EqualFunc(a.APNs, b.APNs, sameTopic))
	k.add("alerts", a.Alerts == b.Alerts)
	k.add("webhooks", slices.EqualFunc(a.Webhooks, b.Webhooks, sameWebhook))
	k.add("canary", sameCanary(a.Canary, b.Canary))
	return k
}

func sameCanary(a, b config.Canary) bool {
	return slices.Equal(a.Mailboxes, b.Mailboxes) && (len(a.Mailboxes) == 0 || a.Every == b.Every && a.Within == b.Within)
}

func sameState(a, b config.State) bool {
	if a.Redis == nil || b.Redis == nil {
		return a.Redis == b.Redis && a.Path == b.Path
	}
	return sameRedis(*a.Redis, *b.Redis)
}

// sameRedis compares all but how to sign in.
func sameRedis(a, b config.Redis) bool {
	return samePool(a.CA, b.CA) && a.Address == b.Address && a.TLS == b.TLS && a.Prefix == b.Prefix
}

// sameEntry compares all but the values of the credentials.
func sameEntry(a, b config.Exchange) bool {
	pools := samePool(a.CA, b.CA)
	accounts := slices.EqualFunc(a.Accounts, b.Accounts, func(x, y config.Account) bool { return x.Name == y.Name })
	a.CA, b.CA, a.Accounts, b.Accounts = nil, nil, nil, nil
	return pools && accounts && reflect.DeepEqual(a, b)
}

// sameHosts reports whether the credentials of two entries may be sent to the same hosts.
func sameHosts(a, b config.Exchange) bool {
	return a.Type == b.Type && a.EWSURL == b.EWSURL && a.AutodiscoverURL == b.AutodiscoverURL && a.Cloud == b.Cloud &&
		slices.Equal(a.Domains, b.Domains) && slices.Equal(a.TrustedHosts, b.TrustedHosts)
}

// sameTopic compares all but the credential.
func sameTopic(a, b config.APNs) bool {
	return a.Topic == b.Topic && a.Environment == b.Environment && a.URL == b.URL && samePool(a.CA, b.CA)
}

func samePool(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}
