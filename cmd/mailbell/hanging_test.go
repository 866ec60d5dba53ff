package main_test

// Mailboxes that hang: the real binary on a real clock. All the cases in fake time are in listener/hanging_test.go.

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// ward is a gateway before the simulated Exchange. What is asked for a sick mailbox hangs until that is well again.
type ward struct {
	next http.Handler

	mu   sync.Mutex
	sick map[string]bool
	well chan struct{} // closed when all are well
}

var impersonated = regexp.MustCompile(`SmtpAddress>([^<]+)</`)

// ServeHTTP has a request wait for its mailbox to be well.
func (w *ward) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	w.mu.Lock()
	found := impersonated.FindSubmatch(body)
	sick, well := found != nil && w.sick[string(found[1])], w.well
	w.mu.Unlock()
	if sick {
		select {
		case <-well:
		case <-r.Context().Done():
			return
		}
	}
	w.next.ServeHTTP(rw, r)
}

// fallIll has these mailboxes hang from now on.
func (w *ward) fallIll(boxes []*box) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sick, w.well = map[string]bool{}, make(chan struct{})
	for _, b := range boxes {
		w.sick[b.address] = true
	}
}

func (w *ward) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.sick)
	close(w.well)
}

// inWard has the service reach its Exchange through a ward.
func (inst *installation) inWard() *ward {
	inst.t.Helper()
	server, err := url.Parse(inst.sim.EWSURL)
	if err != nil {
		inst.t.Fatal(err)
	}
	server.Path = ""
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: inst.sim.RootCAs()}}
	inst.t.Cleanup(t.CloseIdleConnections)
	w := &ward{next: &httputil.ReverseProxy{
		Transport: t, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(server) }, ErrorLog: log.New(io.Discard, "", 0),
	}}
	ewsAt(inst.serve(trusted, good, w) + "/EWS/Exchange.asmx")(inst)
	return w
}

// delays delivers messages to mailboxes with one device each, and returns the 99th percentile of the time until their alerts.
func (inst *installation) delays(boxes []*box) time.Duration {
	inst.t.Helper()
	const messages, gap = 150, 20 * time.Millisecond
	delivered := map[string]time.Time{}
	for i := range messages {
		subject := fmt.Sprintf("Ticket %04d was answered", inst.ledger.count()+1)
		delivered[subject] = time.Now()
		inst.deliverTo(boxes[i%len(boxes)])
		pass(inst.t, gap)
	}
	var took []time.Duration
	eventually(inst.t, atLast, "all are alerted", func() bool {
		took = took[:0]
		for _, a := range inst.sim.Alerts(0) {
			if p, err := read(a); err == nil && a.Accepted() {
				if at, ok := delivered[p.APS.Alert.Body]; ok {
					took = append(took, a.At.Sub(at))
				}
			}
		}
		return len(took) == messages
	})
	slices.Sort(took)
	return took[messages*99/100]
}

// Half of a group hangs, the one among them as which its stream is opened, and the stream is cut. The others are listened to again within
// seconds, and get their mail as before.
func TestMembersOfAGroupThatHangHarmNoOthers(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 40})
	w := inst.inWard()
	inst.start()
	for i, b := range inst.boxes {
		inst.enrol(b, fmt.Sprintf("phone-%02d", i))
	}
	inst.awaitListening()
	sick, others := inst.boxes[:20], inst.boxes[20:]
	before := inst.delays(others)
	w.fallIll(sick)
	inst.deliverTo(sick...)
	streams := func() int { return inst.sim.Counts().Requests["GetStreamingEvents"] }
	opened := streams()
	inst.fault("stream_rst", simulator.Fault{})
	eventually(t, atLast, "the others are listened to again", func() bool {
		list := inst.mailboxes("listening")
		return streams() > opened && !slices.ContainsFunc(others, func(b *box) bool { return !slices.Contains(list, b.address) })
	})
	during := inst.delays(others)
	t.Logf("the 99th percentile was %v, and is %v while others hang", before, during)
	if limit := 10*before + 5*time.Second; during > limit { // it was a minute and more
		t.Errorf("the 99th percentile is %v, want below %v", during, limit)
	}
	w.heal()
	inst.balance(0)
}
