// The official device SDK, unmodified, against hubhop sim: DPS and hub over one transport.
// usage: NODE_EXTRA_CA_CERTS=CAs.pem node device.js mqtt|ws|http DIR PLAIN-DIR
//        DIR and PLAIN-DIR are the --out directories of two simulators; the second moves devices as plain DPS does.
'use strict';
const { once } = require('node:events');
const { NoRetry } = require('azure-iot-common');
const { Client, Message, ModuleClient, SharedAccessKeyAuthenticationProvider, X509AuthenticationProvider } = require('azure-iot-device');
const deviceHttp = require('azure-iot-device-http');
const deviceMqtt = require('azure-iot-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const provisioningHttp = require('azure-iot-provisioning-device-http');
const provisioningMqtt = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { Registry } = require('azure-iothub');
const { Cloud, assert, deviceKey, eventually, pause, run } = require('./lib.js');

const [transport, dir, plainDir] = process.argv.slice(2);
const cloud = new Cloud(dir); // a device that moves is disabled where it was, as IoT Central does it
const plain = new Cloud(plainDir); // it is deleted there, as plain DPS does it; a disabled one is refused with 5; tokens have no grace
const hubTransport = { mqtt: deviceMqtt.Mqtt, ws: deviceMqtt.MqttWs, http: deviceHttp.Http }[transport];
const dpsTransport = { mqtt: provisioningMqtt.Mqtt, ws: provisioningMqtt.MqttWs, http: provisioningHttp.Http }[transport];
const overHttp = transport === 'http';
const modelId = 'dtmi:Sample:Failover;1';

async function register(at, security) {
  const client = ProvisioningDeviceClient.create(at.sim.provisioningHost, at.sim.idScope, new dpsTransport(), security);
  client.setProvisioningPayload({ modelId });
  return client.register();
}

const groupKey = (at, id) => deviceKey(at.sim.groupKey, id);

async function provision(at, id) {
  const result = await register(at, new SymmetricKeySecurityClient(id, groupKey(at, id)));
  assert.equal(result.status, 'assigned');
  assert.equal(result.deviceId, id);
  return result.assignedHub;
}

// device is a client for a device that has been assigned. It is closed when the scenario ends.
function device(t, at, hub, id = t.id, key = groupKey(at, id)) {
  const client = Client.fromConnectionString(`HostName=${hub};DeviceId=${id};SharedAccessKey=${key}`, hubTransport);
  return closing(t, client);
}

function closing(t, client) {
  client.on('error', () => {});
  t.later(() => client.close());
  return client;
}

// online is the usual beginning: assigned and open.
async function online(t, at = cloud) {
  const client = device(t, at, await provision(at, t.id));
  await client.open();
  return client;
}

function message(mid, body, properties = {}) {
  const m = new Message(JSON.stringify(body));
  m.messageId = mid;
  m.contentType = 'application/json';
  m.contentEncoding = 'utf-8';
  for (const [k, v] of Object.entries(properties)) m.properties.add(k, v);
  return m;
}

async function received(at, id, mid, hub = 'hub-a') {
  const m = (await at.ledger(id)).messages?.find((m) => m.mid === mid);
  assert.ok(m, `the ledger has no ${mid} of ${id}`);
  assert.equal(m.hub, hub);
  return m;
}

// isOnline is what the simulator says of a device that has just connected; HTTP has no connections.
async function isOnline(at, id, hub = 'hub-a') {
  if (!overHttp) await eventually('the simulator sees the device', async () => (await at.connectedHub(id)) === hub);
}

// listen collects cloud-to-device messages.
function listen(client) {
  const messages = [];
  if (overHttp) client.setOptions({ http: { receivePolicy: { interval: 1 } } }, () => {});
  client.on('message', (m) => messages.push(m));
  return messages;
}

// refusedBy wants an operation to fail by one of these names of the SDK's own errors.
async function refusedBy(names, operation) {
  const e = await operation().then(() => assert.fail('not refused'), (e) => e);
  assert.ok(names.includes(e.name) || names.includes(e.constructor.name), `refused with ${e.name}: ${e.message}`);
  return e;
}

const all = {
  async 'provision-group'(t) {
    const result = await register(cloud, new SymmetricKeySecurityClient(t.id, groupKey(cloud, t.id)));
    assert.deepEqual([result.status, result.deviceId, result.assignedHub], ['assigned', t.id, cloud.hub('hub-a').host]);
    const d = await cloud.device(t.id);
    assert.deepEqual([d.assignedHub, d.enabled, d.modelId], ['hub-a', true, modelId]);
    await eventually('the event', () => cloud.happened('register', t.id).length === 1);
    assert.equal(cloud.happened('register', t.id)[0].reason, 'assigned');
  },

  async 'provision-secondary'(t) {
    const key = deviceKey(cloud.sim.secondaryGroupKey, t.id);
    const result = await register(cloud, new SymmetricKeySecurityClient(t.id, key));
    assert.equal(result.assignedHub, cloud.hub('hub-a').host);
    const client = device(t, cloud, result.assignedHub, t.id, key);
    await client.open();
    await client.sendEvent(message('m1', 1));
    await received(cloud, t.id, 'm1');
  },

  async 'provision-individual'(t) {
    const keys = { primaryKey: deviceKey(cloud.sim.groupKey, 'one'), secondaryKey: deviceKey(cloud.sim.groupKey, 'two') };
    const deviceId = t.id + '-Device';
    await ProvisioningServiceClient.fromConnectionString(cloud.sim.dps.connectionString).createOrUpdateIndividualEnrollment({
      registrationId: t.id, deviceId, attestation: { type: 'symmetricKey', symmetricKey: keys },
    });
    const result = await register(cloud, new SymmetricKeySecurityClient(t.id, keys.primaryKey));
    assert.deepEqual([result.status, result.deviceId], ['assigned', deviceId]);
    const client = device(t, cloud, result.assignedHub, deviceId, keys.primaryKey);
    await client.open();
    await client.sendEvent(message('m1', 1));
    await received(cloud, deviceId, 'm1');
  },

  async 'provision-x509-group'(t) {
    const x509 = cloud.certificate(t.id);
    const result = await register(cloud, new X509Security(t.id, x509));
    assert.deepEqual([result.status, result.deviceId], ['assigned', t.id]);
    await sendsWith(t, x509, result.assignedHub);
  },

  async 'provision-x509-individual'(t) {
    const x509 = cloud.certificate(t.id);
    await ProvisioningServiceClient.fromConnectionString(cloud.sim.dps.connectionString).createOrUpdateIndividualEnrollment({
      registrationId: t.id, attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: x509.cert } } } },
    });
    const result = await register(cloud, new X509Security(t.id, x509));
    assert.deepEqual([result.status, result.deviceId], ['assigned', t.id]);
    await sendsWith(t, x509, result.assignedHub);
  },

  async 'provision-bad-key'(t) {
    await refusedBy(['UnauthorizedError'], () => register(cloud, new SymmetricKeySecurityClient(t.id, groupKey(cloud, 'somebody else'))));
    assert.equal((await cloud.device(t.id))?.assignedHub ?? null, null);
  },

  async 'provision-disabled'(t) {
    await provision(cloud, t.id);
    await cloud.api('POST', `/api/devices/${t.id}/disable`, {});
    const error = await register(cloud, new SymmetricKeySecurityClient(t.id, groupKey(cloud, t.id))).then(() => assert.fail('assigned'), (e) => e);
    assert.match(JSON.stringify([error.message, error.result, error.name]), /disabled/i);
    const d = await cloud.device(t.id);
    assert.deepEqual([d.enabled, d.assignedHub], [false, 'hub-a']);
  },

  async connect(t) {
    const client = device(t, cloud, await provision(cloud, t.id));
    if (!overHttp) await client.setOptions({ modelId });
    await client.open();
    if (overHttp) {
      await client.sendEvent(message('m1', 1)); // over HTTP nothing happens before the first request
      await received(cloud, t.id, 'm1');
      return;
    }
    await isOnline(cloud, t.id);
    assert.equal(cloud.happened('connect', t.id).length, 1);
    assert.equal((await cloud.device(t.id)).modelId, modelId);
    await client.close();
    await eventually('the simulator sees the end', async () => (await cloud.connectedHub(t.id)) === null);
  },

  async x509(t) {
    const x509 = cloud.certificate(t.id);
    const { assignedHub } = await register(cloud, new X509Security(t.id, x509));
    const client = closing(t, Client.fromConnectionString(`HostName=${assignedHub};DeviceId=${t.id};x509=true`, hubTransport));
    client.setOptions(x509, () => {}); // over HTTP it calls nobody back
    await client.open();
    await client.sendEvent(message('m1', { by: 'certificate' }));
    assert.deepEqual((await received(cloud, t.id, 'm1')).body, { by: 'certificate' });
    assert.equal((await cloud.ledger(t.id)).received, 1);
  },

  async 'wrong-key'(t) {
    const hub = await provision(cloud, t.id);
    const client = device(t, cloud, hub, t.id, groupKey(cloud, 'somebody else'));
    await refusedBy(['UnauthorizedError'], async () => {
      await client.open();
      await client.sendEvent(message('m1', 1));
    });
    assert.equal(cloud.happened('connect', t.id).length, 0);
    assert.equal((await cloud.ledger(t.id)).received, 0);
  },

  async expired(t) {
    const hub = await provision(plain, t.id);
    const token = sas(`${hub}/devices/${t.id}`, groupKey(plain, t.id), Math.floor(Date.now() / 1000) - 60);
    const client = closing(t, Client.fromSharedAccessSignature(token, hubTransport));
    await refusedBy(['UnauthorizedError'], async () => {
      await client.open();
      await client.sendEvent(message('m1', 1));
    });
    assert.equal(plain.happened('connect', t.id).length, 0);
    assert.equal((await plain.ledger(t.id)).received, 0);
  },

  async telemetry(t) {
    const client = await online(t);
    const name = overHttp ? 'akey' : 'a key'; // a header's name has no blanks
    await client.sendEvent(message('m1', { temp: 21.5, text: 'grün' }, { [name]: 'a value & more = 100 %' }));
    const ledger = await cloud.ledger(t.id);
    assert.deepEqual([ledger.received, ledger.duplicates, ledger.hubs], [1, 0, { 'hub-a': 1 }]);
    const [m] = ledger.messages;
    assert.deepEqual([m.mid, m.body], ['m1', { temp: 21.5, text: 'grün' }]);
    assert.equal(m.properties[name], 'a value & more = 100 %');
    assert.deepEqual([m.properties['$.ct'], m.properties['$.ce']], ['application/json', 'utf-8']);
    assert.equal(m.properties['iothub-connection-device-id'], t.id);
  },

  async batch(t) {
    const client = await online(t);
    await client.sendEventBatch([1, 2, 3].map((n) => message(`m${n}`, { n }, { n: String(n) })));
    const ledger = await cloud.ledger(t.id);
    assert.deepEqual(ledger.messages.map((m) => [m.body, m.properties.n]), [[{ n: 1 }, '1'], [{ n: 2 }, '2'], [{ n: 3 }, '3']]);
  },

  async 'twin-get'(t) {
    const client = await online(t);
    await cloud.api('PATCH', `/api/devices/${t.id}/desired`, { fanSpeed: 7, nested: { list: [1, 'two', { three: true }] } });
    const twin = await client.getTwin();
    const document = await cloud.api('GET', `/api/devices/${t.id}/twin`);
    assert.deepEqual([twin.properties.desired.fanSpeed, twin.properties.desired.$version], [7, 2]);
    assert.deepEqual(twin.properties.desired.nested, { list: [1, 'two', { three: true }] });
    assert.deepEqual(JSON.parse(JSON.stringify(twin.properties.desired)), document.desired);
    assert.equal(twin.properties.reported.$version, document.reported.$version);
  },

  async 'twin-patch'(t) {
    const client = await online(t);
    const twin = await client.getTwin();
    const report = (patch) => new Promise((done, fail) => twin.properties.reported.update(patch, (e) => (e ? fail(e) : done())));
    const before = twin.properties.reported.$version;
    await report({ battery: 42, gone: 1, deep: { a: 1, b: 2 } });
    await report({ gone: null, deep: { b: null } });
    const { reported } = await cloud.api('GET', `/api/devices/${t.id}/twin`);
    assert.deepEqual(reported, { battery: 42, deep: { a: 1 }, $version: before + 2 });
  },

  async 'twin-desired'(t) {
    const client = await online(t);
    await cloud.api('PATCH', `/api/devices/${t.id}/desired`, { untouched: true });
    const twin = await client.getTwin();
    // The SDK subscribes when a listener is added and does not say when that is done; a change before it is rightly not notified.
    const heard = [];
    let asked = 1200;
    twin.on('properties.desired', (delta) => heard.push(delta));
    await eventually('the desired notification', async () => {
      if (heard.some((delta) => delta.fanSpeed === asked)) return true;
      await cloud.api('PATCH', `/api/devices/${t.id}/desired`, { fanSpeed: ++asked });
      return false;
    });
    const document = await cloud.api('GET', `/api/devices/${t.id}/twin`);
    assert.deepEqual(heard.at(-1), { fanSpeed: asked, $version: document.desired.$version });
    assert.deepEqual([document.desired.fanSpeed, document.desired.untouched], [asked, true]);
  },

  async method(t) {
    const client = await online(t);
    const asked = [];
    client.onDeviceMethod('echo', (request, response) => {
      asked.push(request.payload);
      return response.send(207, { heard: request.payload });
    });
    await eventually('the method subscription', () => answers(cloud, t.id, 'echo', { a: 'ü' }, { status: 207, payload: { heard: { a: 'ü' } } }));
    assert.deepEqual(asked.at(-1), { a: 'ü' });
  },

  async c2d(t) {
    const client = await online(t);
    const messages = listen(client);
    await cloud.api('POST', `/api/devices/${t.id}/c2d`, { body: 'wake up', properties: { 'method-name': 'setAlarm', 'with blank': 'a & b' } });
    await eventually('the message', () => messages.length > 0);
    assert.match(messages[0].data.toString(), /wake up/);
    const property = (name) => messages[0].properties.propertyList.find((p) => p.key.replace('iothub-app-', '') === name)?.value; // which the SDK leaves over HTTP
    assert.equal(property('method-name'), 'setAlarm');
    if (!overHttp) assert.equal(property('with blank'), 'a & b');
    await client.complete(messages[0]);
    await eventually('completion', async () => (await cloud.c2d(t.id)).join() === 'completed');
    assert.equal(messages.length, 1);
  },

  async 'c2d-offline'(t) {
    let client = await online(t);
    if (!overHttp) {
      listen(client);
      await eventually('the subscription', async () => { // a first message shows that there is one
        await cloud.api('POST', `/api/devices/${t.id}/c2d`, { body: 'first' });
        await pause(100);
        return (await cloud.c2d(t.id)).every((state) => state === 'completed');
      });
      await client.close();
      await eventually('the end', async () => (await cloud.connectedHub(t.id)) === null);
    }
    const before = (await cloud.c2d(t.id)).length;
    for (const body of ['one', 'two', 'three']) await cloud.api('POST', `/api/devices/${t.id}/c2d`, { body });
    assert.deepEqual((await cloud.c2d(t.id)).slice(before), ['enqueued', 'enqueued', 'enqueued']);
    client = device(t, cloud, cloud.hub('hub-a').host);
    const messages = listen(client);
    await client.open();
    await eventually('all three', async () => {
      if (overHttp) await Promise.all(messages.filter((m) => !m.done).map((m) => { m.done = true; return client.complete(m); }));
      return messages.length === 3;
    });
    assert.deepEqual(messages.map((m) => JSON.parse(m.data.toString())), ['one', 'two', 'three']);
    await eventually('completion', async () => (await cloud.c2d(t.id)).every((state) => state === 'completed'));
  },

  async 'c2d-reject'(t) {
    const client = await online(t);
    const messages = listen(client);
    await cloud.api('POST', `/api/devices/${t.id}/c2d`, { body: 'bad' });
    await eventually('the first', () => messages.length === 1);
    await client.reject(messages[0]);
    assert.deepEqual(await cloud.c2d(t.id), ['deadlettered']);
    await cloud.api('POST', `/api/devices/${t.id}/c2d`, { body: 'later' });
    await eventually('the second', () => messages.length === 2);
    await client.abandon(messages[1]);
    await eventually('the second again', () => messages.length === 3);
    assert.equal(messages[2].messageId, messages[1].messageId);
    await client.complete(messages[2]);
    assert.deepEqual(await cloud.c2d(t.id), ['deadlettered', 'completed']);
  },

  async takeover(t) {
    const older = await online(t);
    older.setRetryPolicy(new NoRetry());
    const lost = once(older, 'disconnect');
    const newer = device(t, cloud, cloud.hub('hub-a').host);
    await newer.open();
    await lost;
    await newer.sendEvent(message('m1', 1));
    await received(cloud, t.id, 'm1');
    assert.equal((await cloud.connectedHub(t.id)), 'hub-a');
    assert.match(cloud.happened('disconnect', t.id)[0].reason, /replaced/);
  },

  async reconnect(t) {
    const client = await online(t);
    client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload));
    const echo = () => answers(cloud, t.id, 'echo', 'hello', { status: 200, payload: 'hello' });
    await eventually('the method subscription', echo);
    await cloud.api('POST', `/api/devices/${t.id}/disconnect`, {});
    await eventually('a second connect', () => cloud.happened('connect', t.id).length >= 2);
    await eventually('the method again', echo);
    await client.sendEvent(message('m1', 1));
    await received(cloud, t.id, 'm1');
    assert.equal(cloud.happened('connect', t.id).length, 2);
  },

  async fault(t) {
    const client = await online(t);
    client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload));
    const echo = () => answers(cloud, t.id, 'echo', 'hello', { status: 200, payload: 'hello' });
    await eventually('the method subscription', echo);
    client.sendEvent(message('f1', 1, {
      AzIoTHub_FaultOperationType: 'KillTcp', AzIoTHub_FaultOperationCloseReason: 'boom',
      AzIoTHub_FaultOperationDelayInSecs: '1', AzIoTHub_FaultOperationDurationInSecs: '1',
    })).catch(() => {}); // it is never acknowledged
    await eventually('the hub closes', () => cloud.happened('disconnect', t.id).length === 1);
    await eventually('a second connect', () => cloud.happened('connect', t.id).length >= 2);
    await eventually('the method again', echo);
  },

  disabled: (t) => disabled(t, cloud, [overHttp ? 'IotHubQuotaExceededError' : 'ServiceUnavailableError'], /CONNACK 3/), // the former is the SDK's name for any 403
  'disabled-5': (t) => disabled(t, plain, ['UnauthorizedError'], /CONNACK 5/),
  moved: (t) => moved(t, cloud),
  'moved-deleted': (t) => moved(t, plain),

  async renewal(t) {
    const hub = await provision(plain, t.id);
    // Tokens are valid for three seconds and renewed after one.
    const tokens = SharedAccessKeyAuthenticationProvider.fromConnectionString(
      `HostName=${hub};DeviceId=${t.id};SharedAccessKey=${groupKey(plain, t.id)}`, 3, 2);
    const client = closing(t, Client.fromAuthenticationProvider(tokens, hubTransport));
    await client.open();
    const end = Date.now() + 7000;
    let sent = 0;
    for (; Date.now() < end; await pause(200)) await client.sendEvent(message(`m${++sent}`, sent));
    const ledger = await plain.ledger(t.id);
    assert.equal(new Set(ledger.messages.map((m) => m.mid)).size, sent);
    if (overHttp) return;
    assert.ok(plain.happened('connect', t.id).length >= 4, `${plain.happened('connect', t.id).length} connects`);
    assert.deepEqual(plain.happened('refuse', t.id), []);
    assert.deepEqual(plain.happened('disconnect', t.id).filter((e) => /token expired/.test(e.reason)), []);
  },

  async module(t) {
    const host = cloud.hub('hub-a').host;
    const registry = Registry.fromConnectionString(cloud.hub('hub-a').connectionString);
    await registry.create({ deviceId: t.id });
    await registry.addModule({ deviceId: t.id, moduleId: 'pump' });
    const { responseBody: module } = await registry.getModule(t.id, 'pump');
    const client = closing(t, ModuleClient.fromConnectionString(
      `HostName=${host};DeviceId=${t.id};ModuleId=pump;SharedAccessKey=${module.authentication.symmetricKey.primaryKey}`, hubTransport));
    await client.open();
    await client.sendEvent(message('m1', { by: 'module' }));
    assert.deepEqual((await received(cloud, t.id, 'm1')).body, { by: 'module' });
    const twin = await client.getTwin();
    await new Promise((done, fail) => twin.properties.reported.update({ rpm: 3 }, (e) => (e ? fail(e) : done())));
    const { responseBody: seen } = await registry.getModuleTwin(t.id, 'pump');
    assert.equal(seen.properties.reported.rpm, 3);
    client.onMethod('echo', (request, response) => response.send(200, request.payload));
    const service = require('azure-iothub').Client.fromConnectionString(cloud.hub('hub-a').connectionString);
    await eventually('the method subscription', () =>
      service.invokeDeviceMethod(t.id, 'pump', { methodName: 'echo', payload: 'hi' }).then((r) => (r.result ?? r.device).payload === 'hi', () => false));
  },
};

function sas(resource, key, expires) {
  return require('azure-iot-common').SharedAccessSignature.create(encodeURIComponent(resource), null, key, expires).toString();
}

async function sendsWith(t, x509, hub) {
  const client = closing(t, Client.fromAuthenticationProvider(X509AuthenticationProvider.fromX509Options(t.id, hub, x509), hubTransport));
  await client.open();
  await client.sendEvent(message('m1', 1));
  await received(cloud, t.id, 'm1');
}

// answers asks for a direct method by the control API and says whether the answer is this one.
async function answers(at, id, method, payload, want) {
  const r = await fetch(`${at.sim.control}/api/devices/${id}/methods/${method}?timeoutSeconds=2`, { method: 'POST', body: JSON.stringify(payload) });
  if (!r.ok) return false;
  assert.deepEqual(await r.json(), want);
  return true;
}

async function disabled(t, at, names, why) {
  const client = await online(t, at);
  client.setRetryPolicy(new NoRetry());
  const lost = overHttp || once(client, 'disconnect');
  await at.api('POST', `/api/devices/${t.id}/disable`, { dpsKnows: false });
  await lost;
  const again = device(t, at, at.hub('hub-a').host);
  again.setRetryPolicy(new NoRetry());
  await refusedBy(names, async () => {
    await again.open();
    await again.sendEvent(message('m1', 1));
  });
  assert.equal((await at.device(t.id)).enabled, false);
  assert.equal((await at.ledger(t.id)).received, 0);
  if (!overHttp) assert.match(at.happened('refuse', t.id).at(-1).reason, why);
  await at.api('POST', `/api/devices/${t.id}/enable`, {});
  const enabled = device(t, at, at.hub('hub-a').host);
  await enabled.open();
  await enabled.sendEvent(message('m2', 2));
  await received(at, t.id, 'm2');
}

async function moved(t, at) {
  const client = await online(t, at);
  client.setRetryPolicy(new NoRetry());
  await client.sendEvent(message('m1', 1));
  const lost = overHttp || once(client, 'disconnect');
  await at.api('POST', `/api/devices/${t.id}/failover`, {});
  await lost;
  const stale = device(t, at, at.hub('hub-a').host);
  stale.setRetryPolicy(new NoRetry());
  await stale.open().then(() => stale.sendEvent(message('m2', 2))).then(() => assert.fail('the old hub still serves'), () => {});
  const hub = await provision(at, t.id);
  assert.equal(hub, at.hub('hub-b').host);
  const next = device(t, at, hub);
  await next.open();
  await next.sendEvent(message('m2', 2));
  const ledger = await at.ledger(t.id);
  assert.deepEqual([ledger.hubs, ledger.duplicates], [{ 'hub-a': 1, 'hub-b': 1 }, 0]);
  assert.equal((await at.device(t.id)).assignedHub, 'hub-b');
}

// What the SDK cannot do over a transport is left out here and explained in the runner's table.
const without = overHttp
  ? ['twin-get', 'twin-patch', 'twin-desired', 'method', 'takeover', 'reconnect', 'fault', 'disabled-5', 'module']
  : ['batch', 'c2d-reject'];

Promise.all([cloud.watch(), plain.watch()]).then(() =>
  run(`node-${transport}`, Object.fromEntries(Object.entries(all).filter(([name]) => !without.includes(name)))));
