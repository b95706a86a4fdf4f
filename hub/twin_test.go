package hub

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
)

// TestRequestThatIsGivenUpIsForgotten: what nobody waits for any more is forgotten, and its answer,
// should it come, is nobody's.
func TestRequestThatIsGivenUpIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			p.Telemetry()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		before := len(l.calls)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Report(ctx, []byte("{}")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		l.mu.Lock()
		if len(l.calls) != before {
			t.Errorf("%d requests wait", len(l.calls)-before)
		}
		l.mu.Unlock()
		l.Abort(nil)
	})
}

func TestTwinIsReadAndReportedAndMethodsAreAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		response := make(chan string, 1)
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Welcome() == nil {
				return
			}
			p.Publish("$iothub/twin/res/200/?$rid=1", `{"desired":{"fanSpeed":5,"$version":4},"reported":{"battery":1,"$version":12}}`, 0, 0)
			for {
				q, ok := p.Read().(*packets.PublishPacket)
				if !ok {
					return
				}
				_, rid, _ := strings.Cut(q.TopicName, "$rid=")
				switch {
				case strings.HasPrefix(q.TopicName, "$iothub/twin/GET/"):
					p.Publish("$iothub/twin/res/429/?$rid="+rid, `{"errorCode":429001,"message":"throttled"}`, 0, 0)
				case strings.Contains(q.TopicName, "/PATCH/") && bytes.Contains(q.Payload, []byte("bad")):
					p.Publish("$iothub/twin/res/400/?$rid="+rid, `{"errorCode":400004,"message":"Property name is invalid"}`, 0, 0)
				case strings.Contains(q.TopicName, "/PATCH/"):
					p.Publish("$iothub/twin/res/204/?$version=13&$rid="+rid, "", 0, 0)
					p.Publish("$iothub/methods/POST/echo/?$rid=a7", `"hi"`, 0, 0)
				default:
					response <- q.TopicName + " " + string(q.Payload)
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		doc, err := l.Twin(t.Context())
		if err != nil || doc.DesiredVersion != 4 || doc.ReportedVersion != 12 || string(doc.Desired["fanSpeed"]) != "5" || len(doc.Desired) != 1 {
			t.Errorf("%+v %v", doc, err)
		}
		_, err = l.Twin(t.Context())
		if e, ok := errors.AsType[*TwinError](err); !ok || e.Status != 429 || e.Code != 429001 {
			t.Errorf("%v", err)
		}
		_, err = l.Report(t.Context(), []byte(`{"bad":1}`))
		if e, ok := errors.AsType[*TwinError](err); !ok || e.Status != 400 || e.Message != "Property name is invalid" {
			t.Errorf("%v", err)
		}
		if v, err := l.Report(t.Context(), []byte(`{"battery":2}`)); err != nil || v != 13 {
			t.Errorf("%d %v", v, err)
		}
		m := <-serve(l).methods
		if m.Name != "echo" || string(m.Payload) != `"hi"` {
			t.Fatalf("%#v", m)
		}
		if err := l.Respond(m, 200, m.Payload); err != nil {
			t.Error(err)
		}
		if got := <-response; got != `$iothub/methods/res/200/?$rid=a7 "hi"` {
			t.Error(got)
		}
		l.Abort(nil)
		if err := l.Respond(m, 200, nil); err == nil {
			t.Error("an answer went out over a dead link")
		}
		if _, err := l.Twin(t.Context()); err == nil {
			t.Error("a dead link has a twin")
		}
	})
}

// TestHubThatDripsKeepsNoCallWaitingBeyondItsLimit: a hub sends other packets and withholds a
// PUBACK. The link lasts for a minute and no longer. Calls with a limit end at that: a request for
// the twin, the wait for PUBACKs, the goodbye.
func TestHubThatDripsKeepsNoCallWaitingBeyondItsLimit(t *testing.T) {
	for name, instead := range map[string]func(p *peer){
		"PINGRESPs": func(p *peer) { p.Every(time.Second, mqtttest.Pingresp()) },
		"messages":  func(p *peer) { p.Every(time.Second, mqtttest.Downlink("x", make([]byte, 10))) },
		"answers for nobody": func(p *peer) {
			p.Every(time.Second, mqtttest.Downlink("$iothub/twin/res/200/?$rid=77", make([]byte, 10)))
		},
		"PUBACKs for nothing": func(p *peer) {
			a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			a.MessageID = 999
			p.Every(time.Second, a)
		},
		"a packet without end":   func(p *peer) { _ = p.Drip(mqtttest.Downlink("x", make([]byte, 2000)), 100*time.Millisecond) },
		"the PUBACK, but slowly": func(p *peer) { _ = p.Drip(packets.NewControlPacket(packets.Puback), 20*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) {
					if p.Welcome() != nil {
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

// TestTwinHasTwoPartsAndVersionsThatAreNumbers: a twin has two parts, and versions that are
// numbers.
func TestTwinHasTwoPartsAndVersionsThatAreNumbers(t *testing.T) {
	for body, want := range map[string]int64{
		`{"desired":{"$version":4,"a":1},"reported":{"$version":1}}`: 4,
		`{"desired":{},"reported":{}}`:                               0,
		`{"desired":{"$version":9223372036854775807},"reported":{}}`: 0,
		`{"desired":{"$version":1e30},"reported":{}}`:                0,
		`{"desired":{"$version":-1},"reported":{}}`:                  0,
		`{"desired":null,"reported":{}}`:                             -1,
		`{"desired":{},"reported":null}`:                             -1,
		`{"reported":{}}`:                                            -1,
		`[]`:                                                         -1,
		``:                                                           -1,
	} {
		doc, err := parseTwin([]byte(body))
		switch {
		case want < 0 && !errors.Is(err, ErrTwin):
			t.Errorf("%s: %v", body, err)
		case want >= 0 && (err != nil || doc.DesiredVersion != want || doc.Desired == nil || doc.Reported == nil):
			t.Errorf("%s: %+v %v", body, doc, err)
		}
	}
}
