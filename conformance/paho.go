package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const modelID = "dtmi:Sample:Failover;1"

// pahoClient is plain paho with what the documentation of IoT Hub says about names, topics and
// tokens.
type pahoClient struct {
	mqtt.Client
	lost chan struct{}
}

func (t *try) pahoOptions(c *cloud, host, clientID, username string, password func() string) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions().AddBroker("tls://" + host + ":8883").SetProtocolVersion(4).SetClientID(clientID).SetTLSConfig(c.tls()).
		SetCredentialsProvider(func() (string, string) { return username, password() }).
		SetCleanSession(false).SetAutoReconnect(false).SetOrderMatters(false).SetConnectTimeout(10 * time.Second)
	return o
}

func (t *try) open(o *mqtt.ClientOptions) (*pahoClient, error) {
	p := &pahoClient{lost: make(chan struct{}, 10)}
	if o.OnConnectionLost == nil || !o.AutoReconnect {
		o.SetConnectionLostHandler(func(mqtt.Client, error) { p.lost <- struct{}{} })
	}
	p.Client = mqtt.NewClient(o)
	return p, t.wait(p.Connect())
}

// wait is for a paho token what a deadline is for a call.
func (t *try) wait(token mqtt.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case <-t.ctx.Done():
		return t.ctx.Err()
	case <-time.After(10 * time.Second):
		return errors.New("no answer within 10 s")
	}
}

func hubUser(host, id string) string {
	return host + "/" + id + "/?api-version=2021-04-12&DeviceClientType=paho&model-id=" + url.QueryEscape(modelID)
}

// options are those of a device at a hub.
func (t *try) options(c *cloud, host, id, key string) *mqtt.ClientOptions {
	return t.pahoOptions(c, host, id, hubUser(host, id), func() string {
		return token(host+"/devices/"+id, key, "", time.Now().Add(time.Hour))
	})
}

// online is the usual beginning: assigned, connected.
func (t *try) online(c *cloud) *pahoClient {
	p, err := t.open(t.options(c, t.provision(c), t.id, key(c.GroupKey, t.id)))
	t.must("connect", err)
	return p
}

// send publishes with QoS 1 and waits for the acknowledgement.
func (t *try) send(p *pahoClient, id, bag, body string) {
	t.must("send", t.wait(p.Publish("devices/"+id+"/messages/events/"+bag, 1, false, body)))
}

func (t *try) subscribe(p *pahoClient, filter string, qos byte) <-chan mqtt.Message {
	c := make(chan mqtt.Message, 100)
	t.must("subscribe", t.wait(p.Subscribe(filter, qos, func(_ mqtt.Client, m mqtt.Message) { c <- m })))
	return c
}

// registration is the final word of DPS.
type registration struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		AssignedHub string `json:"assignedHub"`
		DeviceID    string `json:"deviceId"`
		Substatus   string `json:"substatus"`
	} `json:"registrationState"`
}

// register asks DPS by the documentation's topics.
func (t *try) register(c *cloud, id, key string, certificates ...tls.Certificate) (r registration, err error) {
	user := c.IDScope + "/registrations/" + id + "/api-version=2019-03-31&ClientVersion=paho"
	o := t.pahoOptions(c, c.ProvisioningHost, id, user, func() string {
		if key == "" {
			return ""
		}
		return token(c.IDScope+"/registrations/"+id, key, "registration", time.Now().Add(time.Hour))
	}).SetCleanSession(true)
	o.TLSConfig.Certificates = certificates
	p, err := t.open(o)
	if err != nil {
		return r, fmt.Errorf("connect to DPS: %w", err)
	}
	defer p.Disconnect(0)
	answers := t.subscribe(p, "$dps/registrations/res/#", 1)
	topic, body := "PUT/iotdps-register/?$rid=1", fmt.Sprintf(`{"registrationId":%q,"payload":{"modelId":%q}}`, id, modelID)
	for n := 2; ; n++ {
		t.must("register", t.wait(p.Publish("$dps/registrations/"+topic, 1, false, body)))
		m := receive(t, "an answer of DPS", answers)
		status, query, _ := strings.Cut(strings.TrimPrefix(m.Topic(), "$dps/registrations/res/"), "/?")
		code, err := strconv.Atoi(status)
		if err != nil || code >= 300 {
			return r, fmt.Errorf("DPS answers %s %s", m.Topic(), m.Payload())
		}
		values := map[string]string{}
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			values[name] = value
		}
		if values["$rid"] != strconv.Itoa(n-1) {
			t.fail("DPS answers request %s, not %d", values["$rid"], n-1)
		}
		if err := json.Unmarshal(m.Payload(), &r); err != nil {
			return r, err
		}
		if r.Status != "assigning" {
			return r, nil
		}
		seconds, err := strconv.Atoi(values["retry-after"])
		if err != nil {
			t.fail("retry-after is %q, not whole seconds", values["retry-after"])
		}
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-t.ctx.Done():
			return r, t.ctx.Err()
		}
		topic, body = fmt.Sprintf("GET/iotdps-get-operationstatus/?$rid=%d&operationId=%s", n, r.OperationID), ""
	}
}

// provision makes the device of this scenario known at its hub and returns the hub's host.
func (t *try) provision(c *cloud) string {
	r, err := t.register(c, t.id, key(c.GroupKey, t.id))
	t.must("register", err)
	t.equal("status", r.Status, "assigned")
	return r.State.AssignedHub
}

func (t *try) pair(c *cloud, name string) tls.Certificate {
	p, err := tls.LoadX509KeyPair(c.file(name+".pem"), c.file(name+"-key.pem"))
	t.must("certificate", err)
	return p
}

// received wants exactly these message ids in the ledger, in this order.
func (t *try) received(c *cloud, id string, mids ...string) ledger {
	l := c.ledger(id)
	got := []string{}
	for _, m := range l.Messages {
		got = append(got, m.Mid)
	}
	t.equal("the ledger of "+id, got, mids)
	return l
}

// happened waits for the n-th event of a kind and returns its reason.
func (t *try) happened(what string, c *cloud, kind string, n int) string {
	var reasons []string
	t.eventually(what, func() bool {
		reasons = c.reasons(t.id, kind)
		return len(reasons) >= n
	})
	return reasons[n-1]
}

// answered asks for a direct method by the control API.
func (t *try) answered(c *cloud, method, payload string) (status int, answer string) {
	req, err := http.NewRequestWithContext(t.ctx, "POST", c.Control+"/api/devices/"+t.id+"/methods/"+method+"?timeoutSeconds=3", strings.NewReader(payload))
	t.must("method", err)
	var r struct {
		Status  int             `json:"status"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := exchange(http.DefaultClient, req, &r); err != nil {
		return 0, err.Error()
	}
	return r.Status, string(r.Payload)
}

func (s *suite) paho() {
	s.run("provision-group", func(t *try) {
		r, err := t.register(t.cloud, t.id, key(t.cloud.GroupKey, t.id))
		t.must("register", err)
		t.equal("the answer", []string{r.Status, r.State.DeviceID, r.State.AssignedHub}, []string{"assigned", t.id, t.cloud.Hubs[0].Host})
		d, _ := t.cloud.device(t.id)
		t.equal("the simulator's device", []any{d.AssignedHub, d.Enabled, d.ModelID}, []any{"hub-a", true, modelID})
		t.equal("the event", t.happened("the event", t.cloud, "register", 1), "assigned")
	})
	s.run("provision-secondary", func(t *try) {
		k := key(t.cloud.SecondaryGroupKey, t.id)
		r, err := t.register(t.cloud, t.id, k)
		t.must("register", err)
		p, err := t.open(t.options(t.cloud, r.State.AssignedHub, t.id, k))
		t.must("connect", err)
		defer p.Disconnect(0)
		t.send(p, t.id, "%24.mid=m1", "1")
		t.received(t.cloud, t.id, "m1")
	})
	s.run("provision-individual", func(t *try) {
		k, id := randomKey(), t.id+"-Device"
		t.must("enroll", t.cloud.enroll(t.id, id, map[string]any{"type": "symmetricKey", "symmetricKey": map[string]string{"primaryKey": k, "secondaryKey": randomKey()}}))
		r, err := t.register(t.cloud, t.id, k)
		t.must("register", err)
		t.equal("the answer", []string{r.Status, r.State.DeviceID}, []string{"assigned", id})
		p, err := t.open(t.options(t.cloud, r.State.AssignedHub, id, k))
		t.must("connect", err)
		defer p.Disconnect(0)
		t.send(p, id, "%24.mid=m1", "1")
		t.received(t.cloud, id, "m1")
	})
	withCertificate := func(t *try) {
		pair := t.pair(t.cloud, t.id)
		r, err := t.register(t.cloud, t.id, "", pair)
		t.must("register", err)
		t.equal("the answer", []string{r.Status, r.State.DeviceID}, []string{"assigned", t.id})
		o := t.options(t.cloud, r.State.AssignedHub, t.id, "")
		o.SetCredentialsProvider(func() (string, string) { return hubUser(r.State.AssignedHub, t.id), "" })
		o.TLSConfig.Certificates = []tls.Certificate{pair}
		p, err := t.open(o)
		t.must("connect", err)
		defer p.Disconnect(0)
		t.send(p, t.id, "%24.mid=m1", "1")
		t.received(t.cloud, t.id, "m1")
	}
	s.run("provision-x509-group", withCertificate)
	s.run("provision-x509-individual", func(t *try) {
		pem, err := readText(t.cloud.file(t.id + ".pem"))
		t.must("certificate", err)
		t.must("enroll", t.cloud.enroll(t.id, t.id, map[string]any{"type": "x509", "x509": map[string]any{
			"clientCertificates": map[string]any{"primary": map[string]string{"certificate": pem}}}}))
		withCertificate(t)
	})
	s.run("provision-bad-key", func(t *try) {
		_, err := t.register(t.cloud, t.id, key(t.cloud.GroupKey, "somebody else"))
		t.refused("register", err, "res/401/")
		if d, known := t.cloud.device(t.id); known && d.AssignedHub != nil {
			t.fail("it has been assigned to %s", *d.AssignedHub)
		}
	})
	s.run("provision-disabled", func(t *try) {
		t.provision(t.cloud)
		t.must("disable", t.cloud.api("POST", "/api/devices/"+t.id+"/disable", struct{}{}, nil))
		r, err := t.register(t.cloud, t.id, key(t.cloud.GroupKey, t.id))
		t.must("register", err)
		t.equal("status", r.Status, "disabled")
		d, _ := t.cloud.device(t.id)
		t.equal("the simulator's device", []any{d.Enabled, d.AssignedHub}, []any{false, "hub-a"})
	})
	s.run("connect", func(t *try) {
		p := t.online(t.cloud)
		t.equal("connected to", t.cloud.connected(t.id), "hub-a")
		d, _ := t.cloud.device(t.id)
		t.equal("model id", d.ModelID, modelID)
		p.Disconnect(0)
		t.eventually("the simulator sees the end", func() bool { return t.cloud.connected(t.id) == "" })
		t.equal("connects", len(t.cloud.reasons(t.id, "connect")), 1)
	})
	s.run("oldest", func(t *try) {
		host := t.provision(t.cloud)
		p, err := t.open(t.pahoOptions(t.cloud, host, t.id, host+"/"+t.id+"/", func() string {
			return token(host+"/devices/"+t.id, key(t.cloud.GroupKey, t.id), "", time.Now().Add(time.Hour))
		}))
		t.must("connect", err)
		defer p.Disconnect(0)
		t.send(p, t.id, "%24.mid=m1", `"old"`)
		t.equal("body", t.received(t.cloud, t.id, "m1").Messages[0].Body, "old")
		t.subscribe(p, "$iothub/methods/POST/#", 0)
		t.refused("method", t.cloud.api("POST", "/api/devices/"+t.id+"/methods/echo", nil, nil), "DeviceNotOnline")
	})
	s.run("x509", withCertificate)
	s.run("wrong-key", func(t *try) {
		_, err := t.open(t.options(t.cloud, t.provision(t.cloud), t.id, key(t.cloud.GroupKey, "somebody else")))
		t.refused("connect", err, "not authorized")
		t.equal("connects", len(t.cloud.reasons(t.id, "connect")), 0)
	})
	s.run("expired", func(t *try) {
		host := t.provision(t.plain)
		o := t.options(t.plain, host, t.id, "")
		o.SetCredentialsProvider(func() (string, string) {
			return hubUser(host, t.id), token(host+"/devices/"+t.id, key(t.plain.GroupKey, t.id), "", time.Now().Add(-time.Minute))
		})
		_, err := t.open(o)
		t.refused("connect", err, "not authorized")
		t.equal("connects", len(t.plain.reasons(t.id, "connect")), 0)
	})
	s.run("telemetry", func(t *try) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		t.send(p, t.id, "%24.mid=m1&%24.ct=application%2Fjson&%24.ce=utf-8&a%20key=a%20value%20%26%20more%20%3D%20100%20%25&empty=&bare", `{"temp":21.5}`)
		l := t.received(t.cloud, t.id, "m1")
		m := l.Messages[0]
		t.equal("body", m.Body, map[string]any{"temp": 21.5})
		t.equal("properties", []any{m.Properties["a key"], m.Properties["$.ct"], m.Properties["$.ce"], m.Properties["empty"], m.Properties["iothub-connection-device-id"]},
			[]any{"a value & more = 100 %", "application/json", "utf-8", "", t.id})
		t.equal("counts", []any{l.Received, l.Duplicates, l.Hubs}, []any{1, 0, map[string]int{"hub-a": 1}})
	})
	s.run("retain", func(t *try) {
		p := t.online(t.cloud)
		t.must("send", t.wait(p.Publish("devices/"+t.id+"/messages/events/%24.mid=m1", 1, true, "1")))
		l := t.received(t.cloud, t.id, "m1")
		t.equal("mqtt-retain", l.Messages[0].Properties["mqtt-retain"], "true")
		p.Disconnect(0)
	})
	s.run("will", func(t *try) {
		o := t.options(t.cloud, t.provision(t.cloud), t.id, key(t.cloud.GroupKey, t.id)).
			SetWill("devices/"+t.id+"/messages/events/%24.mid=w1&why=gone", `"last words"`, 1, false)
		var conn *cutConn
		o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (c net.Conn, err error) {
			conn, err = dialCut(t.ctx, o.Servers[0].Host, o.TLSConfig)
			return conn, err
		})
		p, err := t.open(o)
		t.must("connect", err)
		conn.cut()
		receive(t, "the loss", p.lost)
		t.eventually("the will", func() bool { return t.cloud.ledger(t.id).Received == 1 })
		m := t.received(t.cloud, t.id, "w1").Messages[0]
		t.equal("the will", []any{m.Body, m.Properties["why"], m.Properties["iothub-MessageType"]}, []any{"last words", "gone", "Will"})
		o.SetCustomOpenConnectionFn(nil)
		p, err = t.open(o)
		t.must("connect again", err)
		p.Disconnect(250)
		t.eventually("the end", func() bool { return t.cloud.connected(t.id) == "" })
		t.received(t.cloud, t.id, "w1")
	})
	s.run("qos2", func(t *try) {
		p := t.online(t.cloud)
		p.Publish("devices/"+t.id+"/messages/events/", 2, false, "1")
		receive(t, "the loss", p.lost)
		t.happened("the simulator sees the end", t.cloud, "disconnect", 1)
	})
	s.run("twin-get", func(t *try) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		t.must("desire", t.cloud.api("PATCH", "/api/devices/"+t.id+"/desired", map[string]any{"fanSpeed": 7}, nil))
		answers := t.subscribe(p, "$iothub/twin/res/#", 0)
		t.must("get", t.wait(p.Publish("$iothub/twin/GET/?$rid=60", 0, false, "")))
		m := receive(t, "the twin", answers)
		t.equal("topic", m.Topic(), "$iothub/twin/res/200/?$rid=60")
		var want any
		t.must("twin", t.cloud.api("GET", "/api/devices/"+t.id+"/twin", nil, &want))
		t.equal("the twin", json.RawMessage(m.Payload()), want)
		t.equal("fanSpeed", strings.Contains(string(m.Payload()), `"fanSpeed":7`), true)
	})
	s.run("twin-patch", func(t *try) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		answers := t.subscribe(p, "$iothub/twin/res/#", 0)
		for i, patch := range []string{`{"battery":42,"gone":1}`, `{"gone":null}`} {
			t.must("patch", t.wait(p.Publish("$iothub/twin/PATCH/properties/reported/?$rid=p"+strconv.Itoa(i), 0, false, patch)))
			m := receive(t, "the answer", answers)
			t.equal("topic", m.Topic(), fmt.Sprintf("$iothub/twin/res/204/?$rid=p%d&$version=%d", i, i+2))
		}
		t.must("patch", t.wait(p.Publish("$iothub/twin/PATCH/properties/reported/?$rid=bad", 0, false, `{"a$b":1,"fine":2}`)))
		t.equal("topic of a bad name", receive(t, "the refusal", answers).Topic(), "$iothub/twin/res/400/?$rid=bad")
		var twin struct {
			Reported any `json:"reported"`
		}
		t.must("twin", t.cloud.api("GET", "/api/devices/"+t.id+"/twin", nil, &twin))
		t.equal("reported", twin.Reported, map[string]any{"battery": 42, "$version": 3})
	})
	s.run("twin-desired", func(t *try) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		changes := t.subscribe(p, "$iothub/twin/PATCH/properties/desired/#", 0)
		t.must("desire", t.cloud.api("PATCH", "/api/devices/"+t.id+"/desired", map[string]any{"fanSpeed": 1200}, nil))
		m := receive(t, "the change", changes)
		t.equal("topic", m.Topic(), "$iothub/twin/PATCH/properties/desired/?$version=2")
		t.equal("change", json.RawMessage(m.Payload()), map[string]any{"fanSpeed": 1200, "$version": 2})
	})
	s.run("method", func(t *try) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		t.echo(p)
		status, answer := t.answered(t.cloud, "echo", `{"a":"ü"}`)
		t.equal("the caller's answer", []any{status, answer}, []any{207, `{"a":"ü"}`})
	})
	s.run("c2d", func(t *try) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		messages := t.subscribe(p, "devices/"+t.id+"/messages/devicebound/#", 1)
		t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": "wake up", "properties": map[string]string{"method-name": "setAlarm", "a key": "a & b"}}, nil))
		m := receive(t, "the message", messages)
		t.equal("body", string(m.Payload()), `"wake up"`)
		for _, part := range []string{"method-name=setAlarm", "a%20key=a%20%26%20b", "%24.mid=", "%24.to=%2Fdevices%2F"} {
			if !strings.Contains(m.Topic(), part) {
				t.fail("the topic %s has no %s", m.Topic(), part)
			}
		}
		t.eventually("completion", func() bool { return strings.Join(t.cloud.c2d(t.id), " ") == "completed" })
	})
	s.run("c2d-offline", func(t *try) {
		p := t.online(t.cloud)
		filter := "devices/" + t.id + "/messages/devicebound/#"
		t.subscribe(p, filter, 1)
		p.Disconnect(100)
		t.eventually("the end", func() bool { return t.cloud.connected(t.id) == "" })
		for _, body := range []string{"one", "two"} {
			t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": body}, nil))
		}
		t.equal("states", t.cloud.c2d(t.id), []string{"enqueued", "enqueued"})
		messages := make(chan mqtt.Message, 10) // they may come before a SUBSCRIBE: the session has one
		o := t.options(t.cloud, t.cloud.Hubs[0].Host, t.id, key(t.cloud.GroupKey, t.id))
		o.SetOrderMatters(true)
		o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { messages <- m })
		p, err := t.open(o)
		t.must("connect", err)
		defer p.Disconnect(0)
		t.equal("the bodies", []string{string(receive(t, "the first", messages).Payload()), string(receive(t, "the second", messages).Payload())}, []string{`"one"`, `"two"`})
		t.eventually("completion", func() bool { return strings.Join(t.cloud.c2d(t.id), " ") == "completed completed" })
	})
	s.run("takeover", func(t *try) {
		older := t.online(t.cloud)
		newer, err := t.open(t.options(t.cloud, t.cloud.Hubs[0].Host, t.id, key(t.cloud.GroupKey, t.id)))
		t.must("connect", err)
		defer newer.Disconnect(0)
		receive(t, "the loss", older.lost)
		t.send(newer, t.id, "%24.mid=m1", "1")
		t.received(t.cloud, t.id, "m1")
		t.equal("the reason", strings.Contains(t.happened("the end", t.cloud, "disconnect", 1), "replaced"), true)
		t.equal("connected to", t.cloud.connected(t.id), "hub-a")
	})
	s.run("reconnect", func(t *try) {
		p := t.selfReconnecting(t.cloud)
		defer p.Disconnect(0)
		t.must("disconnect", t.cloud.api("POST", "/api/devices/"+t.id+"/disconnect", struct{}{}, nil))
		t.comesBack(p, t.cloud)
	})
	s.run("fault", func(t *try) {
		p := t.selfReconnecting(t.cloud)
		defer p.Disconnect(0)
		p.Publish("devices/"+t.id+"/messages/events/AzIoTHub_FaultOperationType=KillTcp&AzIoTHub_FaultOperationCloseReason=boom&"+
			"AzIoTHub_FaultOperationDelayInSecs=1&AzIoTHub_FaultOperationDurationInSecs=1", 0, false, "1")
		t.comesBack(p, t.cloud)
	})
	s.run("disabled", func(t *try) { t.isDisabled(t.cloud, "server unavailable", "CONNACK 3") })
	s.run("disabled-5", func(t *try) { t.isDisabled(t.plain, "not authorized", "CONNACK 5") })
	s.run("moved", func(t *try) { t.isMoved(t.cloud, "server unavailable") })
	s.run("moved-deleted", func(t *try) { t.isMoved(t.plain, "not authorized") })
	s.run("renewal", func(t *try) {
		host := t.provision(t.plain)
		o := t.options(t.plain, host, t.id, "")
		o.SetCredentialsProvider(func() (string, string) { // a fresh token at every connect, good for two seconds
			return hubUser(host, t.id), token(host+"/devices/"+t.id, key(t.plain.GroupKey, t.id), "", time.Now().Add(2*time.Second))
		})
		o.SetAutoReconnect(true).SetMaxReconnectInterval(100 * time.Millisecond)
		p, err := t.open(o)
		t.must("connect", err)
		defer p.Disconnect(0)
		t.equal("the first end", t.happened("the first token's end", t.plain, "disconnect", 1), "token expired")
		t.happened("the third connect", t.plain, "connect", 3)
		t.eventually("the client sees it", p.IsConnectionOpen)
		t.send(p, t.id, "%24.mid=m1", "1")
		t.received(t.plain, t.id, "m1")
	})
	s.run("module", func(t *try) {
		c := t.cloud
		cs, host := c.Hubs[0].ConnectionString, c.Hubs[0].Host
		t.must("create the device", c.service(cs, "PUT", "/devices/"+t.id+"?api-version=2021-04-12", map[string]any{"deviceId": t.id}, nil))
		var module struct {
			Authentication struct {
				SymmetricKey struct {
					PrimaryKey string `json:"primaryKey"`
				} `json:"symmetricKey"`
			} `json:"authentication"`
		}
		t.must("create the module", c.service(cs, "PUT", "/devices/"+t.id+"/modules/pump?api-version=2021-04-12",
			map[string]any{"deviceId": t.id, "moduleId": "pump"}, &module))
		o := t.pahoOptions(c, host, t.id+"/pump", host+"/"+t.id+"/pump/?api-version=2021-04-12", func() string {
			return token(host+"/devices/"+t.id+"/modules/pump", module.Authentication.SymmetricKey.PrimaryKey, "", time.Now().Add(time.Hour))
		})
		p, err := t.open(o)
		t.must("connect", err)
		defer p.Disconnect(0)
		t.must("send", t.wait(p.Publish("devices/"+t.id+"/modules/pump/messages/events/%24.mid=m1", 1, false, `"by a module"`)))
		t.equal("body", t.received(c, t.id, "m1").Messages[0].Body, "by a module")
		answers := t.subscribe(p, "$iothub/twin/res/#", 0)
		t.must("patch", t.wait(p.Publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 0, false, `{"rpm":3}`)))
		receive(t, "the answer", answers)
		var twin struct {
			ModuleID   string `json:"moduleId"`
			Properties struct {
				Reported map[string]any `json:"reported"`
			} `json:"properties"`
		}
		t.must("module twin", c.service(cs, "GET", "/twins/"+t.id+"/modules/pump?api-version=2021-04-12", nil, &twin))
		t.equal("the module's twin", []any{twin.ModuleID, twin.Properties.Reported["rpm"]}, []any{"pump", 3})
		t.echo(p)
		var answer struct {
			Status  int `json:"status"`
			Payload any `json:"payload"`
		}
		t.must("method", c.service(cs, "POST", "/twins/"+t.id+"/modules/pump/methods?api-version=2021-04-12",
			map[string]any{"methodName": "echo", "payload": "hi", "responseTimeoutInSeconds": 10}, &answer))
		t.equal("the caller's answer", []any{answer.Status, answer.Payload}, []any{207, "hi"})
	})
}

// echo answers methods with 207 and what they were given.
func (t *try) echo(p *pahoClient) {
	t.must("subscribe", t.wait(p.Subscribe("$iothub/methods/POST/#", 0, func(c mqtt.Client, m mqtt.Message) {
		_, rid, _ := strings.Cut(m.Topic(), "/?$rid=")
		c.Publish("$iothub/methods/res/207/?$rid="+rid, 0, false, m.Payload())
	})))
}

// selfReconnecting is a device that left reconnecting to paho, and subscribes on every connect.
func (t *try) selfReconnecting(c *cloud) *pahoClient {
	o := t.options(c, t.provision(c), t.id, key(c.GroupKey, t.id)).SetAutoReconnect(true).SetMaxReconnectInterval(200 * time.Millisecond)
	p, err := t.open(o)
	t.must("connect", err)
	t.echo(p)
	return p
}

// comesBack wants a second connect on which the first one's subscriptions work: paho has
// CleanSession=0 and does not subscribe again.
func (t *try) comesBack(p *pahoClient, c *cloud) {
	t.happened("the loss", c, "disconnect", 1)
	t.happened("a second connect", c, "connect", 2)
	t.eventually("the client sees it", p.IsConnectionOpen)
	t.eventually("the method", func() bool { status, _ := t.answered(c, "echo", `1`); return status == 207 })
	t.send(p, t.id, "%24.mid=m1", "1")
	if l := c.ledger(t.id); l.Messages[len(l.Messages)-1].Mid != "m1" {
		t.fail("the ledger ends with %q", l.Messages[len(l.Messages)-1].Mid)
	}
}

func (t *try) isDisabled(c *cloud, word, connack string) {
	p := t.online(c)
	t.must("disable", c.api("POST", "/api/devices/"+t.id+"/disable", map[string]any{"dpsKnows": false}, nil))
	receive(t, "the loss", p.lost)
	options := t.options(c, c.Hubs[0].Host, t.id, key(c.GroupKey, t.id))
	_, err := t.open(options)
	t.refused("connect", err, word)
	if reason := t.happened("the refusal", c, "refuse", 1); !strings.Contains(reason, connack) {
		t.fail("the simulator says %q, not %s", reason, connack)
	}
	t.must("enable", c.api("POST", "/api/devices/"+t.id+"/enable", struct{}{}, nil))
	p, err = t.open(options)
	t.must("connect, enabled", err)
	defer p.Disconnect(0)
	t.send(p, t.id, "%24.mid=m1", "1")
	t.received(c, t.id, "m1")
}

func (t *try) isMoved(c *cloud, word string) {
	p := t.online(c)
	t.send(p, t.id, "%24.mid=m1", "1")
	t.must("move", c.api("POST", "/api/devices/"+t.id+"/failover", struct{}{}, nil))
	receive(t, "the loss", p.lost)
	_, err := t.open(t.options(c, c.Hubs[0].Host, t.id, key(c.GroupKey, t.id)))
	t.refused("the old hub", err, word)
	host := t.provision(c)
	t.equal("the new hub", host, c.Hubs[1].Host)
	p, err = t.open(t.options(c, host, t.id, key(c.GroupKey, t.id)))
	t.must("connect to the new hub", err)
	defer p.Disconnect(0)
	t.send(p, t.id, "%24.mid=m2", "2")
	l := t.received(c, t.id, "m1", "m2")
	t.equal("hubs and duplicates", []any{l.Hubs, l.Duplicates}, []any{map[string]int{"hub-a": 1, "hub-b": 1}, 0})
}

// cutConn can end its connection without the farewell of MQTT.
type cutConn struct{ *tls.Conn }

func dialCut(ctx context.Context, addr string, config *tls.Config) (*cutConn, error) {
	d := tls.Dialer{Config: config}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{c.(*tls.Conn)}, nil
}

func (c *cutConn) cut() { _ = c.NetConn().(*net.TCPConn).CloseWrite() }
