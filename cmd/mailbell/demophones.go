package main

// The phones of the demo: each says that it shows its alerts, as the extension of an app would (docs/payload.md).

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
)

const (
	// toScreen is how long an alert takes from APNs to the screen of a phone of the demo.
	toScreen = 600 * time.Millisecond
	// maxShowing bounds the alerts that are on their way to a screen; what comes beyond is not confirmed.
	maxShowing = 1024
)

// phones are all phones of a demo. They have one key.
type phones struct {
	key     *ecdsa.PrivateKey
	showing chan shownAlert
}

// shownAlert is an alert on its way to a screen.
type shownAlert struct {
	device, message string
	at              time.Time
}

func newPhones() (*phones, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &phones{key: key, showing: make(chan shownAlert, maxShowing)}, err
}

// public is what is enrolled of the key.
func (p *phones) public() (string, error) {
	point, err := p.key.PublicKey.Bytes()
	return base64.StdEncoding.EncodeToString(point), err
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
	hash := sha256.Sum256(append([]byte("POST "+path+"\n"), body...))
	r, v, err := ecdsa.Sign(rand.Reader, p.key, hash[:])
	if err != nil {
		return err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, service.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set("Mailbell-Signature", base64.StdEncoding.EncodeToString(signature[:]))
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
