package admin

// Pages that are kept up to date. A page that is asked for as text/event-stream is sent again whenever it has changed: each event is the
// part of the page that changes, as HTML. So what is live is what the page shows, and there is one way to make both.

import (
	"bytes"
	"net/http"
	"strings"
	"time"
)

const (
	// maxStreams bounds the open streams. A browser opens one for each page that is in front, so this is as many administrators.
	maxStreams = 64
	// lookEvery is the time between two looks at what a page shows.
	lookEvery = 3 * time.Second
	// aliveEvery is how often a stream without news gets a byte, so that proxies keep it and a client that has gone is found out.
	aliveEvery = 20 * time.Second
	// sendTimeout is how long a client may take for what it is sent.
	sendTimeout = 10 * time.Second
)

// view is a page to be made: the name of its template and what that gets.
type view struct {
	name string
	page page
}

// wantsStream says whether a request asks for events.
func wantsStream(r *http.Request) bool { return strings.HasPrefix(r.Header.Get("Accept"), eventStream) }

const eventStream = "text/event-stream"

// page has look answer a person who is signed in, once or as a stream. false: there is no such thing.
func (p *Pages) page(look func(*http.Request, visitor) (view, bool)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		stream := wantsStream(r)
		v, ok := p.visitor(r, !stream) // a page that is left open does not keep its session from ending
		switch {
		case !ok && stream:
			w.WriteHeader(http.StatusUnauthorized)
			return
		case !ok:
			p.goSignIn(w, r)
			return
		}
		made, found := look(r, v)
		status := http.StatusOK
		if !found {
			status = http.StatusNotFound
		}
		switch {
		case stream && !made.page.Live:
			w.WriteHeader(http.StatusNotAcceptable)
		case stream:
			p.stream(w, r, look)
		default:
			made.page.Visitor = v
			p.render(w, status, made.name, made.page)
		}
	}
}

// stream sends a page again whenever it has changed, until the client goes, its session ends, or the pages close.
func (p *Pages) stream(w http.ResponseWriter, r *http.Request, look func(*http.Request, visitor) (view, bool)) {
	s, ok := p.startStream(w)
	if !ok {
		return
	}
	defer p.endStream(s)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last []byte
	for {
		v, ok := p.visitor(r, false)
		if !ok {
			return
		}
		made, _ := look(r, v)
		made.page.Visitor = v
		now, err := p.execute(made.name, "live", made.page)
		if err != nil {
			return
		}
		if !bytes.Equal(now, last) {
			last = now
			if !s.send("page", now) || !s.send("summary", visible([]byte(made.page.Summary))) {
				return
			}
		} else if !s.alive() {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-p.closed:
			return
		case <-tick.C:
		}
	}
}

// startStream begins a stream of events, of which maxStreams may be open. false: it answered that there are too many.
func (p *Pages) startStream(w http.ResponseWriter) (*events, bool) {
	select {
	case p.streams <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "30")
		http.Error(w, "Too many pages are open that are kept up to date. Close some, or try again.", http.StatusServiceUnavailable)
		return nil, false
	}
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the events back
	return &events{w: w, to: http.NewResponseController(w), last: time.Now()}, true
}

// endStream ends a stream; its last bytes get a time of their own.
func (p *Pages) endStream(s *events) {
	_ = s.to.SetWriteDeadline(time.Now().Add(sendTimeout))
	<-p.streams
}

// events is a stream of server-sent events.
type events struct {
	w    http.ResponseWriter
	to   *http.ResponseController
	last time.Time // when something was sent
}

// send sends an event. false: the client has gone.
func (s *events) send(name string, data []byte) bool {
	var b bytes.Buffer
	b.WriteString("event: " + name + "\n")
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b.WriteString("data: ")
		b.Write(line)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return s.write(b.Bytes())
}

// alive sends a comment if nothing was sent for long.
func (s *events) alive() bool {
	return time.Since(s.last) < aliveEvery || s.write([]byte(":\n\n"))
}

// write sends bytes. The time for that is taken back afterwards: HTTP/2 ends a stream when its time is over, also where nothing is to be
// written, and the server's own time for an answer is too short for a stream.
func (s *events) write(b []byte) bool {
	s.last = time.Now()
	_ = s.to.SetWriteDeadline(s.last.Add(sendTimeout))
	if _, err := s.w.Write(b); err != nil {
		return false
	}
	err := s.to.Flush()
	_ = s.to.SetWriteDeadline(time.Time{})
	return err == nil
}
