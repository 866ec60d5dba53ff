package service

import (
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/config"
)

func TestAChangedCanaryNeedsARestart(t *testing.T) {
	was := config.Canary{Mailboxes: []string{"canary@contoso.com"}, Every: 15 * time.Minute, Within: 2 * time.Minute}
	for name, c := range map[string]struct {
		is   config.Canary
		want []string
	}{
		"the same":        {was, nil},
		"none":            {config.Canary{}, []string{"canary"}},
		"another mailbox": {config.Canary{Mailboxes: []string{"ann@contoso.com"}, Every: was.Every, Within: was.Within}, []string{"canary"}},
		"more often":      {config.Canary{Mailboxes: was.Mailboxes, Every: time.Minute, Within: was.Within}, []string{"canary"}},
		"more time":       {config.Canary{Mailboxes: was.Mailboxes, Every: was.Every, Within: time.Minute}, []string{"canary"}},
	} {
		if got := roomsDiffer(&config.Config{Canary: was}, &config.Config{Canary: c.is}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := roomsDiffer(&config.Config{}, &config.Config{Canary: config.Canary{Every: time.Hour}}); got != nil {
		t.Errorf("without a mailbox nothing changes: %q", got)
	}
}
