package h2

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func TestARequestEndsAnsweredHoweverItsAnswerIsMadeUp(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(s *server)
		want   string
	}{
		"by its header fields": {func(s *server) { s.headers(1, true, ":status", "200", "apns-id", "x") }, "200 "},
		"with a body": {func(s *server) {
			s.headers(1, false, ":status", "410")
			s.check(s.framer.WriteData(1, false, []byte(`{"reason":`)))
			s.check(s.framer.WriteData(1, true, []byte(`"Unregistered"}`)))
		}, `410 {"reason":"Unregistered"}`},
		"with padding": {func(s *server) {
			s.headers(1, false, ":status", "400")
			s.check(s.framer.WriteDataPadded(1, true, []byte("{}"), make([]byte, 200)))
		}, "400 {}"},
		"after one that is not final": {func(s *server) {
			s.headers(1, false, ":status", "100")
			s.headers(1, false, ":status", "199", "link", "x")
			s.headers(1, false, ":status", "400")
			s.check(s.framer.WriteData(1, true, []byte("{}")))
		}, "400 {}"},
		"with fields behind the body": {func(s *server) {
			s.headers(1, false, ":status", "503")
			s.check(s.framer.WriteData(1, false, []byte("{}")))
			s.headers(1, true, "x-trailer", "y")
		}, "503 {}"},
		"with fields in several frames": {func(s *server) {
			block := s.compress(":status", "404", "retry-after", "7")
			s.check(s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1], EndStream: true}))
			for i := 1; i < len(block); i++ {
				s.check(s.framer.WriteContinuation(1, i == len(block)-1, block[i:i+1]))
			}
		}, "404 "},
		"with a body that does not end": {func(s *server) {
			s.headers(1, false, ":status", "400")
			s.check(s.framer.WriteData(1, false, []byte(strings.Repeat("x", MaxBody-1))))
			s.check(s.framer.WriteData(1, false, []byte("xyz")))
			s.expect("RST_STREAM 1 CANCEL")
			s.check(s.framer.WriteData(1, false, []byte("more, which was on its way")))
		}, "400 " + strings.Repeat("x", MaxBody)},
		"and broken off after its status": {func(s *server) {
			s.headers(1, false, ":status", "410")
			s.check(s.framer.WriteRSTStream(1, http2.ErrCodeInternal))
		}, "410 "},
		"and refused after its status": {func(s *server) {
			s.headers(1, false, ":status", "200")
			s.check(s.framer.WriteRSTStream(1, http2.ErrCodeRefusedStream))
		}, "200 "},
		"and cut after its status": {func(s *server) {
			s.headers(1, false, ":status", "200")
			s.nc.Close()
		}, "200 "},
		"and silent after its status": {func(s *server) {
			s.headers(1, false, ":status", "200")
			<-time.After(times.Answer)
		}, "200 "},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, func(s *server) {
				a := ask("{}")
				s.send(a)
				s.takes(1)
				c := c
				c.answer(s)
				s.ends(a, c.want)
				if got := a.endings[0].RetryAfter; name == "with fields in several frames" && got != "7" {
					t.Errorf("it is to be tried again after %q", got)
				}
			})
		})
	}
}

func TestARequestThatIsNotAnsweredIsUnknownOrSurelyNotTaken(t *testing.T) {
	stream := func(code http2.ErrCode) string {
		return "unknown: " + http2.StreamError{StreamID: 3, Code: code}.Error()
	}
	for name, c := range map[string]struct {
		end  func(s *server)
		want string
	}{
		"refused unread":         {func(s *server) { s.check(s.framer.WriteRSTStream(3, http2.ErrCodeRefusedStream)) }, "not taken: " + ErrRefused.Error()},
		"reset":                  {func(s *server) { s.check(s.framer.WriteRSTStream(3, http2.ErrCodeInternal)) }, stream(http2.ErrCodeInternal)},
		"above the last":         {func(s *server) { s.check(s.framer.WriteGoAway(1, http2.ErrCodeNo, nil)) }, "not taken: " + ErrGoneAway.Error()},
		"the last":               {func(s *server) { s.check(s.framer.WriteGoAway(3, http2.ErrCodeNo, nil)) }, ""},
		"the last, and cut":      {func(s *server) { s.check(s.framer.WriteGoAway(3, http2.ErrCodeNo, nil)); s.nc.Close() }, "unknown: EOF"},
		"cut":                    {func(s *server) { s.nc.Close() }, "unknown: EOF"},
		"closed":                 {func(s *server) { s.conn.Close() }, "unknown: " + ErrClosed.Error()},
		"silent":                 {func(*server) { <-time.After(times.Answer) }, "unknown: " + ErrStalled.Error()},
		"without a status":       {func(s *server) { s.headers(3, true, "apns-id", "x") }, stream(http2.ErrCodeProtocol)},
		"with a status of four":  {func(s *server) { s.headers(3, true, ":status", "0200") }, stream(http2.ErrCodeProtocol)},
		"with a status in words": {func(s *server) { s.headers(3, true, ":status", "2oo") }, stream(http2.ErrCodeProtocol)},
		"with a status of two":   {func(s *server) { s.headers(3, true, ":status", "99") }, stream(http2.ErrCodeProtocol)},
		"with no final status":   {func(s *server) { s.headers(3, true, ":status", "100") }, stream(http2.ErrCodeProtocol)},
		"with a body only":       {func(s *server) { s.check(s.framer.WriteData(3, true, nil)) }, stream(http2.ErrCodeProtocol)},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, func(s *server) {
				first, a := ask("{}"), ask("{}")
				s.send(first, a)
				s.takes(1, 3)
				s.headers(1, true, ":status", "200")
				s.ends(first, "200 ")
				c.end(s)
				s.ends(a, c.want)
			})
		})
	}
}

func TestWhatIsNotWrittenWhenAConnectionEndsIsSurelyNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *server)
		want error
	}{
		"it is cut":          {func(s *server) { s.nc.Close() }, errors.New("EOF")},
		"it goes away":       {func(s *server) { s.check(s.framer.WriteGoAway(0, http2.ErrCodeNo, []byte("bye"))) }, ErrGoneAway},
		"it is closed":       {func(s *server) { s.conn.Close() }, ErrClosed},
		"it takes no bytes":  {func(*server) { <-time.After(times.Answer) }, ErrStalled},
		"it has gone before": {func(s *server) { s.check(s.framer.WriteGoAway(0, http2.ErrCodeNo, nil)); synctest.Wait() }, ErrGoneAway},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, func(s *server) {
				s.tap().set(true)
				first, a := ask("{}"), ask("{}")
				s.send(first) // is being written
				s.send(a)
				c.end(s)
				s.ends(a, "not taken: "+c.want.Error())
				if a.begun != 0 {
					t.Error("it was begun")
				}
				late := ask("{}")
				if s.send(late); name != "it takes no bytes" {
					s.ends(late, "not taken: "+c.want.Error())
				}
				s.tap().set(false)
			})
		})
	}
}

func TestWhatMayNotBeginIsNotWritten(t *testing.T) {
	against(t, func(s *server) {
		no := errors.New("it may not")
		a, b := ask("{}"), ask("{}")
		a.refuse = no
		s.send(a, b)
		s.takes(1)
		s.headers(1, true, ":status", "200")
		s.ends(a, "not taken: it may not")
		s.ends(b, "200 ")
	})
}

// Each request is asked when its turn to be written has come, and not when it was given: that may be seconds ago.
func TestARequestIsAskedDirectlyBeforeItIsWritten(t *testing.T) {
	against(t, func(s *server) {
		s.tap().set(true)
		first, a := ask("{}"), ask("{}")
		s.send(first)
		s.send(a)
		<-time.After(time.Second)
		if a.begun != 0 {
			t.Error("it was asked while it could not be written")
		}
		s.tap().set(false)
		s.takes(1, 3)
		if a.begun != 1 {
			t.Errorf("it was asked %d times", a.begun)
		}
	})
}

func TestNoMoreStreamsAreOpenedThanTheServerTakes(t *testing.T) {
	against(t, func(s *server) {
		a, b, next := ask("{}"), ask("{}"), ask("{}")
		s.send(a, b)
		s.takes(1)
		if s.conn.MaxStreams() != 1 || s.seen.said() != "changed" {
			t.Errorf("%d streams, %q", s.conn.MaxStreams(), s.seen.said())
		}
		s.ends(b, "not taken: "+ErrNoStream.Error())
		if b.begun != 0 {
			t.Error("a second one has begun")
		}
		s.headers(1, true, ":status", "200")
		s.ends(a, "200 ")
		s.send(next)
		s.takes(3)
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
}

func TestTheLargestWindowIsNoFault(t *testing.T) {
	against(t, func(s *server) {
		s.check(s.framer.WriteWindowUpdate(0, math.MaxInt32-defaultWindow))
		a := ask(strings.Repeat("x", MaxPayload)) // and the largest request
		s.send(a)
		s.takes(1)
		s.headers(1, true, ":status", "200")
		s.ends(a, "200 ")
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
}

// A request goes out as a whole, so it waits until the server takes as much.
func TestARequestWaitsForTheWindow(t *testing.T) {
	against(t, func(s *server) {
		large := strings.Repeat("x", 4096)
		var list []*asked
		for range 16 { // of which 15 fit into 65,535 bytes
			list = append(list, ask(large))
		}
		s.send(list...)
		for id := uint32(1); id < 31; id += 2 {
			s.takes(id)
		}
		synctest.Wait()
		if list[15].begun != 0 {
			t.Error("it does not wait")
		}
		s.check(s.framer.WriteWindowUpdate(1, 4096)) // is of no account
		synctest.Wait()
		if list[15].begun != 0 {
			t.Error("it does not wait for the window of all streams")
		}
		s.check(s.framer.WriteWindowUpdate(0, 1))
		s.takes(31)
	})
	against(t, func(s *server) {
		a := ask("{}!")
		s.send(a)
		synctest.Wait()
		if a.begun != 0 {
			t.Error("it does not wait for the window of its stream")
		}
		s.check(s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3}))
		s.expect("SETTINGS ack")
		s.takes(1)
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2})
}

func TestTheServerGetsBackTheWindowThatItUsed(t *testing.T) {
	against(t, func(s *server) {
		part := []byte(strings.Repeat("x", MaxBody-1))
		for n := 1; n <= 48; n++ { // three times what it may send at once
			id := uint32(2*n - 1)
			s.send(ask("{}"))
			s.takes(id)
			s.headers(id, false, ":status", "400")
			s.check(s.framer.WriteDataPadded(id, true, part, make([]byte, 99)))
			if n%8 == 0 { // 8 times 4,195 bytes are more than half
				s.expect("WINDOW_UPDATE 0 33560")
			}
		}
		if told := s.seen.said(); told != "changed" {
			t.Error(told)
		}
	})
}

func TestWhatBreaksTheRulesOfHTTP2EndsTheConnection(t *testing.T) {
	protocol := http2.ConnectionError(http2.ErrCodeProtocol).Error()
	for name, c := range map[string]struct {
		wrong func(s *server)
		want  string
	}{
		"an answer to nothing":        {func(s *server) { s.headers(3, true, ":status", "200") }, protocol},
		"a body to nothing":           {func(s *server) { s.check(s.framer.WriteData(3, true, nil)) }, protocol},
		"a reset of nothing":          {func(s *server) { s.check(s.framer.WriteRSTStream(3, http2.ErrCodeCancel)) }, protocol},
		"a stream of the server":      {func(s *server) { s.headers(2, true, ":status", "200") }, protocol},
		"a reset of the server's own": {func(s *server) { s.check(s.framer.WriteRSTStream(2, http2.ErrCodeCancel)) }, protocol},
		"a push": {func(s *server) {
			s.check(s.framer.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: s.compress(":status", "200"), EndHeaders: true}))
		}, protocol},
		"too large a window": {func(s *server) { s.check(s.framer.WriteWindowUpdate(0, math.MaxInt32)) },
			http2.ConnectionError(http2.ErrCodeFlowControl).Error()},
		"no window": {func(s *server) { s.check(s.framer.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, make([]byte, 4))) }, protocol},
		"header fields with more padding than there is": {func(s *server) {
			s.check(s.framer.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, []byte{9, 0x88}))
		}, protocol},
		"no header compression": {func(s *server) {
			s.check(s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true}))
		}, http2.ConnectionError(http2.ErrCodeCompression).Error()},
		"half a header field": {func(s *server) {
			block := s.compress("x-name", "value")
			s.check(s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:len(block)-1], EndHeaders: true}))
		}, http2.ConnectionError(http2.ErrCodeCompression).Error()},
		"header fields without an end": {func(s *server) {
			s.check(s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: s.compress(":status", "200")}))
			for range 4 { // the last may meet the end of the connection
				_ = s.framer.WriteContinuation(1, false, []byte(strings.Repeat("\x82", maxHeaders/3)))
			}
		}, http2.ConnectionError(http2.ErrCodeEnhanceYourCalm).Error()},
		"frames without an end, and with nothing in them": {func(s *server) {
			s.check(s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: s.compress(":status", "200")}))
			for range maxHeaders / frameHead {
				_ = s.framer.WriteContinuation(1, false, nil)
			}
		}, http2.ConnectionError(http2.ErrCodeEnhanceYourCalm).Error()},
		"a frame that is too long": {func(s *server) { _ = s.framer.WriteData(1, true, make([]byte, maxFrame+1)) }, "http2: frame too large"},
		"fewer streams than none": {func(s *server) {
			s.check(s.framer.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{0, 4, 0xff, 0xff, 0xff, 0xff}))
		}, http2.ConnectionError(http2.ErrCodeFlowControl).Error()},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, func(s *server) {
				a := ask("{}")
				s.send(a)
				s.takes(1)
				c.wrong(s)
				s.isClosed(c.want)
				s.ends(a, "unknown: "+c.want)
			})
		})
	}
	t.Run("something before the settings", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			s.check(s.framer.WritePing(false, [8]byte{}))
			s.isClosed(protocol)
		})
	})
	t.Run("more data than its window", func(t *testing.T) {
		against(t, func(s *server) {
			s.tap().set(true) // what is given back does not come to it; it counts all the same, so the reader is asked
			r := &reader{window: 19}
			f := &http2.DataFrame{FrameHeader: http2.FrameHeader{StreamID: 1, Length: 19}}
			s.send(ask("{}"))
			if err := s.conn.data(r, f); err != nil {
				t.Error(err)
			}
			r.window = 18
			if err := s.conn.data(r, f); err != http2.ConnectionError(http2.ErrCodeFlowControl) {
				t.Error(err)
			}
			s.tap().set(false)
		})
	})
}

// What is late for a stream that is over is no fault: the two sides had not heard of each other.
func TestWhatComesForAStreamThatIsOverIsPassedBy(t *testing.T) {
	against(t, func(s *server) {
		a, b := ask("{}"), ask("{}")
		s.send(a)
		s.takes(1)
		s.headers(1, true, ":status", "200")
		s.headers(1, true, ":status", "200")
		s.check(s.framer.WriteData(1, true, nil))
		s.check(s.framer.WriteRSTStream(1, http2.ErrCodeCancel))
		s.check(s.framer.WriteRawFrame(0x42, 0, 0, []byte("a frame of tomorrow")))
		s.send(b)
		s.takes(3)
		s.headers(3, true, ":status", "200")
		s.ends(a, "200 ")
		s.ends(b, "200 ")
	})
}

func TestAServerThatAsksAndTakesNothingIsLeft(t *testing.T) {
	against(t, func(s *server) {
		s.tap().set(true)
		for i := range maxControl {
			if s.framer.WritePing(false, [8]byte{byte(i)}) != nil {
				break
			}
		}
		s.isClosed(http2.ConnectionError(http2.ErrCodeEnhanceYourCalm).Error())
		if n := len(s.conn.control.bytes); n > 2*maxControl {
			t.Errorf("%d bytes wait", n)
		}
	})
}

func TestAPingIsAnswered(t *testing.T) {
	against(t, func(s *server) {
		s.check(s.framer.WritePing(false, [8]byte{1, 2, 3}))
		s.expect("PING 0102030000000000 ack true")
	})
}

func TestASilentServerIsPingedAndLeftWhenItDoesNotAnswer(t *testing.T) {
	against(t, func(s *server) {
		began := time.Now()
		for range 3 {
			s.expect("PING 0000000000000000 ack false")
			if took := time.Since(began); took != times.PingAfter {
				t.Errorf("it was asked after %v", took)
			}
			began = time.Now()
			s.check(s.framer.WritePing(true, [8]byte{}))
		}
		s.expect("PING 0000000000000000 ack false")
		<-time.After(times.PingTimeout)
		s.isClosed(ErrLost.Error())
	})
}

// A process that was paused finds its times over, and the answers that came meanwhile unread.
func TestWhatCameWhileTheProcessWasPausedIsRead(t *testing.T) {
	pause := func(s *server) {
		s.conn.mu.Lock()
		defer s.conn.mu.Unlock()
		s.conn.due = s.conn.due.Add(-slept) // as the timer finds it when it fires late
	}
	against(t, func(s *server) {
		s.expect("PING 0000000000000000 ack false")
		pause(s)
		<-time.After(times.PingTimeout + slept/2)
		s.check(s.framer.WritePing(true, [8]byte{}))
		s.expect("PING 0000000000000000 ack false")
		pause(s)
		<-time.After(times.PingTimeout + slept)
		s.isClosed(ErrLost.Error())
	})
	against(t, func(s *server) {
		a := ask("{}")
		s.send(a)
		s.takes(1)
		pause(s)
		<-time.After(times.Answer + slept/2)
		s.headers(1, true, ":status", "200")
		s.ends(a, "200 ")
	})
}

// What allowed a request to begin holds for seconds, and a process may be paused for any time between that and its next step.
func TestWhatWasAllowedBeforeThisProcessWasPausedIsNotWritten(t *testing.T) {
	against(t, func(s *server) {
		a, b := ask("{}"), ask("{}")
		b.pause = slept
		s.send(a, b)
		s.expect("GOAWAY NO_ERROR")
		s.ends(a, "unknown: "+ErrPaused.Error())
		s.ends(b, "unknown: "+ErrPaused.Error())
		s.isClosed(ErrPaused.Error())
	})
	against(t, func(s *server) {
		a := ask("{}")
		a.pause = slept - 1
		s.send(a)
		s.takes(1)
		s.headers(1, true, ":status", "200")
		s.ends(a, "200 ")
	})
}

// The time of a request counts from when it was written, whatever else comes meanwhile, and a stall is told before its request ends.
func TestAStallIsFoundInTime(t *testing.T) {
	against(t, func(s *server) {
		<-time.After(3 * time.Second)
		a := ask("{}")
		s.send(a)
		began := time.Now()
		s.takes(1)
		for a.ended(t) == "" {
			<-time.After(100 * time.Millisecond)
			s.check(s.framer.WritePing(true, [8]byte{}))
			synctest.Wait()
		}
		if took := time.Since(began); took != times.Answer {
			t.Errorf("after %v", took)
		}
		if s.seen.said() != "stalled" {
			t.Errorf("%q was told", s.seen.said())
		}
	})
}

func TestAGoAwayTellsWhatWasSaidAndLetsTheRestFinish(t *testing.T) {
	against(t, func(s *server) {
		a := ask("{}")
		s.send(a)
		s.takes(1)
		s.check(s.framer.WriteGoAway(math.MaxInt32, http2.ErrCodeNo, []byte("soon"))) // the first of two, as RFC 9113 advises
		synctest.Wait()
		if got := s.seen.said(); got != "gone away soon" {
			t.Error(got)
		}
		b := ask("{}")
		s.send(b)
		s.ends(b, "not taken: "+ErrGoneAway.Error())
		s.check(s.framer.WriteGoAway(1, http2.ErrCodeNo, nil))
		s.headers(1, true, ":status", "200")
		s.ends(a, "200 ")
	})
}

func TestTheServerIsToldOfTheEnd(t *testing.T) {
	against(t, func(s *server) {
		s.conn.Close()
		s.expect("GOAWAY NO_ERROR")
	})
	against(t, func(s *server) {
		s.headers(2, true, ":status", "200")
		s.expect("GOAWAY PROTOCOL_ERROR")
	})
}

func TestAConnectionThatTakesNoBytesIsClosedAllTheSame(t *testing.T) {
	against(t, func(s *server) {
		s.tap().set(true)
		s.conn.Close()
		<-time.After(100 * time.Millisecond)
		if s.tap().isClosed() {
			t.Error("it has no time for its last word")
		}
		<-time.After(closeTimeout)
		synctest.Wait()
		if !s.tap().isClosed() {
			t.Error("it is open")
		}
	})
}

func TestWhatIsLargerThanAFrameIsNotWritten(t *testing.T) {
	against(t, func(s *server) {
		payload, fields, b := ask(strings.Repeat("x", MaxPayload+1)), ask("{}"), ask("{}")
		half := strings.Repeat("y", MaxPayload/2)
		fields.fields = append(fields.fields, field("x", half), field("y", half), field("z", ""))
		s.send(payload, fields, b)
		s.takes(1)
		s.ends(payload, "not taken: "+ErrTooLarge.Error())
		s.ends(fields, "not taken: "+ErrTooLarge.Error())
	})
}

func TestNumbersOfStreamsAreUsedUpInGoodOrder(t *testing.T) {
	against(t, func(s *server) {
		s.conn.mu.Lock()
		s.conn.next = lastID - 2
		s.conn.mu.Unlock()
		a, b := ask("{}"), ask("{}")
		s.send(ask("{}"), a, b)
		s.takes(lastID-2, lastID)
		s.ends(b, "not taken: "+ErrGoneAway.Error())
		if got := s.seen.said(); got != "gone away " {
			t.Error(got)
		}
		s.headers(lastID, true, ":status", "200")
		s.ends(a, "200 ")
	})
}

// A server may want a smaller table for the compression of header fields, or none.
func TestTheServerSetsTheSizeOfTheTable(t *testing.T) {
	for _, size := range []uint32{0, 60, 4096, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			against(t, func(s *server) {
				s.framer.ReadMetaHeaders.SetMaxDynamicTableSize(size)
				for id := uint32(1); id < 9; id += 2 {
					a := ask("{}")
					s.send(a)
					s.takes(id)
					s.headers(id, true, ":status", "200")
					s.ends(a, "200 ")
				}
			}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: size})
		})
	}
}

// A server that makes its table smaller and then larger again has thrown away what was in it, whatever the size is in the end: RFC 7541,
// section 4.2, has the least one told.
func TestTheLeastSizeOfTheTableCounts(t *testing.T) {
	against(t, func(s *server) {
		a, b := ask("{}"), ask("{}")
		s.send(a)
		s.takes(1)
		s.headers(1, true, ":status", "200")
		s.ends(a, "200 ")
		s.check(s.framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 100}))
		s.check(s.framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4096}))
		s.framer.ReadMetaHeaders.SetMaxDynamicTableSize(0)
		s.framer.ReadMetaHeaders.SetMaxDynamicTableSize(4096)
		s.expect("SETTINGS ack")
		s.expect("SETTINGS ack")
		s.send(b)
		s.takes(3)
		s.headers(3, true, ":status", "200")
		s.ends(b, "200 ")
	})
}

func TestAQueueThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	var q queue
	list := make([]*asked, 10_000)
	for i := range list {
		list[i] = ask("")
		q.add(list[i])
		if i >= 3 && q.take() != list[i-3] {
			t.Fatal("out of order")
		}
	}
	if got := q.takeAll(); len(got) != 3 || got[2] != list[len(list)-1] || cap(q.list) > 100 {
		t.Errorf("%d are left, in room for %d", len(got), cap(q.list))
	}
}

// A server that answers others is not to blame: what is sent again would come twice.
func TestARequestThatIsLateAloneGetsMoreTime(t *testing.T) {
	// answering sends another request each second, and has it answered, until a time.
	answering := func(s *server, until time.Time) {
		for id := uint32(3); time.Now().Before(until); id += 2 {
			s.send(ask("{}"))
			s.takes(id)
			s.headers(id, true, ":status", "200")
			<-time.After(time.Second)
		}
	}
	for name, c := range map[string]struct {
		then func(s *server)
		want string
		took time.Duration
	}{
		"it is answered": {func(s *server) {
			answering(s, time.Now().Add(8*time.Second-1))
			s.headers(1, true, ":status", "200")
		}, "200 ", 8 * time.Second},
		"it never is": {func(s *server) { answering(s, time.Now().Add(times.Late)) }, "unknown: " + ErrStalled.Error(), times.Late},
		"the others are answered no longer": {func(s *server) {
			until := time.Now().Add(times.Late)
			for answering(s, time.Now().Add(2*time.Second)); time.Now().Before(until); <-time.After(time.Second) {
				s.check(s.framer.WritePing(true, [8]byte{}))
			}
		}, "unknown: " + ErrStalled.Error(), times.Late},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, func(s *server) {
				a := ask("{}")
				s.send(a)
				began := time.Now()
				s.takes(1)
				c := c
				c.then(s)
				s.ends(a, c.want)
				if took := time.Since(began); took != c.took {
					t.Errorf("after %v", took)
				}
				if told := s.seen.said(); told != "changed" {
					t.Errorf("%q was told", told)
				}
			})
		})
	}
}

// What was under way when a server stopped to answer has its time from then on, and no more.
func TestARequestThatWasUnderWayWithTheLastAnswerIsNotLateAlone(t *testing.T) {
	against(t, func(s *server) {
		a, b := ask("{}"), ask("{}")
		s.send(a, b)
		s.takes(1, 3)
		<-time.After(overtakenAfter - 1)
		s.headers(3, true, ":status", "200")
		<-time.After(times.Answer - overtakenAfter + 1)
		s.ends(a, "unknown: "+ErrStalled.Error())
		if told := s.seen.said(); told != "stalled" {
			t.Errorf("%q was told", told)
		}
	})
}

// It would wait behind what is under way, and that may be late.
func TestWhatIsNotWrittenWhenTheServerTakesFewerStreamsIsGivenBack(t *testing.T) {
	const notTaken = "not taken: "
	fewer := http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}
	window := func(size uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: size} }
	for name, c := range map[string]struct {
		open     int
		settings []http2.Setting
		want     []string // of three that wait
	}{
		"one is open":                {1, []http2.Setting{fewer}, []string{notTaken + ErrNoStream.Error(), notTaken + ErrNoStream.Error(), notTaken + ErrNoStream.Error()}},
		"there is room for one":      {0, []http2.Setting{fewer}, []string{"", notTaken + ErrNoStream.Error(), notTaken + ErrNoStream.Error()}},
		"and it breaks the rules":    {1, []http2.Setting{fewer, window(1), window(1 << 31)}, slices.Repeat([]string{notTaken + "connection error: FLOW_CONTROL_ERROR"}, 3)},
		"it takes as many as before": {1, []http2.Setting{window(100)}, []string{"", "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, func(s *server) {
				for i := range c.open {
					s.send(ask("{}"))
					s.takes(uint32(1 + 2*i))
				}
				s.tap().set(true)
				_ = s.conn.reply(func(out *http2.Framer) error { return out.WritePing(true, [8]byte{}) }) // the writer waits with it
				synctest.Wait()
				waiting := []*asked{ask("{}"), ask("{}"), ask("{}")}
				s.send(waiting...)
				s.check(s.framer.WriteSettings(c.settings...))
				for i, a := range waiting {
					s.ends(a, c.want[i])
				}
				s.tap().set(false)
			})
		})
	}
}
