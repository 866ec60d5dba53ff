package main

// The phones of the demo: each says that it shows its alerts, as the extension of an app would (docs/payload.md).

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/simulator/phonekey"
)

const (
	// toScreen is how long an alert takes from APNs to the screen of a phone of the demo.
	toScreen = 600 * time.Millisecond
	// maxShowing bounds the alerts that are on their way to a screen; what comes beyond is not confirmed.
	maxShowing = 1024
)

// phones are all phones of a demo. They have one key.
type phones struct {
	key     *phonekey.Key
	showing chan shownAlert
}

// shownAlert is an alert on its way to a screen.
type shownAlert struct {
	device, message string
	at              time.Time
}

func newPhones() (*phones, error) {
	key, err := phonekey.New()
	return &phones{key: key, showing: make(chan shownAlert, maxShowing)}, err
}

// show has an alert shown and confirmed in a moment.
func (p *phones) show(a alertLine) {
	select {
	case p.showing <- shownAlert{a.Device, a.CollapseID, time.Now().Add(toScreen)}:
	default:
	}
}

// run confirms until ctx ends. A receipt that does not arrive is none: the phone goes on.
func (p *phones) run(ctx context.Context, service *client) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-p.showing:
			if !pause.For(ctx, time.Until(s.at)) {
				return
			}
			_ = p.confirm(ctx, service, s)
		}
	}
}

// confirm sends the receipt of an alert.
func (p *phones) confirm(ctx context.Context, service *client, s shownAlert) error {
	type shown struct {
		M  string    `json:"m"`
		At time.Time `json:"at"`
	}
	body, err := json.Marshal(struct {
		D     string  `json:"d"`
		Shown []shown `json:"shown"`
	}{s.device, []shown{{s.message, s.at.UTC()}}})
	if err != nil {
		return err
	}
	const path = "/v1/receipts"
	signature, err := p.key.SignPost(path, body)
	if err != nil {
		return err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, service.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set(phonekey.Header, signature)
	answer, err := service.http.Do(post)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		return fmt.Errorf("the receipt was answered with %s", answer.Status)
	}
	return nil
}
