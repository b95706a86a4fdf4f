package main

import (
	"crypto/tls"
	"strings"
	"time"

	"github.com/amenzhinsky/iothub/iotdevice"
	iotmqtt "github.com/amenzhinsky/iothub/iotdevice/transport/mqtt"
	"github.com/amenzhinsky/iothub/logger"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// transport is the package's own, told whom to trust and to come back soon.
func transport(c *cloud, webSocket bool, certificates ...tls.Certificate) *iotmqtt.Transport {
	return iotmqtt.New(iotmqtt.WithWebSocket(webSocket), iotmqtt.WithModelID(modelID), iotmqtt.WithClientOptionsConfig(func(o *mqtt.ClientOptions) {
		config := c.tls()
		config.Certificates = certificates
		o.SetTLSConfig(config).SetMaxReconnectInterval(200 * time.Millisecond).SetConnectRetry(false).SetConnectTimeout(10 * time.Second)
	}))
}

var quiet = iotdevice.WithLogger(logger.New(logger.LevelOff, nil))

func (t *try) connectThing(c *cloud, host, key string, webSocket bool) (*iotdevice.Client, error) {
	d, err := iotdevice.NewFromConnectionString(transport(c, webSocket), "HostName="+host+";DeviceId="+t.id+";SharedAccessKey="+key, quiet)
	t.must("connection string", err)
	return d, d.Connect(t.ctx)
}

func (s *suite) iothub(webSocket bool) {
	run := func(scenario string, f func(t *try, d *iotdevice.Client)) {
		s.run(scenario, func(t *try) {
			host := t.provision(t.cloud)
			d, err := t.connectThing(t.cloud, host, key(t.cloud.GroupKey, t.id), webSocket)
			t.must("connect", err)
			defer func() { _ = d.Close() }()
			f(t, d)
		})
	}
	run("connect", func(t *try, d *iotdevice.Client) {
		t.equal("connected to", t.cloud.connected(t.id), "hub-a")
		known, _ := t.cloud.device(t.id)
		t.equal("model id", known.ModelID, modelID)
		t.must("close", d.Close())
		t.eventually("the simulator sees the end", func() bool { return t.cloud.connected(t.id) == "" })
		t.equal("connects", len(t.cloud.reasons(t.id, "connect")), 1)
	})
	s.run("x509", func(t *try) {
		pair := t.pair(t.cloud, t.id)
		r, err := t.register(t.cloud, t.id, "", pair)
		t.must("register", err)
		d, err := iotdevice.NewFromX509Cert(transport(t.cloud, webSocket, pair), t.id, r.State.AssignedHub, &pair, quiet)
		t.must("certificate", err)
		t.must("connect", d.Connect(t.ctx))
		defer func() { _ = d.Close() }()
		t.must("send", d.SendEvent(t.ctx, []byte(`"by certificate"`), iotdevice.WithSendMessageID("m1")))
		t.equal("body", t.received(t.cloud, t.id, "m1").Messages[0].Body, "by certificate")
	})
	s.run("wrong-key", func(t *try) {
		_, err := t.connectThing(t.cloud, t.provision(t.cloud), key(t.cloud.GroupKey, "somebody else"), webSocket)
		t.refused("connect", err, "not authorized")
		t.equal("connects", len(t.cloud.reasons(t.id, "connect")), 0)
	})
	run("telemetry", func(t *try, d *iotdevice.Client) {
		t.must("send", d.SendEvent(t.ctx, []byte(`{"temp":21.5}`), iotdevice.WithSendMessageID("m1"), iotdevice.WithSendCorrelationID("c1"),
			iotdevice.WithSendProperty("a key", "a value & more = 100 %")))
		l := t.received(t.cloud, t.id, "m1")
		m := l.Messages[0]
		t.equal("body", m.Body, map[string]any{"temp": 21.5})
		t.equal("properties", []any{m.Properties["a key"], m.Properties["$.cid"]}, []any{"a value & more = 100 %", "c1"})
		t.equal("counts", []any{l.Received, l.Duplicates, l.Hubs}, []any{1, 0, map[string]int{"hub-a": 1}})
	})
	run("twin-get", func(t *try, d *iotdevice.Client) {
		t.must("desire", t.cloud.api("PATCH", "/api/devices/"+t.id+"/desired", map[string]any{"fanSpeed": 7}, nil))
		desired, reported, err := d.RetrieveTwinState(t.ctx)
		t.must("get", err)
		t.equal("desired", desired, map[string]any{"fanSpeed": 7, "$version": 2})
		t.equal("reported", reported, map[string]any{"$version": 1})
	})
	run("twin-patch", func(t *try, d *iotdevice.Client) {
		_, err := d.UpdateTwinState(t.ctx, iotdevice.TwinState{"battery": 42, "gone": 1})
		t.must("patch", err)
		version, err := d.UpdateTwinState(t.ctx, iotdevice.TwinState{"gone": nil})
		t.must("patch again", err)
		t.equal("version", version, 3)
		var twin struct {
			Reported any `json:"reported"`
		}
		t.must("twin", t.cloud.api("GET", "/api/devices/"+t.id+"/twin", nil, &twin))
		t.equal("reported", twin.Reported, map[string]any{"battery": 42, "$version": 3})
	})
	run("twin-desired", func(t *try, d *iotdevice.Client) {
		changes, err := d.SubscribeTwinUpdates(t.ctx)
		t.must("subscribe", err)
		t.must("desire", t.cloud.api("PATCH", "/api/devices/"+t.id+"/desired", map[string]any{"fanSpeed": 1200}, nil))
		t.equal("change", receive(t, "the change", changes.C()), map[string]any{"fanSpeed": 1200, "$version": 2})
	})
	run("method", func(t *try, d *iotdevice.Client) {
		t.echoes(d)
		status, answer := t.answered(t.cloud, "echo", `{"a":"ü"}`)
		t.equal("the caller's answer", []any{status, answer}, []any{207, `{"a":"ü"}`})
	})
	run("c2d", func(t *try, d *iotdevice.Client) {
		messages, err := d.SubscribeEvents(t.ctx)
		t.must("subscribe", err)
		t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": "wake up", "properties": map[string]string{"method-name": "setAlarm"}}, nil))
		m := receive(t, "the message", messages.C())
		t.equal("the message", []any{string(m.Payload), m.Properties["method-name"], m.MessageID != ""}, []any{`"wake up"`, "setAlarm", true})
		t.eventually("completion", func() bool { states := t.cloud.c2d(t.id); return len(states) == 1 && states[0] == "completed" })
	})
	s.run("reconnect", func(t *try) { t.thingComesBack(webSocket, false) })
	s.run("fault", func(t *try) { t.thingComesBack(webSocket, true) })
	s.run("disabled", func(t *try) { t.thingIsDisabled(t.cloud, webSocket, "unavailable", "CONNACK 3") })
	s.run("disabled-5", func(t *try) { t.thingIsDisabled(t.plain, webSocket, "not authorized", "CONNACK 5") })
	s.run("moved", func(t *try) { t.thingIsMoved(t.cloud, webSocket, "unavailable") })
	s.run("moved-deleted", func(t *try) { t.thingIsMoved(t.plain, webSocket, "not authorized") })
}

func (t *try) echoes(d *iotdevice.Client) {
	t.must("register method", d.RegisterMethod(t.ctx, "echo", func(p map[string]any) (int, map[string]any, error) { return 207, p, nil }))
}

func (t *try) thingComesBack(webSocket, fault bool) {
	d, err := t.connectThing(t.cloud, t.provision(t.cloud), key(t.cloud.GroupKey, t.id), webSocket)
	t.must("connect", err)
	defer func() { _ = d.Close() }()
	t.echoes(d)
	if fault {
		go func() { // it is never acknowledged
			_ = d.SendEvent(t.ctx, []byte("1"), iotdevice.WithSendQoS(0), iotdevice.WithSendProperties(map[string]string{
				"AzIoTHub_FaultOperationType": "KillTcp", "AzIoTHub_FaultOperationCloseReason": "boom",
				"AzIoTHub_FaultOperationDelayInSecs": "1", "AzIoTHub_FaultOperationDurationInSecs": "1"}))
		}()
	} else {
		t.must("disconnect", t.cloud.api("POST", "/api/devices/"+t.id+"/disconnect", struct{}{}, nil))
	}
	t.happened("the loss", t.cloud, "disconnect", 1)
	t.happened("a second connect", t.cloud, "connect", 2)
	t.eventually("the method again", func() bool { status, _ := t.answered(t.cloud, "echo", `{}`); return status == 207 })
	t.must("send", d.SendEvent(t.ctx, []byte("1"), iotdevice.WithSendMessageID("m1")))
	l := t.cloud.ledger(t.id)
	t.equal("the last message", l.Messages[len(l.Messages)-1].Mid, "m1")
}

func (t *try) thingIsDisabled(c *cloud, webSocket bool, word, connack string) {
	host, k := t.provision(c), key(c.GroupKey, t.id)
	d, err := t.connectThing(c, host, k, webSocket)
	t.must("connect", err)
	t.must("disable", c.api("POST", "/api/devices/"+t.id+"/disable", map[string]any{"dpsKnows": false}, nil))
	t.happened("the loss", c, "disconnect", 1)
	_ = d.Close()
	_, err = t.connectThing(c, host, k, webSocket)
	t.refused("connect", err, word)
	if reason := t.happened("the refusal", c, "refuse", 1); !strings.Contains(reason, connack) {
		t.fail("the simulator says %q, not %s", reason, connack)
	}
	t.must("enable", c.api("POST", "/api/devices/"+t.id+"/enable", struct{}{}, nil))
	d, err = t.connectThing(c, host, k, webSocket)
	t.must("connect, enabled", err)
	defer func() { _ = d.Close() }()
	t.must("send", d.SendEvent(t.ctx, []byte("1"), iotdevice.WithSendMessageID("m1")))
	t.received(c, t.id, "m1")
}

func (t *try) thingIsMoved(c *cloud, webSocket bool, word string) {
	host, k := t.provision(c), key(c.GroupKey, t.id)
	d, err := t.connectThing(c, host, k, webSocket)
	t.must("connect", err)
	t.must("send", d.SendEvent(t.ctx, []byte("1"), iotdevice.WithSendMessageID("m1")))
	t.must("move", c.api("POST", "/api/devices/"+t.id+"/failover", struct{}{}, nil))
	t.happened("the loss", c, "disconnect", 1)
	_ = d.Close()
	_, err = t.connectThing(c, host, k, webSocket)
	t.refused("the old hub", err, word)
	host = t.provision(c) // the package has no DPS client
	t.equal("the new hub", host, c.Hubs[1].Host)
	d, err = t.connectThing(c, host, k, webSocket)
	t.must("connect to the new hub", err)
	defer func() { _ = d.Close() }()
	t.must("send to the new hub", d.SendEvent(t.ctx, []byte("2"), iotdevice.WithSendMessageID("m2")))
	l := t.received(c, t.id, "m1", "m2")
	t.equal("hubs and duplicates", []any{l.Hubs, l.Duplicates}, []any{map[string]int{"hub-a": 1, "hub-b": 1}, 0})
}
