package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// installMosquitto sees to it that mosquitto_pub and mosquitto_sub are there.
func installMosquitto() error {
	have := func() bool {
		for _, name := range []string{"mosquitto_pub", "mosquitto_sub"} {
			if _, err := exec.LookPath(name); err != nil {
				return false
			}
		}
		return true
	}
	if have() {
		return nil
	}
	const advice = "install mosquitto's clients with the system's package manager (Debian, Ubuntu: apt-get install mosquitto-clients)"
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New(advice)
	}
	var out []byte
	var err error
	for _, args := range [][]string{{"install", "-y", "--no-install-recommends", "mosquitto-clients"}, {"update"}, {"install", "-y", "--no-install-recommends", "mosquitto-clients"}} {
		apt := exec.Command("apt-get", args...)
		apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err = apt.CombinedOutput(); err == nil && have() {
			return nil
		}
	}
	return fmt.Errorf("%s; this run could not: %w\n%s", advice, err, out)
}

// flags are what both programs need to be a device at a hub.
func (t *try) flags(c *cloud, host, key string, expires time.Time) []string {
	return append(t.tlsFlags(c, host), "-i", t.id, "-u", hubUser(host, t.id), "-P", token(host+"/devices/"+t.id, key, "", expires))
}

func (t *try) tlsFlags(c *cloud, host string) []string {
	return []string{"-h", host, "-p", "8883", "-V", "mqttv311", "--cafile", c.file("ca.pem")}
}

// hubFlags are flags for this scenario's device with its right key.
func (t *try) hubFlags(c *cloud, host string) []string {
	return t.flags(c, host, key(c.GroupKey, t.id), time.Now().Add(time.Hour))
}

// command runs one of the programs to its end.
func (t *try) command(name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	p := exec.CommandContext(t.ctx, name, args...)
	p.Stdout, p.Stderr = &stdout, &stderr
	if err := p.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s%s", name, err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// start runs one beside the scenario; what it prints comes as lines.
func (t *try) start(name string, args ...string) (lines func() []string, p *exec.Cmd) {
	out := &lockedBuffer{}
	p = exec.CommandContext(t.ctx, name, args...)
	p.Stdout, p.Stderr = out, out
	t.must(name, p.Start())
	return func() []string { return strings.FieldsFunc(out.String(), func(r rune) bool { return r == '\n' }) }, p
}

// pub sends one message with QoS 1.
func (t *try) pub(flags []string, bag, body string, more ...string) error {
	_, err := t.command("mosquitto_pub", append(append(flags, "-q", "1", "-t", "devices/"+t.id+"/messages/events/"+bag, "-m", body), more...)...)
	return err
}

func (s *suite) mosquitto() {
	s.run("connect", func(t *try) {
		_, p := t.start("mosquitto_sub", append(t.hubFlags(t.cloud, t.provision(t.cloud)), "-t", "devices/"+t.id+"/messages/devicebound/#")...)
		t.eventually("the simulator sees the device", func() bool { return t.cloud.connected(t.id) == "hub-a" })
		d, _ := t.cloud.device(t.id)
		t.equal("model id", d.ModelID, modelID)
		t.must("end", p.Process.Signal(os.Interrupt))
		_ = p.Wait()
		t.eventually("the simulator sees the end", func() bool { return t.cloud.connected(t.id) == "" })
		t.equal("connects", len(t.cloud.reasons(t.id, "connect")), 1)
	})
	s.run("oldest", func(t *try) {
		host := t.provision(t.cloud)
		flags := append(t.tlsFlags(t.cloud, host), "-i", t.id, "-u", host+"/"+t.id, "-P",
			token(host+"/devices/"+t.id, key(t.cloud.GroupKey, t.id), "", time.Now().Add(time.Hour)))
		t.must("send", t.pub(flags, "%24.mid=m1", `"old"`))
		t.equal("body", t.received(t.cloud, t.id, "m1").Messages[0].Body, "old")
	})
	s.run("x509", func(t *try) {
		r, err := t.register(t.cloud, t.id, "", t.pair(t.cloud, t.id))
		t.must("register", err)
		flags := append(t.tlsFlags(t.cloud, r.State.AssignedHub), "-i", t.id, "-u", hubUser(r.State.AssignedHub, t.id),
			"--cert", t.cloud.file(t.id+".pem"), "--key", t.cloud.file(t.id+"-key.pem"))
		t.must("send", t.pub(flags, "%24.mid=m1", `"by certificate"`))
		t.equal("body", t.received(t.cloud, t.id, "m1").Messages[0].Body, "by certificate")
	})
	s.run("wrong-key", func(t *try) {
		flags := t.flags(t.cloud, t.provision(t.cloud), key(t.cloud.GroupKey, "somebody else"), time.Now().Add(time.Hour))
		t.refused("connect", t.pub(flags, "", "1"), "not authorised")
		t.equal("connects", len(t.cloud.reasons(t.id, "connect")), 0)
	})
	s.run("expired", func(t *try) {
		flags := t.flags(t.plain, t.provision(t.plain), key(t.plain.GroupKey, t.id), time.Now().Add(-time.Minute))
		t.refused("connect", t.pub(flags, "", "1"), "not authorised")
		t.equal("connects", len(t.plain.reasons(t.id, "connect")), 0)
	})
	s.run("telemetry", func(t *try) {
		t.must("send", t.pub(t.hubFlags(t.cloud, t.provision(t.cloud)), "%24.mid=m1&%24.ct=application%2Fjson&%24.ce=utf-8&a%20key=a%20value%20%26%20more", `{"temp":21.5}`))
		l := t.received(t.cloud, t.id, "m1")
		m := l.Messages[0]
		t.equal("body", m.Body, map[string]any{"temp": 21.5})
		t.equal("properties", []any{m.Properties["a key"], m.Properties["$.ct"], m.Properties["$.ce"]}, []any{"a value & more", "application/json", "utf-8"})
		t.equal("counts", []any{l.Received, l.Duplicates, l.Hubs}, []any{1, 0, map[string]int{"hub-a": 1}})
	})
	s.run("retain", func(t *try) {
		t.must("send", t.pub(t.hubFlags(t.cloud, t.provision(t.cloud)), "%24.mid=m1", "1", "-r"))
		t.equal("mqtt-retain", t.received(t.cloud, t.id, "m1").Messages[0].Properties["mqtt-retain"], "true")
	})
	s.run("will", func(t *try) {
		flags := append(t.hubFlags(t.cloud, t.provision(t.cloud)), "-t", "devices/"+t.id+"/messages/devicebound/#",
			"--will-topic", "devices/"+t.id+"/messages/events/%24.mid=w1&why=gone", "--will-payload", `"last words"`, "--will-qos", "1")
		_, p := t.start("mosquitto_sub", flags...)
		t.eventually("the simulator sees the device", func() bool { return t.cloud.connected(t.id) == "hub-a" })
		t.must("kill", p.Process.Kill())
		_ = p.Wait()
		t.eventually("the will", func() bool { return t.cloud.ledger(t.id).Received == 1 })
		m := t.received(t.cloud, t.id, "w1").Messages[0]
		t.equal("the will", []any{m.Body, m.Properties["why"], m.Properties["iothub-MessageType"]}, []any{"last words", "gone", "Will"})
		_, p = t.start("mosquitto_sub", flags...)
		t.eventually("the simulator sees the device again", func() bool { return t.cloud.connected(t.id) == "hub-a" })
		t.must("end", p.Process.Signal(os.Interrupt))
		_ = p.Wait()
		t.eventually("the end", func() bool { return t.cloud.connected(t.id) == "" })
		t.received(t.cloud, t.id, "w1")
	})
	s.run("qos2", func(t *try) {
		flags := t.hubFlags(t.cloud, t.provision(t.cloud))
		_, p := t.start("mosquitto_pub", append(flags, "-q", "2", "-t", "devices/"+t.id+"/messages/events/", "-m", "1")...)
		t.happened("the hub closes", t.cloud, "disconnect", 1)
		_ = p.Process.Kill() // it would try for ever
		_ = p.Wait()
	})
	s.run("twin-desired", func(t *try) {
		lines, p := t.start("mosquitto_sub", append(t.hubFlags(t.cloud, t.provision(t.cloud)), "-t", "$iothub/twin/PATCH/properties/desired/#", "-F", "%t %p")...)
		asked := 1200
		t.eventually("the change", func() bool { // it does not say when it has subscribed
			asked++
			t.must("desire", t.cloud.api("PATCH", "/api/devices/"+t.id+"/desired", map[string]any{"fanSpeed": asked}, nil))
			return len(lines()) > 0
		})
		topic, document, _ := strings.Cut(lines()[0], " ")
		var change struct {
			FanSpeed int `json:"fanSpeed"`
			Version  int `json:"$version"`
		}
		t.must("the change", json.Unmarshal([]byte(document), &change))
		t.equal("topic and speed", []any{topic, change.FanSpeed > 1200}, []any{fmt.Sprint("$iothub/twin/PATCH/properties/desired/?$version=", change.Version), true})
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	s.run("c2d", func(t *try) {
		lines, p := t.start("mosquitto_sub", append(t.hubFlags(t.cloud, t.provision(t.cloud)), "-q", "1", "-C", "1", "-t", "devices/"+t.id+"/messages/devicebound/#", "-F", "%t %p")...)
		t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": "wake up", "properties": map[string]string{"method-name": "setAlarm"}}, nil))
		t.must("receive", p.Wait())
		line := strings.Join(lines(), "\n")
		if !strings.Contains(line, "method-name=setAlarm") || !strings.HasSuffix(line, ` "wake up"`) {
			t.fail("the message is %s", line)
		}
		t.eventually("completion", func() bool { return strings.Join(t.cloud.c2d(t.id), " ") == "completed" })
	})
	s.run("c2d-offline", func(t *try) {
		flags := append(t.hubFlags(t.cloud, t.provision(t.cloud)), "-c", "-q", "1", "-t", "devices/"+t.id+"/messages/devicebound/#")
		_, err := t.command("mosquitto_sub", append(flags, "-E")...) // subscribe and leave
		t.must("subscribe", err)
		t.eventually("the end", func() bool { return t.cloud.connected(t.id) == "" })
		for _, body := range []string{"one", "two"} {
			t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": body}, nil))
		}
		t.equal("states", t.cloud.c2d(t.id), []string{"enqueued", "enqueued"})
		lines, p := t.start("mosquitto_sub", flags...) // not -C 2, which may close before it has read the SUBACK: a reset can overtake its last PUBACK
		t.eventually("the messages", func() bool { return len(lines()) >= 2 })
		t.equal("the bodies", lines(), []string{`"one"`, `"two"`})
		t.eventually("completion", func() bool { return strings.Join(t.cloud.c2d(t.id), " ") == "completed completed" })
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	s.run("takeover", func(t *try) {
		flags := t.hubFlags(t.cloud, t.provision(t.cloud))
		_, p := t.start("mosquitto_sub", append(flags, "-t", "devices/"+t.id+"/messages/devicebound/#")...)
		t.eventually("the simulator sees the device", func() bool { return t.cloud.connected(t.id) == "hub-a" })
		t.must("send", t.pub(flags, "%24.mid=m1", "1"))
		t.received(t.cloud, t.id, "m1")
		t.equal("the reason", strings.Contains(t.happened("the end", t.cloud, "disconnect", 1), "replaced"), true)
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	comesBack := func(t *try, lose func(flags []string)) {
		flags := t.hubFlags(t.cloud, t.provision(t.cloud))
		lines, p := t.start("mosquitto_sub", append(flags, "-q", "1", "-C", "1", "-t", "devices/"+t.id+"/messages/devicebound/#", "-F", "%p")...)
		t.eventually("the simulator sees the device", func() bool { return t.cloud.connected(t.id) == "hub-a" })
		lose(flags)
		t.happened("the loss", t.cloud, "disconnect", 1)
		t.happened("a second connect", t.cloud, "connect", 2)
		t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": "still there?"}, nil))
		t.must("receive", p.Wait())
		t.equal("the message", lines()[len(lines())-1], `"still there?"`)
	}
	s.run("reconnect", func(t *try) {
		comesBack(t, func([]string) {
			t.must("disconnect", t.cloud.api("POST", "/api/devices/"+t.id+"/disconnect", struct{}{}, nil))
		})
	})
	s.run("fault", func(t *try) {
		flags := t.hubFlags(t.cloud, t.provision(t.cloud))
		lines, p := t.start("mosquitto_pub", append(flags, "-q", "1", "-m", "1", "-t", "devices/"+t.id+"/messages/events/AzIoTHub_FaultOperationType=KillTcp&"+
			"AzIoTHub_FaultOperationCloseReason=boom&AzIoTHub_FaultOperationDelayInSecs=1&AzIoTHub_FaultOperationDurationInSecs=1")...)
		if err := p.Wait(); err == nil {
			t.fail("mosquitto_pub says that its message was acknowledged: %q", lines())
		}
		t.equal("the reason", strings.Contains(t.happened("the loss", t.cloud, "disconnect", 1), "fault"), true)
	})
	disabled := func(t *try, c *cloud, word, connack string) {
		flags := t.hubFlags(c, t.provision(c))
		_, p := t.start("mosquitto_sub", append(flags, "-t", "devices/"+t.id+"/messages/devicebound/#")...)
		t.eventually("the simulator sees the device", func() bool { return c.connected(t.id) == "hub-a" })
		t.must("disable", c.api("POST", "/api/devices/"+t.id+"/disable", map[string]any{"dpsKnows": false}, nil))
		t.happened("the loss", c, "disconnect", 1)
		_ = p.Process.Kill()
		_ = p.Wait()
		t.refused("connect", t.pub(flags, "", "1"), word)
		if reason := t.happened("the refusal", c, "refuse", 1); !strings.Contains(reason, connack) {
			t.fail("the simulator says %q, not %s", reason, connack)
		}
		t.must("enable", c.api("POST", "/api/devices/"+t.id+"/enable", struct{}{}, nil))
		t.must("send, enabled", t.pub(flags, "%24.mid=m1", "1"))
		t.received(c, t.id, "m1")
	}
	s.run("disabled", func(t *try) { disabled(t, t.cloud, "unavailable", "CONNACK 3") })
	s.run("disabled-5", func(t *try) { disabled(t, t.plain, "not authorised", "CONNACK 5") })
	moved := func(t *try, c *cloud, word string) {
		old := t.hubFlags(c, t.provision(c))
		t.must("send", t.pub(old, "%24.mid=m1", "1"))
		t.must("move", c.api("POST", "/api/devices/"+t.id+"/failover", struct{}{}, nil))
		t.refused("the old hub", t.pub(old, "", "1"), word)
		host := t.provision(c)
		t.equal("the new hub", host, c.Hubs[1].Host)
		t.must("send to the new hub", t.pub(t.hubFlags(c, host), "%24.mid=m2", "2"))
		l := t.received(c, t.id, "m1", "m2")
		t.equal("hubs and duplicates", []any{l.Hubs, l.Duplicates}, []any{map[string]int{"hub-a": 1, "hub-b": 1}, 0})
	}
	s.run("moved", func(t *try) { moved(t, t.cloud, "unavailable") })
	s.run("moved-deleted", func(t *try) { moved(t, t.plain, "not authorised") })
}
