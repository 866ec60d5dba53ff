package admin

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/internal/pipetest"
)

// A form that comes a byte at a time, or never ends, holds its connection for seconds.
func TestASlowFormIsGivenUp(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		ctx, stop := context.WithCancel(t.Context())
		l := pipetest.NewListener(net.IPv4(127, 0, 0, 1), 8080)
		served := make(chan error, 1)
		go func() { served <- api.Serve(ctx, l, s.api, nil, zap.NewNop()) }()
		client, err := l.Dial(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ntoken=", signInPath)
		dripping, stopDripping := context.WithCancel(ctx)
		dripped := make(chan struct{})
		go func() {
			defer close(dripped)
			for dripping.Err() == nil {
				if _, err := client.Write([]byte("x")); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		}()
		began := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); resp.StatusCode != http.StatusBadRequest || took > 20*time.Second {
			t.Errorf("%d after %v", resp.StatusCode, took)
		}
		resp.Body.Close()
		stopDripping()
		client.Close()
		<-dripped
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}
