// A device with the official SDK, as its samples write one: it asks DPS for its hub, connects, and sends a sample twice a second. Each
// sample has a number, 1, 2, 3 and so on, so that a drill can see which ones are missing:
//
//   hubhop drill run giant-lizard --device external --sequence-field seq --exec 'node drill.js'
//
// The SDK re-connects by its own policy. When it gives up, the program asks DPS again. A sample that the SDK could not send is
// lost, as it is in the SDK's samples: the SDK has no queue on disk.
// The addresses come from the environment, as hubhop drill and hubhop sim --exec set it.
'use strict';
const fs = require('node:fs');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Mqtt: ProvisioningMqtt } = require('azure-iot-provisioning-device-mqtt');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { deviceKey } = require('./lib.js');

const { SIM_DEVICE_ID: id = 'drill-1', SIM_ID_SCOPE: scope, SIM_PROVISIONING_HOST: host, SIM_GROUP_KEY_FILE: groupKeyFile } = process.env;
const interval = Number(process.env.INTERVAL_MS ?? 500);
const key = deviceKey(fs.readFileSync(groupKeyFile, 'utf8').trim(), id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const log = (...words) => console.error(new Date().toISOString(), ...words);

let client = null; // while the SDK has one that works, or that it tries to re-connect
let seq = 0;
let sampling = null; // from the first connection on

async function connect() {
  const security = new SymmetricKeySecurityClient(id, key);
  const { assignedHub } = await ProvisioningDeviceClient.create(host, scope, new ProvisioningMqtt(), security).register();
  const next = Client.fromConnectionString(`HostName=${assignedHub};DeviceId=${id};SharedAccessKey=${key}`, Mqtt);
  next.on('error', (e) => log('error', e.message));
  await next.open();
  next.onDeviceMethod('echo', (request, response) => response.send(200, request.payload, () => {}));
  next.on('message', (m) => next.complete(m, () => {}));
  log('connected to', assignedHub);
  client = next;
  sampling ??= setInterval(sample, interval);
  await new Promise((gone) => next.on('disconnect', gone)); // the SDK has given up
  log('disconnected from', assignedHub);
  client = null;
  next.removeAllListeners();
  next.on('error', () => {});
  next.close(() => {});
}

async function stayConnected() {
  for (;;) {
    await connect().catch((e) => log('not connected:', e.name, e.message));
    await pause(1000);
  }
}

function sample() {
  seq += 1;
  const m = new Message(JSON.stringify({ seq, temp: 20 + Math.random() }));
  m.messageId = `sample-${seq}`;
  m.contentType = 'application/json';
  m.contentEncoding = 'utf-8';
  if (client === null) return log('lost, no client:', seq);
  client.sendEvent(m, (e) => { if (e) log('lost:', seq, e.name, e.message); });
}

process.on('unhandledRejection', (e) => log('unhandled', e));
process.on('SIGTERM', () => process.exit(0));
stayConnected();
