package device

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// TestEachPathCanBeTurnedOff turns off one path at a time and looks at all five. The one is off,
// and the others still work.
func TestEachPathCanBeTurnedOff(t *testing.T) {
	for off, set := range map[string]func(*plan){
		"none":      func(*plan) {},
		"telemetry": func(c *plan) { c.Telemetry = false },
		"reported":  func(c *plan) { c.Reported = false },
		"desired":   func(c *plan) { c.Desired = false },
		"methods":   func(c *plan) { c.Methods = false },
		"c2d":       func(c *plan) { c.C2D = false },
	} {
		t.Run(off, func(t *testing.T) {
			// The first life has every path on, so the hub remembers its subscriptions. A path must
			// be off all the same.
			bubble(t, setup{}, func(t *testing.T, w *world) {
				w.run(10 * time.Second)
				w.halt()
				had := w.cloud.Ledger("dev-1", false).Received
				battery := fmt.Sprint(w.twin("reported")["battery"])
				set(&w.config)
				w.start()
				w.run(30 * time.Second)

				works := map[string]bool{}
				works["telemetry"] = w.cloud.Ledger("dev-1", false).Received > had
				works["reported"] = fmt.Sprint(w.twin("reported")["battery"]) != battery
				w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":5}`)))
				_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"08:00:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
				w.must(err)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				r, err := w.cloud.Method(ctx, "dev-1", "echo", json.RawMessage(`"x"`))
				cancel()
				works["methods"] = err == nil && string(r.Payload) == `"x"`
				w.run(10 * time.Second)
				works["desired"] = strings.HasPrefix(w.acknowledged("fanSpeed"), "5 200")
				messages, err := w.cloud.C2DMessages("dev-1")
				w.must(err)
				works["c2d"] = messages[0].State == sim.C2DCompleted
				for path, does := range works {
					if does == (path == off) {
						t.Errorf("with %s off, %s works: %v", off, path, does)
					}
				}
				w.config.Telemetry = true // for the books
			})
		})
	}
}

// TestEveryDesiredKeyIsAcknowledged: each by itself, good and bad, known and unknown, in one patch.
func TestEveryDesiredKeyIsAcknowledged(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":1200,"unheardOf":{"a":1},"battery":5}`)))
		w.run(time.Second)
		for name, want := range map[string]string{"fanSpeed": "1200 200 2", "unheardOf": "map[a:1] 404 2"} {
			if got := w.acknowledged(name); got != want {
				t.Errorf("%s: acknowledged %q, not %q", name, got, want)
			}
		}
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":"fast"}`)))
		w.run(time.Second)
		if got := w.acknowledged("fanSpeed"); got != "fast 400 3" {
			t.Errorf("a wrong type: acknowledged %q", got)
		}
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":null}`)))
		w.run(time.Second)
		if _, there := w.twin("reported")["fanSpeed"]; there {
			t.Error("a property that was removed is still acknowledged")
		}
	})
}

// TestDesiredChangesWhileAway: a property changes several times during an outage, on the old hub
// and on the new one. The last value wins and is acknowledged once.
func TestDesiredChangesWhileAway(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(time.Minute)
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":1}`)))
		w.run(time.Second)
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown, Seconds: 30}))
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		for speed := range 5 {
			w.run(2 * time.Second)
			w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(fmt.Sprintf(`{"fanSpeed":%d}`, 100+speed))))
		}
		w.on("hub-b", 2*time.Minute)
		w.run(5 * time.Second)
		if got := w.acknowledged("fanSpeed"); !strings.HasPrefix(got, "104 200 ") {
			t.Errorf("acknowledged %s", got)
		}
		set := w.texts(journal.DesiredChange)
		if !slices.Equal(set, []string{"desired fanSpeed set to 1", "desired fanSpeed set to 104"}) {
			t.Errorf("applied: %v", set)
		}
	})
}

// TestDesiredRemovedWhileAway: a property that is removed while the device is away, or stopped, is
// removed from the reported part too. A restarted device learns it from that part alone.
func TestDesiredRemovedWhileAway(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				w.run(time.Minute)
				w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":5,"foreign":"x","part":{"__t":"c","a":1,"b":2}}`)))
				w.run(time.Second)
				if restart {
					w.halt()
				} else {
					w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole, DPSKnows: new(bool)}))
					w.run(10 * time.Second)
				}
				w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":null,"foreign":null,"part":{"a":null}}`)))
				if restart {
					w.start()
				} else {
					w.must(w.cloud.HealHub("hub-a"))
				}
				w.run(time.Minute)
				reported := w.twin("reported")
				part, _ := reported["part"].(map[string]any)
				if reported["fanSpeed"] != nil || reported["foreign"] != nil || part["a"] != nil || part["b"] == nil {
					t.Errorf("reported: %v", reported)
				}
				w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":5}`)))
				w.run(time.Second)
				set := w.texts(journal.DesiredChange)
				if set[len(set)-1] != "desired fanSpeed set to 5" {
					t.Errorf("set again to the value of before the removal: %v", set)
				}
			})
		})
	}
}

// TestReconnectReportsOnlyWhatDiffers: a healthy reconnect finds everything as the device left it,
// and reports at most the battery.
func TestReconnectReportsOnlyWhatDiffers(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Reported = false }}, func(t *testing.T, w *world) {
		w.must(nil)
		w.run(5 * time.Second)
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":3}`)))
		w.run(time.Second)
		before := w.twin("reported")["$version"]
		for range 5 {
			w.must(w.cloud.Disconnect("dev-1"))
			w.run(15 * time.Second) // sooner, and again and again, would look like a fight over the identity
		}
		if after := w.twin("reported")["$version"]; after != before {
			t.Errorf("the reported version went from %v to %v", before, after)
		}
	})
}

// TestTwinUnderThrottling: 429 on twin requests is waited out, and nothing is forgotten meanwhile.
func TestTwinUnderThrottling(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(20 * time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultThrottle, DelayMs: 200, Seconds: 40}))
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":3}`)))
		w.run(30 * time.Second)
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":4}`)))
		w.run(2 * time.Minute)
		if got := w.acknowledged("fanSpeed"); got != "4 200 3" {
			t.Errorf("acknowledged %s", got)
		}
		if n := w.count(journal.Lost); n != 0 {
			t.Errorf("the link was lost %d times", n)
		}
	})
}

// TestMethodsAreAnswered: echo returns any JSON value, or none. A method that the device does not
// have gets 404. Many methods at once block nothing.
func TestMethodsAreAnswered(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		call := func(name, payload string) string {
			r, err := w.cloud.Method(t.Context(), "dev-1", name, json.RawMessage(payload))
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintf("%d %s", r.Status, r.Payload)
		}
		for payload, want := range map[string]string{
			`"hello"`: `200 "hello"`, `42`: `200 42`, `[1]`: `200 [1]`, `{"a":null}`: `200 {"a":null}`, `null`: `200 null`, ``: `200 null`, `true`: `200 true`,
		} {
			if got := call("echo", payload); got != want {
				t.Errorf("echo %q: %s", payload, got)
			}
		}
		if got := call("thermostat1*getMax", `1`); !strings.HasPrefix(got, "404 ") {
			t.Errorf("an unknown method: %s", got)
		}
		if got := call("setAlarm", `"no time"`); !strings.HasPrefix(got, "400 ") {
			t.Errorf("a payload that does not fit: %s", got)
		}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if got, want := call("echo", fmt.Sprint(i)), fmt.Sprintf("200 %d", i); got != want {
					t.Errorf("%s, not %s", got, want)
				}
			})
		}
		wg.Wait()
		w.run(time.Minute)
		if n := w.count(journal.Lost); n != 0 {
			t.Errorf("the link was lost %d times", n)
		}
	})
}

// TestHandlerThatFailsStopsNothing: the caller of a slow, crashing or failing handler gets an
// answer, and the device goes on.
func TestHandlerThatFailsStopsNothing(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.MethodTimeout = 2 * time.Second }}, func(t *testing.T, w *world) {
		w.dev.handle("slow", func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
			time.Sleep(10 * time.Second)
			return nil, nil
		})
		w.dev.handle("crash", func(context.Context, json.RawMessage) (json.RawMessage, error) { panic("at the disco") })
		failures := 0
		w.dev.handle("fail", func(context.Context, json.RawMessage) (json.RawMessage, error) {
			failures++
			return nil, errors.New("not today")
		})
		w.run(5 * time.Second)
		for name, want := range map[string]int{"slow": 504, "crash": 500, "fail": 500} {
			r, err := w.cloud.Method(t.Context(), "dev-1", name, nil)
			if err != nil || r.Status != want {
				t.Errorf("%s: %d %v", name, r.Status, err)
			}
		}
		failures = 0
		for _, name := range []string{"fail", "crash", "unheard-of", ""} {
			_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`1`), Properties: map[string]string{"method-name": name}})
			w.must(err)
		}
		_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"08:00:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
		w.must(err)
		w.run(10 * time.Second)
		if failures != attempts {
			t.Errorf("a failing handler was tried %d times", failures)
		}
		messages, err := w.cloud.C2DMessages("dev-1")
		w.must(err)
		for i, m := range messages {
			if m.State != sim.C2DCompleted {
				t.Errorf("message %d is %s: it blocks the line", i, m.State)
			}
		}
		if got := w.texts(journal.CloudMessage); len(got) != 5 || !strings.Contains(got[2], `no command "unheard-of"`) || got[4] != "C2D setAlarm handled" {
			t.Errorf("journal: %q", got)
		}
	})
}

// deaf is a network whose connections lose what the device sends while it is switched on.
type deaf struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	on   atomic.Bool
}

func (d *deaf) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &deafConn{Conn: c, d: d}, nil
}

type deafConn struct {
	net.Conn
	d    *deaf
	gone bool
}

func (c *deafConn) Write(b []byte) (int, error) {
	if c.gone = c.gone || c.d.on.Load(); c.gone { // TLS does not survive a hole
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *deafConn) SetLinger(sec int) error {
	return c.Conn.(interface{ SetLinger(int) error }).SetLinger(sec)
}

// TestMessageThatComesAgainIsHandledOnce: the PUBACK of a handled command is lost, so the command
// comes again. It is completed but not handled again, also not by the next process.
func TestMessageThatComesAgainIsHandledOnce(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			var ear *deaf
			bubble(t, setup{device: func(c *plan) {
				ear = &deaf{dial: c.DialContext}
				c.DialContext = ear.DialContext
			}}, func(t *testing.T, w *world) {
				w.run(5 * time.Second)
				ear.on.Store(true)
				_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"08:00:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
				w.must(err)
				w.run(500 * time.Millisecond)
				if restart {
					w.halt()
					w.start()
				}
				ear.on.Store(false)
				w.run(time.Minute)
				messages, err := w.cloud.C2DMessages("dev-1")
				w.must(err)
				if m := messages[0]; m.State != sim.C2DCompleted || m.DeliveryCount < 2 {
					t.Errorf("%+v", m)
				}
				want := []string{"C2D setAlarm handled", "C2D setAlarm: delivered again, was handled before"}
				if got := w.texts(journal.CloudMessage); !slices.Contains(got, want[1]) || strings.Count(strings.Join(got, "\n"), "handled\n") > 1 {
					t.Errorf("journal: %q", got)
				}
			})
		})
	}
}

// TestUnreadMessagesBlockNothing: a handler that hangs holds up commands, and commands only.
func TestUnreadMessagesBlockNothing(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		release := make(chan struct{})
		free := sync.OnceFunc(func() { close(release) })
		defer free()
		w.dev.handle("hang", func(context.Context, json.RawMessage) (json.RawMessage, error) {
			<-release
			return nil, nil
		})
		w.run(5 * time.Second)
		for range 40 { // 40 × 3 attempts × 25 s: longer than this test watches
			_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`1`), Properties: map[string]string{"method-name": "hang"}})
			w.must(err)
		}
		w.run(5 * time.Minute)
		if l := w.cloud.Ledger("dev-1", false); l.Received < 300 {
			t.Errorf("%d samples in five minutes", l.Received)
		}
		w.must(w.cloud.Disconnect("dev-1")) // nor does it hold up the next link
		w.on("hub-a", 5*time.Second)
		if r, err := w.cloud.Method(t.Context(), "dev-1", "echo", json.RawMessage(`1`)); err != nil || r.Status != 200 {
			t.Errorf("%v %v", r, err)
		}
		free()
		w.run(time.Minute)
		messages, err := w.cloud.C2DMessages("dev-1")
		w.must(err)
		for _, m := range messages {
			if m.State != sim.C2DCompleted {
				t.Fatalf("%+v", m)
			}
		}
	})
}

// TestTokenRenewal: a day of hourly tokens, see aDay. No link is lost, nothing is sent twice, DPS
// is not asked.
func TestTokenRenewal(t *testing.T) {
	t.Parallel()
	bubble(t, setup{}, func(t *testing.T, w *world) {
		hours := int(aDay() / time.Hour)
		w.run(aDay())
		if n := w.count(journal.Renewed); n < hours || n > hours*31/24 {
			t.Errorf("%d renewals in %d hours", n, hours)
		}
		if n := w.count(journal.Lost); n != 0 {
			t.Errorf("the link was lost %d times", n)
		}
		l := w.cloud.Ledger("dev-1", false)
		if l.Duplicates != 0 || l.MaxGapMs > 1000 {
			t.Errorf("%d duplicates, longest gap %d ms", l.Duplicates, l.MaxGapMs)
		}
		if n := w.cloud.State().Totals.Registrations; n != 1 {
			t.Errorf("%d registrations", n)
		}
	})
}

// TestRenewalWaitsForPubacks: a slow hub has messages in flight at every moment. A renewal waits
// until they are acknowledged instead of sending them again.
func TestRenewalWaitsForPubacks(t *testing.T) {
	t.Parallel()
	bubble(t, setup{device: func(c *plan) { c.Link.TokenLife, c.TelemetryInterval = 10*time.Minute, 100*time.Millisecond }}, func(t *testing.T, w *world) {
		w.on("hub-a", time.Minute)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultSlow, DelayMs: 700}))
		minutes := 60
		if racing.On {
			minutes = 20
		}
		w.run(time.Duration(minutes) * time.Minute)
		if n := w.count(journal.Renewed); n < minutes/10 {
			t.Errorf("%d renewals in %d minutes", n, minutes)
		}
		if n := w.cloud.Ledger("dev-1", false).Duplicates; n != 0 {
			t.Errorf("%d messages were sent again", n)
		}
		if n := w.count(journal.Lost); n != 0 {
			t.Errorf("the link was lost %d times", n)
		}
	})
}

// TestRestartUsesTheCachedHub: a restart does not ask DPS, also if DPS is down. A device leaves a
// dead cached hub for the hub that DPS names, and caches that one.
func TestRestartUsesTheCachedHub(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(time.Minute)
		w.halt()
		before := w.cloud.State().Totals.Registrations
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		w.start()
		if took := w.on("hub-a", time.Minute); took > 2*time.Second {
			t.Errorf("telemetry after %v", took)
		}
		if n := w.cloud.State().Totals.Registrations - before; n != 0 {
			t.Errorf("%d registrations", n)
		}
		w.halt()
		w.must(w.cloud.HealDPS())
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.start()
		w.on("hub-b", time.Minute)
		w.run(time.Second)
		w.halt()
		state, err := os.ReadFile(filepath.Join(w.config.StateDir, "dev-1", "state.json"))
		if err != nil || !strings.Contains(string(state), `"assignedHub": "127.0.0.3"`) {
			t.Errorf("%s %v", state, err)
		}
		before = w.cloud.State().Totals.Registrations
		w.start()
		w.on("hub-b", time.Minute)
		if n := w.cloud.State().Totals.Registrations - before; n != 0 {
			t.Errorf("%d registrations with a cached hub", n)
		}
	})
}

// TestStopDuringAnOutageKeepsWhatWaits: samples that cannot be sent within the drain timeout wait
// for the next start, under the same ids.
func TestStopDuringAnOutageKeepsWhatWaits(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(time.Minute)
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole}))
		w.run(time.Minute)
		began := time.Now()
		w.halt()
		if took := time.Since(began); took < 5*time.Second || took > 8*time.Second {
			t.Errorf("the stop took %v; the drain timeout is 5 s", took)
		}
		w.must(w.cloud.HealDPS())
		w.start()
		w.on("hub-b", time.Minute)
		w.run(10 * time.Second)
	})
}

// TestLinesFromStandardInputAllArrive: lines arrive byte for byte and in order. When the input ends
// and everything is sent, the device ends.
func TestLinesFromStandardInputAllArrive(t *testing.T) {
	input, feed := io.Pipe()
	bubble(t, setup{device: func(c *plan) {
		c.Source, c.Input, c.Outbox.Full = "stdin", input, outbox.Block
	}}, func(t *testing.T, w *world) {
		go func() {
			_, _ = feed.Write([]byte("{\"temp\": 21.50,  \"humidity\":1e1}\nnot json\n{\"temp\":\"warm\",\"other\":[1]}\r\n{}"))
			_ = feed.Close()
		}()
		if err := <-w.ended; err != nil {
			t.Error(err)
		}
		w.dev = nil
		var bodies []string
		for _, m := range w.cloud.Ledger("dev-1", true).Messages {
			bodies = append(bodies, string(m.Body))
		}
		if want := []string{`{"temp": 21.50,  "humidity":1e1}`, `{"temp":"warm","other":[1]}`, `{}`}; !slices.Equal(bodies, want) {
			t.Errorf("%q", bodies)
		}
		if got := w.texts(journal.BadLine); len(got) != 1 || !strings.Contains(got[0], "line 2") {
			t.Errorf("%q", got)
		}
		if got := w.texts(journal.Warning); len(got) != 2 {
			t.Errorf("one warning for the type of temp, one for other: %q", got)
		}
	})
}

// TestMessageProperties: what the cloud needs to read a message, on every one.
func TestMessageProperties(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(3 * time.Second)
		l := w.cloud.Ledger("dev-1", true)
		m := l.Messages[0]
		outbox, seq, _ := strings.Cut(m.Mid, "-")
		if len(outbox) != 16 || seq != "1" {
			t.Errorf("mid %s", m.Mid)
		}
		for key, want := range map[string]string{"$.ct": "application/json", "$.ce": "utf-8", "$.mid": m.Mid} {
			if p := m.Properties[key]; p == nil || *p != want {
				t.Errorf("%s is %v", key, p)
			}
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", m.CreationTime); err != nil {
			t.Error(err)
		}
		var body struct{ Temp, Humidity float64 }
		if err := json.Unmarshal(m.Body, &body); err != nil || body.Temp < 20 || body.Temp > 120 || body.Humidity < 0 || body.Humidity > 100 {
			t.Errorf("%s %v", m.Body, err)
		}
		if got := w.cloud.State().Devices[0].ModelID; got != "dtmi:Sample:Failover;1" {
			t.Errorf("model id %q", got)
		}
	})
}

// TestProvisioningOverHTTPS: the same device, the other transport.
func TestProvisioningOverHTTPS(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.ProvisioningTransport = dps.HTTPS }}, func(t *testing.T, w *world) {
		w.on("hub-a", 10*time.Second)
		w.run(time.Minute)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		if took := w.on("hub-b", 10*time.Second); took > 3100*time.Millisecond {
			t.Errorf("telemetry on B after %v", took)
		}
	})
}

// TestCertificate: an X.509 device of the simulator's enrollment group.
func TestCertificate(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Key = "" }}, func(t *testing.T, w *world) {
		w.halt() // without key and certificate nobody lets it in
		if n := w.cloud.Ledger("dev-1", false).Received; n != 0 {
			t.Fatalf("%d messages from a device without credentials", n)
		}
		dir := t.TempDir()
		w.must(w.cloud.WriteFiles(dir))
		ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "device-ca.pem"), filepath.Join(dir, "device-ca-key.pem"))
		w.must(err)
		parent, err := x509.ParseCertificate(ca.Certificate[0])
		w.must(err)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		w.must(err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "dev-1"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
			parent, key.Public(), ca.PrivateKey)
		w.must(err)
		w.config.Certificate = &tls.Certificate{Certificate: [][]byte{der, ca.Certificate[0]}, PrivateKey: key}
		w.start()
		w.on("hub-a", 10*time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultConnack5}))
		w.on("hub-b", 10*time.Second)
	})
}

// TestWrongKeyNeverStopsADevice: the device backs off, says what to do, and works as soon as the
// cloud accepts it. A device that runs once ends at once.
func TestWrongKeyNeverStopsADevice(t *testing.T) {
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	bubble(t, setup{device: func(c *plan) { c.Key = wrong; c.Telemetry = false }}, func(t *testing.T, w *world) {
		w.run(30 * time.Minute)
		if n := w.cloud.State().Totals.Registrations; n > 80 {
			t.Errorf("%d registrations in half an hour", n)
		}
		found := false
		for _, text := range w.texts(journal.Decision) {
			found = found || strings.Contains(text, "401000") && strings.Contains(text, "check --id-scope")
		}
		if !found {
			t.Errorf("%q", w.texts(journal.Decision)[0])
		}
		w.halt()
		w.config.Once = true
		w.start()
		err := <-w.ended
		w.dev = nil
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "401000") {
			t.Errorf("once: %v", err)
		}
	})
}

// TestOnce: connect, send what is queued, stop. With nobody there it gives up after a minute.
func TestOnce(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.run(10 * time.Second)
		w.halt() // with samples in the queue
		w.config.Once = true
		began := time.Now()
		w.start()
		err := <-w.ended
		w.dev = nil
		if took := time.Since(began); !errors.Is(err, ErrUnreachable) || took != time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
		w.must(w.cloud.HealDPS())
		w.start()
		if err := <-w.ended; err != nil {
			t.Error(err)
		}
		w.dev = nil
		synctest.Wait()
		if l := w.cloud.Ledger("dev-1", false); l.Hubs["hub-b"] < 10 {
			t.Errorf("%+v", l.Hubs)
		}
	})
}

// TestOnePinnedHub: a connection string names the hub; DPS is never asked, whatever happens.
func TestOnePinnedHub(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.halt()
		before := w.cloud.State().Totals.Registrations
		w.must(w.config.UseConnectionString("HostName=127.0.0.2;DeviceId=dev-1;SharedAccessKey=" + w.config.Key))
		w.start()
		w.on("hub-a", 10*time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, Seconds: 60, DPSKnows: no()}))
		w.run(time.Minute)
		w.on("hub-a", 2*time.Minute)
		w.forget()
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultConnack5, Seconds: 10, DPSKnows: no()}))
		w.run(10 * time.Second)
		w.on("hub-a", 2*time.Minute)
		said := w.texts(journal.Decision)
		for _, text := range said {
			if strings.Contains(text, "DPS") || strings.Contains(text, "reprovision") {
				t.Errorf("there is no DPS here: %s", text)
			}
		}
		if all := strings.Join(said, "\n"); !strings.Contains(all, "check the key, that the hub has this device and has it enabled") || !strings.Contains(all, "try again") {
			t.Errorf("nothing to do is said: %s", all)
		}
		if n := w.cloud.State().Totals.Registrations - before; n != 0 {
			t.Errorf("%d registrations", n)
		}
	})
}

// TestGateway: a gateway stands before the hub. Its address is the only one that is dialled, by
// links and for the time; the hub hears its own name.
func TestGateway(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.halt()
		w.must(w.config.UseConnectionString("HostName=hub-a.sim.local;DeviceId=dev-1;GatewayHostName=127.0.0.2;SharedAccessKey=" + w.config.Key))
		dial := w.config.DialContext
		w.config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, _, _ := net.SplitHostPort(addr); host != "127.0.0.2" {
				t.Errorf("dialled %s", addr)
			}
			return dial(ctx, network, addr)
		}
		w.start()
		w.on("hub-a", 10*time.Second)
		w.must(w.cloud.Disconnect("dev-1"))
		w.on("hub-a", 10*time.Second)
		w.run(10 * time.Minute)
	})
}
