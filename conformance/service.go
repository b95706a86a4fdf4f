package main

import (
	"encoding/json"
	"time"

	"github.com/amenzhinsky/iothub/common"
	"github.com/amenzhinsky/iothub/iotservice"
	"github.com/amenzhinsky/iothub/logger"
)

func (t *try) hubService(connectionString string) *iotservice.Client {
	c, err := iotservice.NewFromConnectionString(connectionString, iotservice.WithHTTPClient(t.cloud.http), iotservice.WithLogger(logger.New(logger.LevelOff, nil)))
	t.must("connection string", err)
	return c
}

func (s *suite) iotservice() {
	run := func(scenario string, f func(t *try, service *iotservice.Client, host string)) {
		s.run(scenario, func(t *try) {
			hub := t.cloud.Hubs[0]
			f(t, t.hubService(hub.ConnectionString), hub.Host)
		})
	}
	run("registry", func(t *try, service *iotservice.Client, host string) {
		made, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create", err)
		keys := made.Authentication.SymmetricKey
		t.equal("keys and status", []any{keys.PrimaryKey != "" && keys.SecondaryKey != "" && keys.PrimaryKey != keys.SecondaryKey, made.Status}, []any{true, "enabled"})
		for _, k := range []string{keys.PrimaryKey, keys.SecondaryKey} {
			p, err := t.open(t.options(t.cloud, host, t.id, k))
			t.must("connect", err)
			p.Disconnect(100)
		}
		got, err := service.GetDevice(t.ctx, t.id)
		t.must("get", err)
		t.equal("the same", []string{got.GenerationID, got.ETag, got.Authentication.SymmetricKey.PrimaryKey}, []string{made.GenerationID, made.ETag, keys.PrimaryKey})
		got.StatusReason = "because"
		updated, err := service.UpdateDevice(t.ctx, got)
		t.must("update", err)
		t.equal("updated", []any{updated.StatusReason, updated.GenerationID == made.GenerationID, updated.ETag != made.ETag}, []any{"because", true, true})
		_, err = service.UpdateDevice(t.ctx, got)
		t.refused("update with an old etag", err, "code = 412")
		t.must("delete", service.DeleteDevice(t.ctx, updated))
		_, err = service.GetDevice(t.ctx, t.id)
		t.refused("get, deleted", err, "code = 404")
		_, err = t.open(t.options(t.cloud, host, t.id, keys.PrimaryKey))
		t.refused("connect, deleted", err, "not authorized")
	})
	run("registry-conflict", func(t *try, service *iotservice.Client, _ string) {
		made, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create", err)
		_, err = service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.refused("create again", err, "code = 409")
		t.refused("create again", err, "DeviceAlreadyExists")
		got, err := service.GetDevice(t.ctx, t.id)
		t.must("get", err)
		t.equal("generation", got.GenerationID, made.GenerationID)
	})
	run("registry-list", func(t *try, service *iotservice.Client, host string) {
		made, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create", err)
		p, err := t.open(t.options(t.cloud, host, t.id, made.Authentication.SymmetricKey.PrimaryKey))
		t.must("connect", err)
		defer p.Disconnect(0)
		all, err := service.ListDevices(t.ctx)
		t.must("list", err)
		var states []iotservice.ConnectionState
		for _, d := range all {
			if d.DeviceID == t.id {
				states = append(states, d.ConnectionState)
			}
		}
		t.equal("what is listed", states, []string{"Connected"})
	})
	run("registry-disable", func(t *try, service *iotservice.Client, host string) {
		d, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create", err)
		options := t.options(t.cloud, host, t.id, d.Authentication.SymmetricKey.PrimaryKey)
		p, err := t.open(options)
		t.must("connect", err)
		d.Status = iotservice.Disabled
		d, err = service.UpdateDevice(t.ctx, d)
		t.must("disable", err)
		receive(t, "the loss", p.lost)
		_, err = t.open(options)
		t.refused("connect, disabled", err, "server unavailable")
		d.Status = iotservice.Enabled
		_, err = service.UpdateDevice(t.ctx, d)
		t.must("enable", err)
		p, err = t.open(options)
		t.must("connect, enabled", err)
		p.Disconnect(0)
	})
	run("registry-x509", func(t *try, service *iotservice.Client, host string) {
		pair := t.pair(t.cloud, t.id)
		_, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id, Authentication: &iotservice.Authentication{
			Type: iotservice.AuthSelfSigned, X509Thumbprint: &iotservice.X509Thumbprint{PrimaryThumbprint: thumbprint(pair.Certificate[0])}}})
		t.must("create", err)
		o := t.pahoOptions(t.cloud, host, t.id, hubUser(host, t.id), func() string { return "" })
		_, err = t.open(o)
		t.refused("connect without certificate", err, "not authorized")
		o.TLSConfig.Certificates = append(o.TLSConfig.Certificates, pair)
		p, err := t.open(o)
		t.must("connect", err)
		defer p.Disconnect(0)
		t.send(p, t.id, "%24.mid=m1", "1")
		t.received(t.cloud, t.id, "m1")
	})
	run("modules", func(t *try, service *iotservice.Client, host string) {
		_, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create the device", err)
		m, err := service.CreateModule(t.ctx, &iotservice.Module{DeviceID: t.id, ModuleID: "pump", Authentication: &iotservice.Authentication{Type: iotservice.AuthSAS}})
		t.must("create", err)
		o := t.pahoOptions(t.cloud, host, t.id+"/pump", host+"/"+t.id+"/pump/?api-version=2021-04-12", func() string {
			return token(host+"/devices/"+t.id+"/modules/pump", m.Authentication.SymmetricKey.PrimaryKey, "", time.Now().Add(time.Hour))
		})
		p, err := t.open(o)
		t.must("connect", err)
		defer p.Disconnect(0)
		got, err := service.GetModule(t.ctx, t.id, "pump")
		t.must("get", err)
		t.equal("the same", []string{got.GenerationID, got.ModuleID}, []string{m.GenerationID, "pump"})
		all, err := service.ListModules(t.ctx, t.id)
		t.must("list", err)
		t.equal("how many", len(all), 1)
		t.must("delete", service.DeleteModule(t.ctx, got))
		receive(t, "the loss", p.lost)
		_, err = service.GetModule(t.ctx, t.id, "pump")
		t.refused("get, deleted", err, "code = 404")
	})
	run("twin", func(t *try, service *iotservice.Client, _ string) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		changes, answers := t.subscribe(p, "$iothub/twin/PATCH/properties/desired/#", 0), t.subscribe(p, "$iothub/twin/res/#", 0)
		t.must("report", t.wait(p.Publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 0, false, `{"battery":42}`)))
		receive(t, "the answer", answers)
		twin, err := service.GetDeviceTwin(t.ctx, t.id)
		t.must("get", err)
		t.equal("reported", twin.Properties.Reported["battery"], 42)
		old := twin.ETag
		updated, err := service.UpdateDeviceTwin(t.ctx, &iotservice.Twin{DeviceID: t.id, ETag: old, Tags: map[string]any{"floor": 3},
			Properties: &iotservice.Properties{Desired: map[string]any{"fanSpeed": 1200}}})
		t.must("update", err)
		t.equal("updated", []any{updated.Tags["floor"], updated.Properties.Desired["fanSpeed"], updated.ETag != old}, []any{3, 1200, true})
		t.equal("the device's change", json.RawMessage(receive(t, "the change", changes).Payload()), map[string]any{"fanSpeed": 1200, "$version": 2})
		_, err = service.UpdateDeviceTwin(t.ctx, &iotservice.Twin{DeviceID: t.id, ETag: old, Tags: map[string]any{"floor": 4}})
		t.refused("update with an old etag", err, "code = 412")
	})
	run("query", func(t *try, service *iotservice.Client, _ string) {
		_, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create", err)
		_, err = service.UpdateDeviceTwin(t.ctx, &iotservice.Twin{DeviceID: t.id, Tags: map[string]any{"site": t.id}})
		t.must("tag", err)
		ids := func(query string) (all []string) {
			t.must(query, service.QueryDevices(t.ctx, query, func(v map[string]any) error { all = append(all, v["deviceId"].(string)); return nil }))
			return all
		}
		t.equal("by id", ids("SELECT * FROM devices WHERE deviceId = '"+t.id+"'"), []string{t.id})
		t.equal("by tag", ids("SELECT * FROM devices WHERE tags.site = '"+t.id+"'"), []string{t.id})
		t.equal("none", len(ids("SELECT * FROM devices WHERE tags.site = 'nowhere'")), 0)
		t.equal("all of them", len(ids("SELECT * FROM devices")) > 1, true)
	})
	run("method", func(t *try, service *iotservice.Client, _ string) {
		p := t.online(t.cloud)
		defer p.Disconnect(0)
		t.echo(p)
		r, err := service.CallDeviceMethod(t.ctx, t.id, &iotservice.MethodCall{MethodName: "echo", ResponseTimeout: 10, Payload: map[string]any{"a": "ü"}})
		t.must("call", err)
		t.equal("the answer", r, map[string]any{"status": 207, "payload": map[string]any{"a": "ü"}})
	})
	run("method-offline", func(t *try, service *iotservice.Client, _ string) {
		t.provision(t.cloud)
		_, err := service.CallDeviceMethod(t.ctx, t.id, &iotservice.MethodCall{MethodName: "echo", ResponseTimeout: 5})
		t.refused("call", err, "code = 404")
		t.refused("call", err, "404103")
	})
	run("statistics", func(t *try, service *iotservice.Client, _ string) {
		d, err := service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.must("create", err)
		d.Status = iotservice.Disabled
		_, err = service.UpdateDevice(t.ctx, d)
		t.must("disable", err)
		p := (&try{suite: t.suite, ctx: t.ctx, id: t.id + "-live"}).online(t.cloud)
		defer p.Disconnect(0)
		devices, err := service.DeviceStats(t.ctx)
		t.must("devices", err)
		t.equal("counts add up", []any{devices.TotalDeviceCount == devices.EnabledDeviceCount+devices.DisabledDeviceCount, devices.DisabledDeviceCount > 0, devices.EnabledDeviceCount > 0}, []any{true, true, true})
		live, err := service.ServiceStats(t.ctx)
		t.must("service", err)
		t.equal("connected devices", live.ConnectedDeviceCount > 0, true)
	})
	run("purge", func(t *try, service *iotservice.Client, _ string) {
		t.provision(t.cloud)
		for range 3 {
			t.must("send", t.cloud.api("POST", "/api/devices/"+t.id+"/c2d", map[string]any{"body": 1}, nil))
		}
		r, err := service.PurgeQueue(t.ctx, t.id)
		t.must("purge", err)
		t.equal("how many", r.TotalMessagesPurged, 3)
		for _, state := range t.cloud.c2d(t.id) {
			if state == "enqueued" {
				t.fail("a message still waits")
			}
		}
	})
	run("bad-signature", func(t *try, _ *iotservice.Client, host string) {
		service, err := iotservice.New(common.NewSharedAccessKey(host, "iothubowner", randomKey()), iotservice.WithHTTPClient(t.cloud.http))
		t.must("client", err)
		_, err = service.CreateDevice(t.ctx, &iotservice.Device{DeviceID: t.id})
		t.refused("create", err, "code = 401")
		_, known := t.cloud.device(t.id)
		t.equal("known to the simulator", known, false)
	})
}
