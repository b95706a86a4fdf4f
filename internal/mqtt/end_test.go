package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// TestFirstReasonOfAnEndCounts: whoever ends a session says why, and the first one to do so is
// right. Everybody who waits gets that reason.
func TestFirstReasonOfAnEndCounts(t *testing.T) {
	planned, trouble := errors.New("planned"), errors.New("trouble")
	for name, v := range map[string]struct {
		end   func(t *testing.T, s *Session, lose func())
		want  error
		local bool
	}{
		"closed for a reason":       {func(t *testing.T, s *Session, _ func()) { s.Close(t.Context(), planned) }, planned, true},
		"closed for none":           {func(t *testing.T, s *Session, _ func()) { s.Close(t.Context(), nil) }, ErrClosed, true},
		"given up for a reason":     {func(_ *testing.T, s *Session, _ func()) { s.Abort(trouble) }, trouble, true},
		"given up for none":         {func(_ *testing.T, s *Session, _ func()) { s.Abort(nil) }, ErrClosed, true},
		"lost, then given up":       {func(_ *testing.T, s *Session, lose func()) { lose(); s.Abort(trouble) }, io.EOF, false},
		"lost, then closed":         {func(t *testing.T, s *Session, lose func()) { lose(); s.Close(t.Context(), planned) }, io.EOF, false},
		"given up, then lost":       {func(_ *testing.T, s *Session, lose func()) { s.Abort(trouble); lose() }, trouble, true},
		"given up twice":            {func(_ *testing.T, s *Session, _ func()) { s.Abort(trouble); s.Abort(planned) }, trouble, true},
		"closed, then given up":     {func(t *testing.T, s *Session, _ func()) { s.Close(t.Context(), planned); s.Abort(trouble) }, planned, true},
		"the server closes at once": {func(t *testing.T, s *Session, _ func()) { s.Close(t.Context(), planned) }, planned, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				lost := make(chan struct{})
				stop := w.Serve("10.0.0.1", func(p *peer) {
					p.Welcome()
					over := make(chan struct{})
					go func() {
						for q := p.Read(); q != nil; q = p.Read() {
							if _, goodbye := q.(*packets.DisconnectPacket); goodbye && name == "the server closes at once" {
								break
							}
						}
						close(over)
					}()
					select {
					case <-lost:
					case <-over:
					}
				})
				defer stop()
				s := w.dial("10.0.0.1")
				var a acks
				offer(t, s, &a, "m")
				v.end(t, s, func() { close(lost); synctest.Wait() })
				f, ok := errors.AsType[*Error](s.Err())
				if !ok || !errors.Is(f, v.want) || f.Local != v.local || f.Phase != PhaseSession {
					t.Errorf("ended with %+v", s.Err())
				}
				if got := a.Of("m"); len(got) != 1 || !errors.Is(got[0], v.want) {
					t.Errorf("the message completed with %v", got)
				}
				if _, err := s.Begin(); !errors.Is(err, v.want) {
					t.Errorf("a message after the end was refused with %v", err)
				}
			})
		})
	}
}

// TestServerThatClosesOnGoodbyeDoesNotChangeTheReason: the end of the connection is the consequence
// of DISCONNECT, also if it is noticed before the goodbye is over.
func TestServerThatClosesOnGoodbyeDoesNotChangeTheReason(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) { p.Mute() })
		defer stop()
		s := w.dial("10.0.0.1")
		planned := errors.New("planned")
		s.mu.Lock()
		s.closing, s.why = true, planned // as Close does first
		s.mu.Unlock()
		s.lose(io.EOF)
		if !errors.Is(s.Err(), planned) {
			t.Error(s.Err())
		}
		s.Abort(nil)
	})
}

// TestCloseSaysGoodbye: what is queued, then DISCONNECT, then FIN. Abort is a reset.
func TestCloseSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var got []string
		ended := make(chan error, 1)
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			for {
				packet, err := packets.ReadPacket(p.Conn)
				if err != nil {
					ended <- err
					return
				}
				got = append(got, fmt.Sprintf("%T", packet))
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m")
		l.Close(t.Context(), nil)
		if err := <-ended; !errors.Is(err, io.EOF) || !slices.Equal(got, []string{"*packets.PublishPacket", "*packets.DisconnectPacket"}) {
			t.Errorf("%v, then %v", got, err)
		}
		if !errors.Is(l.Err(), ErrClosed) || len(a.Of("m")) != 1 {
			t.Errorf("%v, %v", l.Err(), a.Of("m"))
		}
		l = w.dial("10.0.0.1")
		l.Abort(nil)
		if err := <-ended; errors.Is(err, io.EOF) {
			t.Error("Abort ended the connection in order")
		}
	})
}

// TestGoodbyeThatNobodyReadsEndsInTime: the hub stops reading. Close waits for its limit and no
// longer, whether the buffers have room for the whole goodbye, for MQTT's part only, or for
// nothing.
func TestGoodbyeThatNobodyReadsEndsInTime(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		goodbye(t, size)
	}
	for size := 130_400; size < 131_200; size += 10 { // two of them fill the buffers up to a few bytes
		goodbye(t, size)
	}
}

func goodbye(t *testing.T, size int) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Welcome() != nil {
				time.Sleep(time.Hour)
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		for range 2 {
			if err := publishOne(l, []byte(strings.Repeat("x", size)), "", func(error) {}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		l.Close(ctx, nil)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("with two messages of %d bytes unread it took %v", size, took)
		}
	})
}
