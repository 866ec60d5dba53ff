package api

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestAClientAboveItsLimitWaitsAndNoOtherDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		list := clientsOfTest()
		list[0].NextToken, list[0].Limit = "enrol-of-tomorrow", Limit{PerSecond: 2, Burst: 5}
		list[1].Limit = Limit{PerSecond: 2, Burst: 5}
		d.handler.SetClients(list)
		for i := range 5 { // both tokens share the limit
			is(t, d.ask(t, []string{enrolToken, "enrol-of-tomorrow"}[i%2], "GET", "/v1/devices", ""), 200, "")
		}
		for range 3 {
			a := d.ask(t, enrolToken, "GET", "/v1/devices", "")
			is(t, a, 429, "")
			if got := a.Header.Get("Retry-After"); got != "1" {
				t.Errorf("Retry-After: %q", got)
			}
		}
		if n := testutil.ToFloat64(d.handler.limited.WithLabelValues("mdm")); n != 3 {
			t.Errorf("%v are counted", n)
		}
		is(t, d.ask(t, readToken, "GET", "/metrics", ""), 200, "")
		is(t, d.ask(t, adminToken, "GET", "/v1/devices", ""), 200, "") // it has no limit

		d.handler.SetClients(list) // a reload gives nothing back
		is(t, d.ask(t, enrolToken, "GET", "/v1/devices", ""), 429, "")
		<-time.After(time.Second)
		for _, want := range []int{200, 200, 429} {
			is(t, d.ask(t, enrolToken, "GET", "/v1/devices", ""), want, "")
		}
		list[0].Limit.Burst = 6 // a changed limit holds from now on
		d.handler.SetClients(list)
		for _, want := range []int{200, 200, 200, 200, 200, 200, 429} {
			is(t, d.ask(t, enrolToken, "GET", "/v1/devices", ""), want, "")
		}
	})
}

func TestThousandWrongTokensASecondSlowNoGoodClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		done := make(chan struct{})
		refused := make(chan int)
		go func() { // each from an address of its own, and each over a connection of its own
			n := 0
			answered := make(chan int, 5000)
			for range 5000 {
				n++
				from := "198.51." + string(rune('0'+n%10)) + ".7:1"
				go func() {
					status, _ := d.from(from, "guess-0123456789abcdef")
					answered <- status
				}()
				<-time.After(time.Millisecond)
			}
			close(done)
			right := 0
			for range 5000 {
				if <-answered == http.StatusUnauthorized {
					right++
				}
			}
			refused <- right
		}()
		asked := 0
		for open := true; open; {
			select {
			case <-done:
				open = false
			case <-time.After(10 * time.Millisecond):
				status, took := d.from("198.51.1.7:2", readToken)
				if status != http.StatusOK || took != 0 {
					t.Fatalf("%d after %s", status, took)
				}
				asked++
			}
		}
		if n := <-refused; n != 5000 || asked < 100 {
			t.Errorf("%d of 5000 were refused; a good client asked %d times", n, asked)
		}
	})
}
