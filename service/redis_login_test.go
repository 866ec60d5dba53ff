package service

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/tcptest"
)

func TestAStateThatCannotBeOpenedSaysWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailbell.db")
	first, err := openState(t.Context(), config.State{Path: file}, nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	for name, c := range map[string]struct {
		state config.State
		says  string
	}{
		"a Redis that is away": {config.State{Redis: &config.Redis{Address: tcptest.Quiet(t), Prefix: "mailbell"}}, "Check state.redis.addresses."},
		"a file in use":        {config.State{Path: file}, "a state file each"},
	} {
		var login redisLogin
		login.use(c.state)
		if _, err := openState(t.Context(), c.state, &login, zap.NewNop()); err == nil || !strings.Contains(notOpened(err).Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHowToSignInToTheRedisOfTheStateIsTakenUp(t *testing.T) {
	first := config.Redis{Address: "redis:6379", Prefix: "mailbell", Username: "bell", Password: "old"}
	changed := func(change func(*config.Redis)) config.State {
		r := first
		change(&r)
		return config.State{Redis: &r}
	}
	for name, c := range map[string]struct {
		to          config.State
		needRestart []string
		username    string
		password    string
	}{
		"a password":               {changed(func(r *config.Redis) { r.Password = "new" }), nil, "bell", "new"},
		"a user name":              {changed(func(r *config.Redis) { r.Username, r.Password = "ring", "new" }), nil, "ring", "new"},
		"another Redis":            {changed(func(r *config.Redis) { r.Address, r.Password = "other:6379", "its own" }), []string{"state"}, "bell", "old"},
		"another prefix":           {changed(func(r *config.Redis) { r.Prefix, r.Password = "ring", "new" }), []string{"state"}, "bell", "old"},
		"TLS":                      {changed(func(r *config.Redis) { r.TLS, r.Password = true, "new" }), []string{"state"}, "bell", "old"},
		"a file in its place":      {config.State{Path: "mailbell.db"}, []string{"state"}, "bell", "old"},
		"nothing that is about it": {config.State{Redis: &first}, nil, "bell", "old"},
	} {
		t.Run(name, func(t *testing.T) {
			was := config.State{Redis: &first}
			var login redisLogin
			login.use(was)
			signIn := redisOptions(&first, &login).Login
			login.use(c.to)
			if username, password := signIn(); username != c.username || password != c.password {
				t.Errorf("it signs in as %q with %q, want %q with %q", username, password, c.username, c.password)
			}
			if got := processDiffers(&config.Config{State: was}, &config.Config{State: c.to}); !slices.Equal(got, c.needRestart) {
				t.Errorf("a restart for %q, want %q", got, c.needRestart)
			}
		})
	}
}
