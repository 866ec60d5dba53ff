package service

// What is taken up without a restart: secrets, certificates, keys, the proxy, the portal's certificate and clients. The files
// that the configuration names are looked at now and then; where one of them has changed, the whole configuration is read anew,
// so that a mistake in it is reported as at the start, and changes nothing.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
)

// lookEvery is between two looks at the files: a new password is at work within half a minute, and some ten small files are
// read for it.
const lookEvery = 10 * time.Second

// Reload has the files looked at now.
func (s *Service) Reload() {
	select {
	case s.look <- struct{}{}:
	default: // it is about to
	}
}

// watch looks at the files until ctx ends. What has mistakes is read anew at each look, since what mends it may be in a file that the
// configuration in use does not name.
func (s *Service) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	told := "" // the mistakes that are there, which are reported once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.look:
		}
		before := s.current()
		if !before.Changed() {
			told = ""
			continue
		}
		c, err := config.Load(before.File)
		if err == nil {
			err = s.use(c) //nolint:contextcheck // it asks nobody
		}
		if err != nil {
			if err.Error() != told {
				s.log.Error("the configuration was changed and has mistakes; it goes on as it was", zap.Error(err))
			}
			told = err.Error()
			continue
		}
		told = ""
		s.configuration.Store(c)
		for _, w := range c.Warnings {
			s.log.Warn("the configuration is questioned", zap.Error(w))
		}
		for _, key := range needRestart(before, c) {
			s.log.Warn("a change of the configuration takes effect with a restart", zap.String("key", key))
		}
		select {
		case s.changed <- struct{}{}:
		default: // it is about to be taken up
		}
	}
}

// use finds what cannot work in c, and else has new connections made as it says. On an error nothing is changed.
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
	s.proxy.Set(v)
	return nil
}

// needRestart names what differs between two configurations and is not taken up while mailbell runs.
func needRestart(a, b *config.Config) (keys []string) {
	differ := func(key string, same bool) {
		if !same {
			keys = append(keys, key)
		}
	}
	differ("listen", a.Listen == b.Listen && (a.TLS == nil) == (b.TLS == nil))
	differ("state", sameState(a.State, b.State))
	differ("exchange", slices.EqualFunc(a.Exchange, b.Exchange, sameEntry))
	differ("apns", slices.EqualFunc(a.APNs, b.APNs, sameTopic))
	differ("alerts", a.Alerts == b.Alerts)
	differ("log", a.Log == b.Log)
	return keys
}

func sameState(a, b config.State) bool {
	if a.Redis == nil || b.Redis == nil {
		return a.Redis == b.Redis && a.Path == b.Path
	}
	x, y := *a.Redis, *b.Redis
	pools := samePool(x.CA, y.CA)
	x.CA, y.CA = nil, nil
	return pools && x == y
}

// sameEntry compares all but the values of the credentials.
func sameEntry(a, b config.Exchange) bool {
	pools := samePool(a.CA, b.CA)
	accounts := slices.EqualFunc(a.Accounts, b.Accounts, func(x, y config.Account) bool { return x.Name == y.Name })
	a.CA, b.CA, a.Accounts, b.Accounts = nil, nil, nil, nil
	return pools && accounts && reflect.DeepEqual(a, b)
}

// sameHosts tells whether the credentials of two entries go to the same hosts.
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

// useTLS has new connections to the portal shown the certificate of c.
func (s *Service) useTLS(c *config.Config) error {
	if c.TLS == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(c.TLS.CertPEM, []byte(c.TLS.KeyPEM))
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	s.certificate.Store(&pair)
	s.calendar.Set(expiry.TLS, "portal", pair.Leaf.NotAfter)
	return nil
}
