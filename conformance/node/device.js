// The official Azure IoT device SDK for Node.js, unmodified, against hubhop sim: provision, telemetry, twin, method, message, failover.
// usage: NODE_EXTRA_CA_CERTS=DIR/ca.pem node device.js DIR      (DIR is the --out directory of hubhop sim)
'use strict';
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Mqtt: ProvisioningMqtt } = require('azure-iot-provisioning-device-mqtt');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');

const sim = JSON.parse(fs.readFileSync(path.join(process.argv[2], 'sim.json'), 'utf8'));
const id = 'node-1';
const key = crypto.createHmac('sha256', Buffer.from(sim.groupKey, 'base64')).update(id).digest('base64');

async function api(method, where, body) {
  const r = await fetch(sim.control + where, { method, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await r.text();
  assert.ok(r.ok, `${method} ${where}: ${r.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}

async function eventually(what, holds) {
  for (let end = Date.now() + 10000; Date.now() < end; await new Promise((done) => setTimeout(done, 50))) {
    if (await holds()) return;
  }
  assert.fail(`${what}: not within 10 s`);
}

async function provision() {
  const client = ProvisioningDeviceClient.create(sim.provisioningHost, sim.idScope, new ProvisioningMqtt(), new SymmetricKeySecurityClient(id, key));
  client.setProvisioningPayload({ iotcModelId: 'dtmi:Sample:Failover;1' });
  const result = await client.register();
  assert.equal(result.status, 'assigned');
  assert.equal(result.deviceId, id);
  return result.assignedHub;
}

async function connect(hub) {
  const client = Client.fromConnectionString(`HostName=${hub};DeviceId=${id};SharedAccessKey=${key}`, Mqtt);
  await client.open();
  return client;
}

async function send(client, mid, body) {
  const message = new Message(JSON.stringify(body));
  message.messageId = mid;
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('a key', 'a value & more');
  await client.sendEvent(message);
}

async function main() {
  const step = async (name, run) => {
    const result = await run();
    console.log(`ok  ${name}`);
    return result;
  };
  const hubA = await step('provision over MQTT', provision);
  assert.equal(hubA, sim.hubs[0].host);
  let client = await step('connect', () => connect(hubA));

  await step('telemetry with properties', async () => {
    await send(client, 'm1', { temp: 21.5 });
    const ledger = await api('GET', `/api/ledger?device=${id}&messages=1`);
    assert.equal(ledger.received, 1);
    const m = ledger.messages[0];
    assert.equal(m.mid, 'm1');
    assert.deepEqual(m.body, { temp: 21.5 });
    assert.equal(m.properties['a key'], 'a value & more');
    assert.equal(m.properties['$.ct'], 'application/json');
  });

  await step('direct method', async () => {
    client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload));
    await eventually('the method subscription', async () => {
      const r = await fetch(`${sim.control}/api/devices/${id}/methods/echo`, { method: 'POST', body: '"hello"' });
      return r.ok && (await r.json()).payload === 'hello';
    });
  });

  const twin = await step('twin get', () => client.getTwin());
  await step('twin patch and desired change', async () => {
    await new Promise((done, fail) => twin.properties.reported.update({ battery: 42 }, (e) => (e ? fail(e) : done())));
    // The SDK subscribes when a listener is added and does not say when that is done; a change before it is rightly not notified.
    let heard, asked = 1200;
    twin.on('properties.desired.fanSpeed', (v) => { heard = v; });
    await eventually('the desired notification', async () => {
      if (heard === asked) return true;
      await api('PATCH', `/api/devices/${id}/desired`, { fanSpeed: ++asked });
      return false;
    });
    const t = await api('GET', `/api/devices/${id}/twin`);
    assert.equal(t.reported.battery, 42);
  });

  await step('cloud-to-device message completed', async () => {
    const arrival = once(client, 'message');
    await api('POST', `/api/devices/${id}/c2d`, { body: 'wake up', properties: { 'method-name': 'setAlarm' } });
    const [message] = await arrival;
    assert.match(message.data.toString(), /wake up/);
    assert.equal(message.properties.propertyList.find((p) => p.key === 'method-name').value, 'setAlarm');
    await client.complete(message);
    await eventually('completion', async () => (await api('GET', `/api/devices/${id}/c2d`)).messages[0].state === 'completed');
  });

  await step('failover: disconnected, provisioned to the other hub, telemetry flows there', async () => {
    await client.close();
    await api('POST', `/api/devices/${id}/failover`, {});
    const hubB = await provision();
    assert.equal(hubB, sim.hubs[1].host);
    client = await connect(hubB);
    await send(client, 'm2', { temp: 22 });
    const ledger = await api('GET', `/api/ledger?device=${id}`);
    assert.deepEqual(ledger.hubs, { 'hub-a': 1, 'hub-b': 1 });
    assert.equal(ledger.duplicates, 0);
  });
  await client.close();
}

main().then(
  () => process.exit(0),
  (e) => {
    console.error('FAILED', e);
    process.exit(1);
  },
);
