package sim

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// injectionTopic asks for a fault as the official SDKs' tests do.
func injectionTopic(id, kind, delay, duration string) string {
	return "devices/" + id + "/messages/events/AzIoTHub_FaultOperationType=" + kind + "&AzIoTHub_FaultOperationCloseReason=boom&AzIoTHub_FaultOperationDelayInSecs=" + delay +
		"&AzIoTHub_FaultOperationDurationInSecs=" + duration
}

// The message that asks for the fault is received and never acknowledged. The fault begins after
// its delay and ends after its duration, for this device alone.
func TestInjectedFaultClosesThisDeviceAlone(t *testing.T) {
	for kind, f := range map[string]struct {
		ends func(error) bool
		code byte
	}{"KillTcp": {isReset, 3}, "ShutDownMqtt": {isEOF, 3}, "InvokeAuthError": {isEOF, 5}} {
		inWorld(t, nil, func(w *world) {
			host := w.provision("d")
			w.provision("e")
			c, other := w.connect(host, "d"), w.connect(host, "e")
			start := time.Now()
			c.send(publishBytes(injectionTopic("d", kind, "2", "5"), "x", 1, 1))
			c.telemetry("", "normal", 2) // until it begins
			_ = c.raw.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := c.read(); !f.ends(err) || time.Since(start) != 2*time.Second {
				t.Errorf("%s: %v after %v", kind, err, time.Since(start))
			}
			if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != f.code {
				t.Errorf("%s: CONNACK %d", kind, code)
			}
			other.telemetry("", "x", 1)
			time.Sleep(5 * time.Second)
			w.connect(host, "d").telemetry("", "again", 1)
			if l := w.Ledger("d", false); l.Received != 3 {
				t.Errorf("%s: %+v", kind, l)
			}
		})
	}
}

func TestInjectedFaultThrottlesOrEndsTelemetry(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		c.send(publishBytes(injectionTopic("d", "InvokeThrottling", "0", "60"), "x", 1, 1))
		synctest.Wait()
		if topic, body := c.ask("$iothub/twin/GET/?$rid=1", ""); topic != "$iothub/twin/res/429/?$rid=1" || !strings.Contains(body, "429001") {
			t.Errorf("%s %s", topic, body)
		}
		start := time.Now()
		c.telemetry("", "x", 2)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("PUBACK after %v", d)
		}
		time.Sleep(time.Minute)
		if topic, _ := c.ask("$iothub/twin/GET/?$rid=2", ""); topic != "$iothub/twin/res/200/?$rid=2" {
			t.Error(topic)
		}
		c.send(publishBytes(injectionTopic("d", "InvokeMaxMessageQuota", "", "10"), "x", 1, 3))
		synctest.Wait()
		c.send(publishBytes("devices/d/messages/events/", "too many", 1, 4))
		c.wantEnd()
		c = w.connect(host, "d") // quota does not keep a device from connecting
		c.send(publishBytes("devices/d/messages/events/", "too many", 0, 0))
		c.wantEnd()
		time.Sleep(10 * time.Second)
		c = w.connect(host, "d")
		// what means nothing over MQTT is telemetry
		for _, kind := range []string{"KillAmqpConnection", "", "killtcp"} {
			c.send(publishBytes(injectionTopic("d", kind, "0", "10"), "x", 1, 5))
			c.want("40020005")
		}
		c.telemetry("text=AzIoTHub_FaultOperationType", "x", 6)
		if l := w.Ledger("d", false); l.Received != 7 {
			t.Errorf("%+v", l)
		}
	})
}

// A connection that ends by itself takes a fault along that was still to begin.
func TestInjectedFaultGoesWithItsConnection(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		c.send(publishBytes(injectionTopic("d", "KillTcp", "5", "60"), "x", 1, 1), []byte{0xc0, 0})
		c.want("d000")
		c = w.connect(host, "d")
		time.Sleep(10 * time.Second)
		c.telemetry("", "x", 1)
	})
}

// A hub that comes back empty knows no device until DPS sends the device again, and has nothing of
// what the device had.
func TestEmptyHubKnowsNobodyUntilDPSSendsThem(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		h := w.hubs[0]
		_, err := h.AdmitModule("d", "m", azure.Credentials{Keys: [][]byte{[]byte("k")}})
		must(t, err)
		c := w.connect(host, "d")
		c.subscribeAll()
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
		c.wantPublish()
		c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"b":2}`)
		stays := false
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, Seconds: 10, Empty: true, DPSKnows: &stays}))
		c.wantEnd()
		time.Sleep(11 * time.Second)
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 5 {
			t.Errorf("CONNACK %d", code)
		}
		if _, _, code := w.tryHub(w.moduleOptions(host, "d", "m", []byte("k")), host); code != 5 {
			t.Errorf("module: CONNACK %d", code)
		}
		if got := refusal(w.PatchDesired("d", json.RawMessage(`{}`))); got != "404 DeviceNotFound" {
			t.Error(got)
		}
		if again := w.provision("d"); again != host {
			t.Error(again)
		}
		c, present, code := w.tryHub(w.hubOptions(host, "d"), host)
		if present || code != 0 {
			t.Error(present, code)
		}
		c.subscribeAll()
		if _, body := c.ask("$iothub/twin/GET/?$rid=1", ""); body != `{"desired":{"$version":1},"reported":{"$version":1}}` {
			t.Error(body)
		}
		// a second fault does not lose what the first has left
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DelayMs: 1, Empty: true}))
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultDropPuback}))
		c.send([]byte{0xc0, 0})
		c.want("d000")
		must(t, w.HealHub("hub-a"))
		c.wantEnd()
		w.provision("d")
		c = w.connect(host, "d")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultDropPuback}))
		must(t, w.HealHub("hub-a"))
		c.telemetry("", "still here", 1)
	})
}

// onLog is called with every line of a log.
type onLog func(line string)

func (f onLog) Write(p []byte) (int, error) { f(string(p)); return len(p), nil }

// What a persistent session is sent in the moment in which it is let in comes behind its CONNACK.
func TestNothingIsSentBeforeTheConnack(t *testing.T) {
	var connected func()
	log := zerolog.New(onLog(func(line string) {
		if strings.Contains(line, `"message":"connected"`) {
			connected()
		}
	}))
	inWorld(t, func(c *Config) { c.Logger = log }, func(w *world) {
		connected = func() {}
		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		c.close()
		synctest.Wait()
		connected = func() { must(t, w.PatchDesired("d", json.RawMessage(`{"n":1}`))) }
		c = w.connect(host, "d")
		c.wantPublish()
	})
}

// The caller of a method may give the device time to connect.
func TestMethodCallMayWaitForTheDevice(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		i := w.hubs[0].Identity("d")
		waited := make(chan time.Duration)
		wait := func() {
			start := time.Now()
			i.Await(w.t.Context())
			waited <- time.Since(start)
		}
		go wait()
		time.Sleep(3 * time.Second)
		c := w.connect(host, "d")
		time.Sleep(2 * time.Second)
		c.subscribeAll()
		if d := <-waited; d != 5*time.Second {
			t.Errorf("waited %v", d)
		}
		c.close()
		synctest.Wait()
		go wait()
		time.Sleep(time.Second)
		w.connect(host, "d") // its session listens already
		if d := <-waited; d != time.Second {
			t.Errorf("waited %v", d)
		}
		must(t, w.Disconnect("d"))
		go wait()
		time.Sleep(time.Second)
		must(t, w.Delete("d"))
		if d := <-waited; d != time.Second {
			t.Errorf("waited %v", d)
		}
	})
}
