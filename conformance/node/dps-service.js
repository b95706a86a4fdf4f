// The official service SDK for DPS, unmodified, against hubhop sim.
// usage: NODE_EXTRA_CA_CERTS=CAs.pem node dps-service.js DIR
'use strict';
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http } = require('azure-iot-provisioning-device-http');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { Cloud, assert, deviceKey, run } = require('./lib.js');

const cloud = new Cloud(process.argv[2]);
const connectionString = cloud.sim.dps.connectionString;
const service = connectionString && ProvisioningServiceClient.fromConnectionString(connectionString);

const key = (name) => deviceKey(cloud.sim.groupKey, name); // any base64 will do
const register = (id, k) =>
  ProvisioningDeviceClient.create(cloud.sim.provisioningHost, cloud.sim.idScope, new Http(), new SymmetricKeySecurityClient(id, k)).register();
const failed = (promise) => promise.then(() => assert.fail('not refused'), (e) => e);
const attestation = (name) => ({ type: 'symmetricKey', symmetricKey: { primaryKey: key(name + '1'), secondaryKey: key(name + '2') } });

async function all(query) {
  const pages = [];
  while (query.hasMoreResults) pages.push((await query.next(query.continuationToken)).responseBody);
  return pages;
}

run('node-dps', {
  async enrollment(t) {
    const { responseBody: made } = await service.createOrUpdateIndividualEnrollment({
      registrationId: t.id, deviceId: t.id + '-Device', attestation: attestation(t.id), provisioningStatus: 'enabled',
      allocationPolicy: 'static', iotHubs: [cloud.hub('hub-b').host], initialTwin: { tags: { floor: 3 }, properties: { desired: { fanSpeed: 7 } } },
    });
    assert.deepEqual([made.registrationId, made.deviceId, made.provisioningStatus], [t.id, t.id + '-Device', 'enabled']);
    assert.ok(made.etag && made.createdDateTimeUtc);
    const { responseBody: got } = await service.getIndividualEnrollment(t.id);
    assert.equal(got.etag, made.etag);
    const result = await register(t.id, key(t.id + '1'));
    assert.deepEqual([result.status, result.assignedHub, result.deviceId], ['assigned', cloud.hub('hub-b').host, t.id + '-Device']);
    assert.equal((await cloud.api('GET', `/api/devices/${t.id}-Device/twin`)).desired.fanSpeed, 7);
    const { responseBody: updated } = await service.createOrUpdateIndividualEnrollment({ ...got, provisioningStatus: 'disabled', attestation: attestation(t.id) });
    assert.equal(updated.provisioningStatus, 'disabled');
    assert.notEqual(updated.etag, made.etag);
    await failed(service.createOrUpdateIndividualEnrollment({ ...got, attestation: attestation(t.id) })); // its etag is old
    assert.match(JSON.stringify(await failed(register(t.id, key(t.id + '1'))), Object.getOwnPropertyNames(new Error()).concat('result', 'status')), /disabled/);
    await service.deleteIndividualEnrollment(updated);
    assert.match((await failed(service.getIndividualEnrollment(t.id))).message, /not found/i);
    await failed(register(t.id, key(t.id + '1')));
  },

  async 'enrollment-group'(t) {
    const { responseBody: made } = await service.createOrUpdateEnrollmentGroup({
      enrollmentGroupId: t.id, attestation: attestation(t.id), provisioningStatus: 'enabled', allocationPolicy: 'static', iotHubs: [cloud.hub('hub-b').host],
    });
    assert.ok(made.etag);
    assert.equal((await service.getEnrollmentGroup(t.id)).responseBody.etag, made.etag);
    const id = t.id + '-member';
    const result = await register(id, deviceKey(key(t.id + '1'), id));
    assert.deepEqual([result.status, result.assignedHub], ['assigned', cloud.hub('hub-b').host]);
    assert.equal((await cloud.device(id)).assignedHub, 'hub-b');
    await service.deleteEnrollmentGroup(t.id, made.etag);
    await failed(service.getEnrollmentGroup(t.id));
    const other = t.id + '-late';
    await failed(register(other, deviceKey(key(t.id + '1'), other)));
  },

  async 'enrollment-query'(t) {
    for (const n of [1, 2, 3]) await service.createOrUpdateIndividualEnrollment({ registrationId: `${t.id}-${n}`, attestation: attestation(t.id) });
    const pages = await all(service.createIndividualEnrollmentQuery({ query: 'SELECT *' }, 2));
    assert.ok(pages.length > 1 && pages.slice(0, -1).every((p) => p.length === 2));
    const mine = pages.flat().filter((e) => e.registrationId.startsWith(t.id)).map((e) => e.registrationId);
    assert.deepEqual(mine.sort(), [1, 2, 3].map((n) => `${t.id}-${n}`));
    assert.ok((await all(service.createEnrollmentGroupQuery({ query: 'SELECT *' }))).flat().length >= 1);
  },

  async attestation(t) {
    await service.createOrUpdateIndividualEnrollment({ registrationId: t.id, attestation: attestation(t.id) });
    assert.deepEqual((await service.getIndividualEnrollmentAttestationMechanism(t.id)).responseBody.symmetricKey, attestation(t.id).symmetricKey);
    await service.createOrUpdateEnrollmentGroup({ enrollmentGroupId: t.id, attestation: attestation(t.id + 'g') });
    assert.deepEqual((await service.getEnrollmentGroupAttestationMechanism(t.id)).responseBody.symmetricKey, attestation(t.id + 'g').symmetricKey);
    await service.deleteEnrollmentGroup(t.id);
  },

  async registration(t) {
    await service.createOrUpdateEnrollmentGroup({ enrollmentGroupId: t.id, attestation: attestation(t.id) });
    const id = t.id + '-member';
    const { assignedHub } = await register(id, deviceKey(key(t.id + '1'), id));
    const { responseBody: state } = await service.getDeviceRegistrationState(id);
    assert.deepEqual([state.registrationId, state.assignedHub, state.deviceId, state.status], [id, assignedHub, id, 'assigned']);
    const records = (await all(service.createEnrollmentGroupDeviceRegistrationStateQuery({ query: 'SELECT *' }, t.id))).flat();
    assert.deepEqual(records.map((r) => r.registrationId), [id]);
    await service.deleteDeviceRegistrationState(state);
    await failed(service.getDeviceRegistrationState(id));
    await service.deleteEnrollmentGroup(t.id);
  },

  async 'bad-signature'(t) {
    const stranger = ProvisioningServiceClient.fromConnectionString(connectionString.replace(/SharedAccessKey=.*/, `SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`));
    assert.equal((await failed(stranger.createOrUpdateIndividualEnrollment({ registrationId: t.id, attestation: attestation(t.id) }))).constructor.name, 'UnauthorizedError');
    await failed(service.getIndividualEnrollment(t.id));
  },
});
