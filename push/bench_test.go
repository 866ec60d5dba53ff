package push

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"
	"golang.org/x/net/http2"
)

// BenchmarkColdBurst sends to 2,000 phones at once over a cold connection, with our connection layer and with the transport that
// apns2 comes with, against the same APNs: one stream until a push is accepted, then 1,000, and one again after each that is not.
// Beside the time it prints how many streams were refused, how many connections there were, the longest wait, and what failed.
func BenchmarkColdBurst(b *testing.B) {
	const burst, roundTrip = 2000, 20 * time.Millisecond
	for _, load := range []struct {
		name   string
		decide func(arrived) act
	}{
		{"accepted", func(arrived) act { return act{delay: roundTrip} }},
		{"2% rejected", func(a arrived) act {
			if a.number%50 == 25 {
				do := refusing(400, "BadDeviceToken")
				do.delay = roundTrip
				return do
			}
			return act{delay: roundTrip}
		}},
	} {
		for _, layer := range []string{"mailbell", "apns2"} {
			b.Run(load.name+"/"+layer, func(b *testing.B) {
				var longest time.Duration
				var refused, connections, failed int
				for b.Loop() {
					b.StopTimer()
					s := newStandIn(b, load.decide)
					send, end := senders[layer](b, s)
					b.StartTimer()
					var all sync.WaitGroup
					var mu sync.Mutex
					for i := range burst {
						all.Go(func() {
							start := time.Now()
							ok := send(i)
							mu.Lock()
							defer mu.Unlock()
							longest = max(longest, time.Since(start))
							if !ok {
								failed++
							}
						})
					}
					all.Wait()
					b.StopTimer()
					_, _, c, r := s.seen()
					connections, refused = connections+c, refused+r
					end()
					b.StartTimer()
				}
				n := float64(b.N)
				b.ReportMetric(burst*n/b.Elapsed().Seconds(), "alerts/s")
				b.ReportMetric(float64(refused)/n, "refused")
				b.ReportMetric(float64(connections)/n, "connections")
				b.ReportMetric(float64(failed)/n, "failed")
				b.ReportMetric(float64(longest.Milliseconds()), "longest-ms")
			})
		}
	}
}

// senders sends the nth alert and reports whether APNs answered it.
var senders = map[string]func(*testing.B, *standIn) (send func(int) bool, end func()){
	"mailbell": func(b *testing.B, s *standIn) (func(int) bool, func()) {
		m := newBench(b, s, s.listen())
		return func(n int) bool {
			return m.Push(context.Background(), alert(n, n)).Result != subscriptions.NotBefore
		}, func() { m.Close(context.Background()) }
	},
	//nolint:staticcheck // the http2.Transport is deprecated, and it is what apns2 comes with
	"apns2": func(b *testing.B, s *standIn) (func(int) bool, func()) {
		key, err := token.AuthKeyFromBytes(p8())
		if err != nil {
			b.Fatal(err)
		}
		c := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: "ABCDE12345", TeamID: "FGHIJ67890"})
		c.Host = s.listen()
		t := c.HTTPClient.Transport.(*http2.Transport)
		t.TLSClientConfig = &tls.Config{RootCAs: s.pool}
		// The dialer that apns2 sets is global and opens what nothing closes; this one is its like.
		var mu sync.Mutex
		var open []net.Conn
		t.DialTLSContext = func(_ context.Context, network, address string, config *tls.Config) (net.Conn, error) {
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: apns2.TLSDialTimeout}, network, address, config)
			if err == nil {
				mu.Lock()
				open = append(open, conn)
				mu.Unlock()
			}
			return conn, err
		}
		return func(n int) bool {
				r, err := c.Push(plain(alert(n, n)))
				return err == nil && r.StatusCode != 0
			}, func() {
				for _, conn := range open {
					conn.Close()
				}
			}
	},
}

// plain is a notification for apns2 as it comes.
func plain(n subscriptions.Notification) *apns2.Notification {
	return &apns2.Notification{ApnsID: n.PushID.String(), CollapseID: n.CollapseID, DeviceToken: n.Phone.Token, Topic: n.Phone.Topic,
		Expiration: n.Expires, Priority: apns2.PriorityHigh, PushType: apns2.PushTypeAlert, Payload: n.Payload}
}
