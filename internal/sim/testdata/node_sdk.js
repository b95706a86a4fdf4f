// One device's life with the official Node SDK, unmodified, against a running simulator.
// usage: NODE_EXTRA_CA_CERTS=ca.pem node node_sdk.js sim.json mqtt|http|x509
// x509 takes device.pem and device-key.pem beside sim.json.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');

const info = JSON.parse(fs.readFileSync(process.argv[2]));
const transport = process.argv[3];
const id = 'node-' + transport;
const key = crypto.createHmac('sha256', Buffer.from(info.groupKey, 'base64')).update(id).digest('base64');
const control = (method, path, body) => fetch(info.control + path, { method, body: body && JSON.stringify(body) }).then(async (r) => {
  if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${await r.text()}`);
  return r.status === 204 ? undefined : r.json();
});
const once = (what, f) => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('no ' + what)), 10000).unref();
  f(resolve);
});

const x509 = transport === 'x509' && {
  cert: fs.readFileSync(path.join(path.dirname(process.argv[2]), 'device.pem'), 'utf8'),
  key: fs.readFileSync(path.join(path.dirname(process.argv[2]), 'device-key.pem'), 'utf8'),
};

async function provision() {
  const Transport = transport === 'http' ? require('azure-iot-provisioning-device-http').Http : require('azure-iot-provisioning-device-mqtt').Mqtt;
  const security = x509 ? new (require('azure-iot-security-x509').X509Security)(id, x509) : new SymmetricKeySecurityClient(id, key);
  const client = ProvisioningDeviceClient.create(info.provisioningHost, info.idScope, new Transport(), security);
  client.setProvisioningPayload({ iotcModelId: 'dtmi:Sample:Failover;1' });
  return client.register();
}

async function connect(hub, retry = true) {
  const client = Client.fromConnectionString(`HostName=${hub};DeviceId=${id};` + (x509 ? 'x509=true' : `SharedAccessKey=${key}`), Mqtt);
  if (x509) await client.setOptions(x509);
  if (!retry) client.setRetryPolicy(new NoRetry());
  await client.setOptions({ modelId: 'dtmi:Sample:Failover;1' });
  await client.open();
  return client;
}

async function main() {
  let registration = await provision();
  console.log('assigned', registration.assignedHub, registration.deviceId, registration.status, registration.substatus);
  let client = await connect(registration.assignedHub);

  for (let n = 1; n <= 3; n++) {
    const m = new Message(JSON.stringify({ n }));
    m.messageId = `0123456789abcdef-${n}`;
    m.contentType = 'application/json';
    m.contentEncoding = 'utf-8';
    m.properties.add('plain', 'a b&c=d/ü');
    await client.sendEvent(m);
  }
  console.log('telemetry', JSON.stringify(await control('GET', `/api/ledger?device=${id}`)));

  const twin = await client.getTwin();
  const desired = once('desired property', (resolve) => twin.on('properties.desired', (d) => { if (d.fanSpeed) resolve(d); }));
  await new Promise((resolve, reject) => twin.properties.reported.update({ battery: 42.5 }, (e) => (e ? reject(e) : resolve())));
  await control('PATCH', `/api/devices/${id}/desired`, { fanSpeed: 1200 });
  console.log('desired', JSON.stringify(await desired), 'twin', JSON.stringify(await control('GET', `/api/devices/${id}/twin`)));

  client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload));
  await new Promise((resolve) => setTimeout(resolve, 500));
  console.log('method', JSON.stringify(await control('POST', `/api/devices/${id}/methods/echo`, { said: 'hi' })));

  const message = once('C2D message', (resolve) => client.on('message', (m) => client.complete(m, () => resolve(m))));
  await new Promise((resolve) => setTimeout(resolve, 500));
  await control('POST', `/api/devices/${id}/c2d`, { body: '12:00', properties: { 'method-name': 'setAlarm' } });
  const m = await message;
  console.log('c2d', m.data.toString(), m.properties.getValue('method-name'), m.messageId, m.contentType);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const states = (await control('GET', `/api/devices/${id}/c2d`)).messages.map((x) => x.state).join();
  if (states !== 'completed') throw new Error('C2D is ' + states);

  await control('POST', `/api/devices/${id}/failover`, { seconds: 60 });
  registration = await provision();
  console.log('after failover', registration.assignedHub, registration.substatus);
  await client.close().catch(() => {});
  client = await connect(registration.assignedHub);
  await control('POST', `/api/devices/${id}/disable`, { dpsKnows: false });
  await client.close().catch(() => {});
  try {
    await connect(registration.assignedHub, false);
    throw new Error('a disabled device connected');
  } catch (e) {
    console.log('disabled:', e.name, '/', e.message);
  }
  await control('POST', `/api/devices/${id}/enable`);
}

main().then(() => process.exit(0), (e) => { console.error('FAILED', e); process.exit(1); });
