package credential

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

func certificate(raw string, expires time.Time) *tls.Certificate {
	return &tls.Certificate{Leaf: &x509.Certificate{Raw: []byte(raw), NotAfter: expires}}
}

func TestOnlyWhatSignsInMakesTwoDescriptionsDiffer(t *testing.T) {
	day := time.Date(2027, 5, 1, 0, 0, 0, 0, time.UTC)
	base := Description{Method: ClientSecret, Username: "u", Secret: "s", Tenant: "t", ClientID: "c", Certificate: certificate("one", day), Expires: day}
	for name, test := range map[string]struct {
		change func(*Description)
		same   bool
	}{
		"nothing":                         {func(*Description) {}, true},
		"the day on which it expires":     {func(d *Description) { d.Expires = day.AddDate(1, 0, 0) }, true},
		"the same certificate read again": {func(d *Description) { d.Certificate = certificate("one", day) }, true},
		"another method":                  {func(d *Description) { d.Method = Certificate }, false},
		"another user":                    {func(d *Description) { d.Username = "v" }, false},
		"another secret":                  {func(d *Description) { d.Secret = "z" }, false},
		"another tenant":                  {func(d *Description) { d.Tenant = "z" }, false},
		"another app":                     {func(d *Description) { d.ClientID = "z" }, false},
		"another certificate":             {func(d *Description) { d.Certificate = certificate("two", day) }, false},
		"no certificate":                  {func(d *Description) { d.Certificate = nil }, false},
	} {
		other := base
		test.change(&other)
		if base.Same(other) != test.same || other.Same(base) != test.same {
			t.Errorf("%s: taken for the same: %t", name, !test.same)
		}
	}
}

func TestWhoeverHasATenantGetsTokens(t *testing.T) {
	if (Description{Method: Basic, Username: "u", Secret: "s"}).ByToken() || !(Description{Method: ClientSecret, Tenant: "contoso.com"}).ByToken() {
		t.Error("the two are mixed up")
	}
}

func TestASecretIsShownByNoWayOfWriting(t *testing.T) {
	s := Secret("hunter2")
	d := Description{Method: Basic, Username: "u", Secret: s}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "description", d)
	asJSON, err := json.Marshal(map[string]any{"s": s, "d": d})
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, written := range []string{
		fmt.Sprint(s, d, &d), fmt.Sprintf("%s %q %v %+v %#v %x %X %d", s, s, d, d, d, s, any(d), s), string(asJSON), string(asYAML), log.String(),
	} {
		if strings.Contains(written, "hunter2") || strings.Contains(strings.ToLower(written), "68756e74657232") || !strings.Contains(written, Hidden) {
			t.Errorf("%s", written)
		}
	}
	if string(s) != "hunter2" {
		t.Error("it is lost")
	}
}
