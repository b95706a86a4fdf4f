package mqtt

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestNonsenseEndsTheSession(t *testing.T) {
	for name, v := range map[string]struct {
		bytes []byte
		says  string
	}{
		"too long":                {[]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "a packet of 268435455 bytes"},
		"padded length":           {[]byte{0x40, 0x82, 0, 0, 1}, "malformed packet"},
		"endless length":          {[]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff}, "malformed packet"},
		"second CONNACK":          {[]byte{0x20, 2, 0, 0}, "a second CONNACK"},
		"short CONNACK":           {[]byte{0x20, 1, 0}, "malformed packet: a CONNACK"},
		"CONNECT":                 {[]byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}, "an unexpected CONNECT"},
		"PUBREL":                  {[]byte{0x62, 2, 0, 1}, "malformed packet: its first byte"},
		"type 15":                 {[]byte{0xf0, 0}, "malformed packet: type 15"},
		"type 0":                  {[]byte{0, 0}, "malformed packet: type 0"},
		"truncated string":        {[]byte{0x30, 3, 0, 200, 'x'}, "malformed packet: a PUBLISH whose topic is longer"},
		"PUBLISH without a topic": {[]byte{0x30, 1, 0}, "malformed packet: a PUBLISH whose topic is longer"},
		"PUBLISH without an id":   {[]byte{0x32, 3, 0, 1, 'x'}, "malformed packet: a PUBLISH of QoS 1"},
		"PUBLISH of QoS 2":        {[]byte{0x34, 5, 0, 1, 'x', 0, 1}, "a PUBLISH of QoS 2"},
		"PUBLISH of QoS 3":        {[]byte{0x36, 5, 0, 1, 'x', 0, 1}, "a PUBLISH of QoS 3"},
		"topic that is no text":   {[]byte{0x30, 3, 0, 1, 0xff}, "malformed packet: a PUBLISH whose topic is not UTF-8"},
		"topic with a NUL":        {[]byte{0x30, 3, 0, 1, 0}, "malformed packet: a PUBLISH whose topic has a NUL"},
		"long PUBACK":             {[]byte{0x40, 3, 0, 1, 0}, "malformed packet: a PUBACK"},
		"PUBACK with flags":       {[]byte{0x42, 2, 0, 1}, "malformed packet: its first byte"},
		"empty SUBACK":            {[]byte{0x90, 2, 0, 1}, "malformed packet: a SUBACK"},
		"long PINGRESP":           {[]byte{0xd0, 1, 0}, "malformed packet: a PINGRESP"},
		"short UNSUBACK":          {[]byte{0xb0, 1, 0}, "malformed packet: an UNSUBACK"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) {
					p.Welcome()
					_, _ = p.Conn.Write(v.bytes)
					_, _ = io.Copy(io.Discard, p.Conn)
				})
				defer stop()
				l, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
				if err == nil { // else the nonsense came before anybody looked
					err = l.Err()
					l.Abort(nil)
				}
				if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), v.says) {
					t.Errorf("%v", err)
				}
			})
		})
	}
	t.Run("end inside a packet", func(t *testing.T) { // which says nothing of what was to come
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", func(p *peer) {
				p.Welcome()
				_, _ = p.Conn.Write([]byte{0x30, 3, 0})
			})
			defer stop()
			l := w.dial("10.0.0.1")
			if err := l.Err(); errors.Is(err, ErrProtocol) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v", err)
			}
			l.Abort(nil)
		})
	})
	t.Run("no TLS any more", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", func(p *peer) {
				p.Welcome()
				_, _ = p.Raw.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				_, _ = io.Copy(io.Discard, p.Raw)
			})
			defer stop()
			l := w.dial("10.0.0.1")
			if err := l.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "malformed TLS record") {
				t.Errorf("%v", err)
			}
			l.Abort(nil)
		})
	})
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Read()
			p.Publish("in/1", "", 0, 0)
			_, _ = io.Copy(io.Discard, p.Conn)
		})
		defer stop()
		if _, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1")); !errors.Is(err, ErrProtocol) {
			t.Errorf("PUBLISH before CONNACK: %v", err)
		}
	})
}

// TestServerThatReadsNothingIsNotAnsweredForEver: a hub sends messages and reads nothing. The
// answers to it are bounded: the link stops reading, and ends when the hub has read nothing for the
// limit of a write.
func TestServerThatReadsNothingIsNotAnsweredForEver(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		taken := 0
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Welcome() == nil {
				return
			}
			var b bytes.Buffer
			m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
			m.TopicName, m.Qos, m.MessageID = "x", 1, 1
			for b.Len() < 16<<10 {
				_ = m.Write(&b)
			}
			for taken < 32*maxUnwritten {
				n, err := p.Conn.Write(b.Bytes())
				if taken += n; err != nil {
					return
				}
			}
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		var took time.Duration
		if err := l.Err(); err == nil {
			t.Error("it goes on")
		}
		took = time.Since(began)
		l.Abort(nil)
		synctest.Wait()
		// Three bytes in are two out: 1 MiB that waits, as much that is being written, and what the
		// buffers of both ways hold.
		if least, most := maxUnwritten, 8*maxUnwritten; taken < least || taken > most {
			t.Errorf("%d bytes were taken", taken)
		}
		if took != writeDeadline {
			t.Errorf("it took %v", took)
		}
	})
}

// broken is a sender that panics in each call.
type broken struct{ told int }

func (b *broken) Done([]uint64, error) {
	b.told++
	panic("a sender's bug")
}

// TestSenderThatPanicsLosesItsSession: a sender that panics in the reader's goroutine loses its
// link and nothing more. The link ends like others, and its error names the panic.
func TestSenderThatPanicsLosesItsSession(t *testing.T) {
	for _, test := range []struct {
		name  string
		acked bool // else the link ends first
	}{{"over an acknowledgement", true}, {"over the end of the link", false}} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) {
					p.Welcome()
					var ids []uint16
					for {
						m, ok := p.Read().(*packets.PublishPacket)
						if !ok {
							return
						}
						if ids = append(ids, m.MessageID); test.acked && len(ids) == 2 { // the first PUBACK ends the link
							p.Puback(ids[0])
						}
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				sender, other := new(broken), new(acks)
				if _, err := l.Send([]Outgoing{{Body: []byte("1"), Ticket: 1}}, sender); err != nil {
					t.Fatal(err)
				}
				offer(t, l, other, "2")
				if test.acked {
					select {
					case <-l.Done():
					case <-time.After(time.Second):
						t.Fatal("the link goes on")
					}
				}
				l.Abort(nil)
				found, ok := errors.AsType[*BugError](l.Err())
				if !ok || !strings.Contains(found.Error(), "a sender's bug") || !strings.Contains(string(found.Stack), "Done") {
					t.Errorf("the link ended with %v", l.Err())
				}
				if sender.told != 1 || len(other.Of("2")) != 1 {
					t.Errorf("told %d times, the other sender %d times", sender.told, len(other.Of("2")))
				}
				if _, err := l.Send([]Outgoing{{Body: []byte("3")}}, sender); err == nil {
					t.Error("a link that has ended takes a message")
				}
			})
		})
	}
}

// clumsy is a handler that panics when its session has ended.
type clumsy struct {
	handler
	describe bool // in Describe, else in Ended
}

func (h *clumsy) Describe(f *Error) error {
	if h.describe {
		panic("a handler's bug")
	}
	return f
}

func (h *clumsy) Ended(Past) {
	if !h.describe {
		panic("a handler's bug")
	}
}

// TestHandlerThatPanicsAtTheEndHoldsUpNobody: a handler that panics when its session ends makes
// nobody wait for ever. The session ends, its senders are told, and the error names the panic.
func TestHandlerThatPanicsAtTheEndHoldsUpNobody(t *testing.T) {
	for name, describe := range map[string]bool{"in Describe": true, "in Ended": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) { p.Mute() })
				defer stop()
				to := w.dialer.endpoint("10.0.0.1")
				conn, err := to.Connect(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				h := &clumsy{describe: describe}
				s := NewSession(conn, Options{Connect: Connect{ClientID: "dev-1"}, Handler: h, MaxPacket: maxInbound})
				h.s = s
				s.Start()
				if !s.Await(t.Context()) {
					t.Fatal(s.Err())
				}
				var a acks
				offer(t, s, &a, "m")
				s.Abort(errors.New("planned"))
				found, ok := errors.AsType[*BugError](s.Err())
				if !ok || !strings.Contains(found.Error(), "a handler's bug") {
					t.Errorf("the session ended with %v", s.Err())
				}
				if got := a.Of("m"); len(got) != 1 || got[0] == nil {
					t.Errorf("the message completed with %v", got)
				}
				if _, err := s.Begin(); err == nil {
					t.Error("a session that has ended takes a message")
				}
			})
		})
	}
}
