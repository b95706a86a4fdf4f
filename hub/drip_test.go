package hub

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// drip sends a packet byte by byte.
func (p *peer) drip(cp packets.ControlPacket, pause time.Duration) error {
	var b bytes.Buffer
	_ = cp.Write(&b)
	for _, c := range b.Bytes() {
		time.Sleep(pause)
		if _, err := p.conn.Write([]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

// every sends a packet again and again, and reads nothing of what comes.
func (p *peer) every(pause time.Duration, cp packets.ControlPacket) {
	for {
		time.Sleep(pause)
		if cp.Write(p.conn) != nil {
			return
		}
	}
}

func connack() packets.ControlPacket  { return packets.NewControlPacket(packets.Connack) }
func pingresp() packets.ControlPacket { return packets.NewControlPacket(packets.Pingresp) }

func downlink(topic string, size int) packets.ControlPacket {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload = topic, make([]byte, size)
	return m
}

// TestSessionsThatDrip: a hub sends other packets and withholds a PUBACK. The link lasts for a
// minute and no longer. Calls with a limit end at that: a request for the twin, the wait for
// PUBACKs, the goodbye.
func TestSessionsThatDrip(t *testing.T) {
	for name, instead := range map[string]func(p *peer){
		"PINGRESPs":          func(p *peer) { p.every(time.Second, pingresp()) },
		"messages":           func(p *peer) { p.every(time.Second, downlink("x", 10)) },
		"answers for nobody": func(p *peer) { p.every(time.Second, downlink("$iothub/twin/res/200/?$rid=77", 10)) },
		"PUBACKs for nothing": func(p *peer) {
			a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			a.MessageID = 999
			p.every(time.Second, a)
		},
		"a packet without end":   func(p *peer) { _ = p.drip(downlink("x", 2000), 100*time.Millisecond) },
		"the PUBACK, but slowly": func(p *peer) { _ = p.drip(packets.NewControlPacket(packets.Puback), 20*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.hub("10.0.0.1", func(p *peer) {
					if p.welcome() != nil {
						instead(p)
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				var a acks
				offer(t, l, &a, "m")
				began := time.Now()
				within := func(what string, limit time.Duration, f func(ctx context.Context) error) {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					start := time.Now()
					if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != limit {
						t.Errorf("%s: %v after %v", what, err, time.Since(start))
					}
				}
				within("the twin that was asked for at first", 10*time.Second, func(ctx context.Context) error { _, err := l.Twin(ctx); return err })
				within("the twin", 10*time.Second, func(ctx context.Context) error { _, err := l.Twin(ctx); return err })
				within("a report", 10*time.Second, func(ctx context.Context) error { _, err := l.Report(ctx, []byte("{}")); return err })
				within("the PUBACKs", 10*time.Second, l.Settle)
				if err := l.Err(); time.Since(began) != finalLimit || !errors.Is(err, ErrUnacked) {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				l.Abort(nil)
				if len(l.calls) != 0 {
					t.Errorf("%d requests are kept", len(l.calls))
				}
			})
		})
	}
}
