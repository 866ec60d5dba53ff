package service

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/listener"
)

func TestMoreListenerAccountsThanAnInstanceUsesAreAWarning(t *testing.T) {
	c := &config.Config{File: "mailbell.yaml", State: config.State{Path: filepath.Join(t.TempDir(), "mailbell.db")}, Exchange: []config.Exchange{
		{Accounts: make([]config.Account, listener.MaxAccounts-1)}, {Accounts: make([]config.Account, 1)},
	}}
	if doubts := configurationDoubts(c); len(doubts) != 0 {
		t.Errorf("%q", doubts)
	}
	c.Exchange[1].Accounts = make([]config.Account, 2)
	if doubts := configurationDoubts(c); len(doubts) != 1 || !strings.Contains(doubts[0], "has 13 listener accounts, and an instance uses 12") {
		t.Errorf("%q", doubts)
	}
}
