// What all Node.js clients share: the simulator's control API, and a runner that prints a line of JSON for each scenario.
'use strict';
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');

const limit = 30000; // milliseconds for one scenario

function deviceKey(groupKey, registrationId) {
  return crypto.createHmac('sha256', Buffer.from(groupKey, 'base64')).update(registrationId).digest('base64');
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function eventually(what, holds, within = 15000) {
  for (const end = Date.now() + within; Date.now() < end; await pause(25)) {
    if (await holds()) return;
  }
  assert.fail(`${what}: not within ${within / 1000} s`);
}

// Cloud is a simulator, known by the directory it was told to write into.
class Cloud {
  constructor(dir) {
    this.dir = dir;
    this.sim = JSON.parse(fs.readFileSync(path.join(dir, 'sim.json'), 'utf8'));
    this.events = [];
    this.watching = new AbortController();
  }

  // watch collects the events of the simulator from now on.
  async watch() {
    const response = await fetch(this.sim.control + '/api/events', { signal: this.watching.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    await reader.read(); // a comment: the watching has begun
    let text = '';
    (async () => {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const lines = (text += value).split('\n');
        text = lines.pop();
        for (const line of lines) if (line.startsWith('data: ')) this.events.push(JSON.parse(line.slice(6)));
      }
    })().catch(() => {});
  }

  happened(kind, device) {
    return this.events.filter((e) => e.kind === kind && e.device === device);
  }

  async api(method, where, body) {
    const r = await fetch(this.sim.control + where, { method, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await r.text();
    assert.ok(r.ok, `${method} ${where}: ${r.status} ${text}`);
    return text ? JSON.parse(text) : undefined;
  }

  ledger(id) {
    return this.api('GET', `/api/ledger?device=${encodeURIComponent(id)}&messages=1`);
  }

  async device(id) {
    return (await this.api('GET', '/api/state')).devices.find((d) => d.id === id);
  }

  async connectedHub(id) {
    return (await this.device(id))?.connectedHub ?? null;
  }

  async c2d(id) {
    return (await this.api('GET', `/api/devices/${id}/c2d`)).messages.map((m) => m.state);
  }

  hub(name) {
    return this.sim.hubs.find((h) => h.name === name);
  }

  // certificate is one that the runner has minted: PEM text of chain and key.
  certificate(name) {
    const read = (file) => fs.readFileSync(path.join(this.dir, file), 'utf8');
    return { cert: read(`${name}.pem`), key: read(`${name}-key.pem`) };
  }
}

// run plays the scenarios one after the other. Each gets an id of its own and closes what it gave to t.later.
async function run(client, scenarios) {
  const only = process.env.CONFORMANCE_ONLY;
  process.on('unhandledRejection', (e) => console.error(client, 'unhandled', e));
  for (const [scenario, play] of Object.entries(scenarios)) {
    if (only && only !== scenario) continue;
    const began = Date.now();
    const cleanups = [];
    const t = { id: `${client}-${scenario}`, later: (f) => cleanups.push(f) };
    let timer;
    const line = { client, scenario, ok: true };
    try {
      const tooLong = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(`not within ${limit / 1000} s`)), limit); });
      await Promise.race([play(t), tooLong]);
    } catch (e) {
      line.ok = false;
      line.why = e.stack?.split('\n').slice(0, 4).join('\n') ?? String(e);
    }
    clearTimeout(timer);
    line.ms = Date.now() - began;
    for (const cleanup of cleanups.reverse()) {
      await Promise.race([Promise.resolve().then(cleanup).catch(() => {}), pause(2000)]);
    }
    console.log(JSON.stringify(line));
  }
  process.exit(0);
}

module.exports = { Cloud, assert, deviceKey, eventually, pause, run };
