// The REST parts of the official service SDK for hubs, unmodified, against hubhop sim.
// usage: NODE_EXTRA_CA_CERTS=CAs.pem node hub-service.js DIR
'use strict';
const crypto = require('node:crypto');
const { once } = require('node:events');
const { NoRetry } = require('azure-iot-common');
const { Client, Message, ModuleClient } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Client: ServiceClient, Registry } = require('azure-iothub');
const { Cloud, assert, eventually, run } = require('./lib.js');

const cloud = new Cloud(process.argv[2]);
const { host, connectionString } = cloud.hub('hub-a');
const registry = Registry.fromConnectionString(connectionString);
const service = ServiceClient.fromConnectionString(connectionString);

function closing(t, client) {
  client.on('error', () => {});
  client.setRetryPolicy(new NoRetry());
  t.later(() => client.close());
  return client;
}

function device(t, key, id = t.id) {
  return closing(t, Client.fromConnectionString(`HostName=${host};DeviceId=${id};SharedAccessKey=${key}`, Mqtt));
}

// online makes a device in the registry and connects it.
async function online(t, id = t.id) {
  const { responseBody } = await registry.create({ deviceId: id });
  const client = device(t, responseBody.authentication.symmetricKey.primaryKey, id);
  await client.open();
  return client;
}

async function all(query) {
  const pages = [];
  while (query.hasMoreResults) pages.push((await query.next(query.continuationToken)).result);
  return pages;
}

const failed = (promise) => promise.then(() => assert.fail('not refused'), (e) => e);

run('node-hub', {
  async registry(t) {
    const { responseBody: made } = await registry.create({ deviceId: t.id });
    const keys = made.authentication.symmetricKey;
    assert.ok(keys.primaryKey && keys.secondaryKey && keys.primaryKey !== keys.secondaryKey);
    assert.equal(made.status, 'enabled');
    for (const key of [keys.primaryKey, keys.secondaryKey]) {
      const client = device(t, key);
      await client.open();
      await client.close();
    }
    const { responseBody: got } = await registry.get(t.id);
    assert.deepEqual([got.generationId, got.etag, got.authentication], [made.generationId, made.etag, made.authentication]);
    const { responseBody: updated } = await registry.update({ ...JSON.parse(JSON.stringify(got)), statusReason: 'because' });
    assert.deepEqual([updated.statusReason, updated.generationId, updated.authentication], ['because', made.generationId, made.authentication]);
    assert.notEqual(updated.etag, made.etag);
    await registry.delete(t.id);
    assert.equal((await failed(registry.get(t.id))).constructor.name, 'DeviceNotFoundError');
    assert.equal((await failed(device(t, keys.primaryKey).open())).name, 'UnauthorizedError');
  },

  async 'registry-conflict'(t) {
    const { responseBody: made } = await registry.create({ deviceId: t.id });
    const error = await failed(registry.create({ deviceId: t.id }));
    assert.equal(error.constructor.name, 'DeviceAlreadyExistsError');
    assert.match(JSON.stringify(error.responseBody), /DeviceAlreadyExists/);
    assert.equal((await registry.get(t.id)).responseBody.generationId, made.generationId);
  },

  async 'registry-list'(t) {
    await online(t);
    const { responseBody: devices } = await registry.list();
    const mine = devices.filter((d) => d.deviceId === t.id);
    assert.equal(mine.length, 1);
    assert.deepEqual([mine[0].connectionState, mine[0].status], ['Connected', 'enabled']);
  },

  async 'registry-disable'(t) {
    const client = await online(t);
    const lost = once(client, 'disconnect');
    const { responseBody: got } = await registry.get(t.id);
    const description = JSON.parse(JSON.stringify(got));
    await registry.update({ ...description, status: 'disabled', statusReason: 'maintenance' });
    await lost;
    const key = got.authentication.symmetricKey.primaryKey;
    assert.equal((await failed(device(t, key).open())).name, 'ServiceUnavailableError');
    assert.equal((await registry.get(t.id)).responseBody.statusReason, 'maintenance');
    await registry.update({ ...description, status: 'enabled' });
    await device(t, key).open();
  },

  async 'registry-x509'(t) {
    const x509 = cloud.certificate(t.id);
    const primaryThumbprint = new crypto.X509Certificate(x509.cert).fingerprint.replaceAll(':', ''); // SHA-1, as the portal shows it
    await registry.create({ deviceId: t.id, authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint } } });
    const client = closing(t, Client.fromConnectionString(`HostName=${host};DeviceId=${t.id};x509=true`, Mqtt));
    await client.setOptions(x509);
    await client.open();
    await client.sendEvent(new Message('1'));
    assert.equal((await cloud.ledger(t.id)).received, 1);
    const other = closing(t, Client.fromConnectionString(`HostName=${host};DeviceId=${t.id};x509=true`, Mqtt));
    await other.setOptions(cloud.certificate('node-mqtt-provision-x509-individual'));
    assert.equal((await failed(other.open())).name, 'UnauthorizedError');
  },

  async modules(t) {
    await registry.create({ deviceId: t.id });
    await registry.addModule({ deviceId: t.id, moduleId: 'pump' });
    const { responseBody: module } = await registry.getModule(t.id, 'pump');
    assert.deepEqual([module.deviceId, module.moduleId], [t.id, 'pump']);
    const client = closing(t, ModuleClient.fromConnectionString(
      `HostName=${host};DeviceId=${t.id};ModuleId=pump;SharedAccessKey=${module.authentication.symmetricKey.primaryKey}`, Mqtt));
    await client.open();
    const { responseBody: modules } = await registry.getModulesOnDevice(t.id);
    assert.deepEqual(modules.map((m) => [m.moduleId, m.connectionState]), [['pump', 'Connected']]);
    const lost = once(client, 'disconnect');
    await registry.removeModule(t.id, 'pump');
    await lost;
    await failed(registry.getModule(t.id, 'pump'));
  },

  async twin(t) {
    const client = await online(t);
    const deviceTwin = await client.getTwin();
    await new Promise((done, fail) => deviceTwin.properties.reported.update({ battery: 42 }, (e) => (e ? fail(e) : done())));
    const { responseBody: twin } = await registry.getTwin(t.id);
    assert.equal(twin.properties.reported.battery, 42);
    assert.equal(twin.connectionState, 'Connected');
    const etag = twin.etag;
    const heard = [];
    deviceTwin.on('properties.desired', (delta) => heard.push(delta));
    let speed = 1200;
    await eventually('the device is notified', async () => {
      if (heard.some((delta) => delta.fanSpeed === speed)) return true;
      await twin.update({ tags: { floor: 3 }, properties: { desired: { fanSpeed: ++speed } } });
      return false;
    });
    assert.deepEqual([twin.tags.floor, twin.properties.desired.fanSpeed], [3, speed]);
    assert.ok(twin.properties.desired.$metadata.fanSpeed.$lastUpdated);
    assert.notEqual(twin.etag, etag);
    assert.equal((await failed(registry.updateTwin(t.id, { tags: { floor: 4 } }, etag))).constructor.name, 'InvalidEtagError');
    assert.equal((await registry.getTwin(t.id)).responseBody.tags.floor, 3);
  },

  async query(t) {
    const ids = [1, 2, 3].map((n) => `${t.id}-${n}`);
    for (const id of ids) {
      await registry.create({ deviceId: id });
      await registry.updateTwin(id, { tags: { site: t.id, n: Number(id.at(-1)) } }, '*');
    }
    const pages = await all(registry.createQuery(`SELECT * FROM devices WHERE tags.site = '${t.id}'`, 2));
    assert.deepEqual(pages.map((p) => p.length), [2, 1]);
    assert.deepEqual(pages.flat().map((d) => d.deviceId).sort(), ids);
    const { result: twins } = await registry.createQuery(`SELECT * FROM devices WHERE tags.site = '${t.id}' AND tags.n > 1`).nextAsTwin();
    assert.deepEqual(twins.map((twin) => twin.deviceId).sort(), ids.slice(1));
    assert.deepEqual((await registry.createQuery(`SELECT * FROM devices WHERE deviceId = '${ids[0]}'`).next()).result.length, 1);
  },

  async method(t) {
    const client = await online(t);
    const asked = [];
    client.onDeviceMethod('echo', (request, response) => {
      asked.push(request.payload);
      return response.send(207, { heard: request.payload });
    });
    let answer;
    await eventually('the method subscription', () =>
      service.invokeDeviceMethod(t.id, { methodName: 'echo', payload: { a: 'ü' }, responseTimeoutInSeconds: 10 }).then((r) => (answer = r, true), () => false));
    assert.deepEqual(answer.result ?? answer.device, { status: 207, payload: { heard: { a: 'ü' } } });
    assert.deepEqual(asked.at(-1), { a: 'ü' });
  },

  async 'method-offline'(t) {
    await registry.create({ deviceId: t.id });
    const error = await failed(service.invokeDeviceMethod(t.id, { methodName: 'echo', responseTimeoutInSeconds: 5 }));
    assert.equal(error.response.statusCode, 404);
    assert.match(error.response.headers['iothub-errorcode'] ?? '', /DeviceNotOnline/);
    assert.match(error.responseBody, /404103/);
  },

  async statistics(t) {
    const before = (await registry.getRegistryStatistics()).responseBody;
    await registry.create({ deviceId: t.id, status: 'disabled' });
    const after = (await registry.getRegistryStatistics()).responseBody;
    assert.ok(after.totalDeviceCount > before.totalDeviceCount && after.disabledDeviceCount > before.disabledDeviceCount);
    assert.equal(after.totalDeviceCount, after.enabledDeviceCount + after.disabledDeviceCount);
  },

  async 'bad-signature'(t) {
    const stranger = Registry.fromConnectionString(connectionString.replace(/SharedAccessKey=.*/, `SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`));
    assert.equal((await failed(stranger.create({ deviceId: t.id }))).constructor.name, 'UnauthorizedError');
    assert.equal((await failed(registry.get(t.id))).constructor.name, 'DeviceNotFoundError');
  },
});
