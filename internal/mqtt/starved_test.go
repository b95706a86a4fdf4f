package mqtt

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// gated is a connection whose bytes stay unread until the gate opens, as in a process that does not
// run.
type gated struct {
	net.Conn
	gate *chan struct{} // closed when it is open
}

func (c gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	<-*c.gate
	return n, err
}

// late holds the link's watchdog up: it runs that much later than it is due. It returns what is
// left to do then.
func (l *Session) late(by time.Duration) (tick func()) {
	l.mu.Lock()
	l.timer.Stop()
	due := l.due
	l.mu.Unlock()
	time.Sleep(time.Until(due) + by)
	return l.tick
}

// TestProcessThatDidNotRunBlamesNobody: the machine does not let the process run for a while. The
// PUBACK waits for the reader, and the watchdog comes late, too, and first. It does not take that
// for the hub's silence.
func TestProcessThatDidNotRunBlamesNobody(t *testing.T) {
	for _, by := range []time.Duration{1500 * time.Millisecond, 5 * time.Second, 2 * time.Minute} {
		t.Run(by.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.dialer.KeepAlive = time.Hour
				open := make(chan struct{})
				close(open)
				gate := open
				w.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := w.Net.DialContext(ctx, network, addr)
					return gated{c, &gate}, err
				}
				stop := w.Serve("10.0.0.1", func(p *peer) {
					if p.Welcome() != nil {
						p.Acknowledge()
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				synctest.Wait()
				gate = make(chan struct{})
				var a acks
				offer(t, l, &a, "m")
				tick := l.late(by)
				tick()
				synctest.Wait()
				close(gate)
				synctest.Wait()
				if got := a.Of("m"); len(got) != 1 || got[0] != nil {
					t.Errorf("acknowledged with %v", got)
				}
				select {
				case <-l.Done():
					t.Errorf("the link was given up: %v", l.Err())
				default:
				}
				w.Net.Cut("10.0.0.1:8883") // and it judges as before, once the process runs again
				cut := time.Now()
				offer(t, l, &a, "n")
				if err := l.Err(); time.Since(cut) != 2*time.Second || !errors.Is(err, ErrSilent) {
					t.Errorf("after %v: %v", time.Since(cut), err)
				}
				l.Abort(nil)
				w.Net.Mend("10.0.0.1:8883")
			})
		})
	}
}

// TestProcessThatHardlyRunsFindsADeadServer: a process that hardly runs still finds a dead hub,
// later by the time in which it did not run.
func TestProcessThatHardlyRunsFindsADeadServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.KeepAlive = time.Hour
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Welcome() != nil {
				p.Acknowledge()
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		synctest.Wait()
		w.Net.Cut("10.0.0.1:8883")
		cut := time.Now()
		var a acks
		offer(t, l, &a, "m")
		for ended := false; !ended; {
			l.late(time.Second)()
			select {
			case <-l.Done():
				ended = true
			default:
			}
		}
		if took := time.Since(cut); took != 4*time.Second || !errors.Is(l.Err(), ErrSilent) {
			t.Errorf("after %v: %v", took, l.Err())
		}
		l.Abort(nil)
		w.Net.Mend("10.0.0.1:8883")
	})
}
