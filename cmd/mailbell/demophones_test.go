package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
)

func TestAPhoneOfTheDemoSignsWhatItShows(t *testing.T) {
	p, err := newPhones()
	if err != nil {
		t.Fatal(err)
	}
	point, err := base64.StdEncoding.DecodeString(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	type receipt struct {
		body   string
		signed bool
	}
	got := make(chan receipt, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		hash := sha256.Sum256([]byte("POST " + r.URL.Path + "\n" + string(body)))
		s, _ := base64.StdEncoding.DecodeString(r.Header.Get("Mailbell-Signature"))
		got <- receipt{string(body), len(s) == 64 && ecdsa.Verify(public, hash[:], new(big.Int).SetBytes(s[:32]), new(big.Int).SetBytes(s[32:]))}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		p.run(ctx, &client{base: server.URL, http: server.Client()})
		close(ended)
	}()
	p.show(alertLine{Device: "demo-0001-a", Message: "an item", CollapseID: "AQAAAAAAAAAAAAAAAAAAAA"})
	r := <-got
	if form := regexp.MustCompile(`^{"d":"demo-0001-a","shown":\[{"m":"AQAAAAAAAAAAAAAAAAAAAA","at":"[-0-9T:.]+Z"}\]}$`); !r.signed || !form.MatchString(r.body) {
		t.Errorf("%+v", r)
	}
	cancel()
	<-ended
}

func TestThePhonesOfTheDemoHoldNothingUp(t *testing.T) {
	p, err := newPhones()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxShowing { // nobody confirms
		p.show(alertLine{})
	}
	if n := len(p.showing); n != maxShowing {
		t.Errorf("%d alerts are on their way to a screen, want %d", n, maxShowing)
	}
}
