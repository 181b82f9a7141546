// One ride with the official Socket.IO client, as browsers and phones use it.
// The errand, one JSON argument: {url, tenant, transport, rider: {token}, driver: {token, id}, pickup, dropoff}.
// Ends with 0 when every event came in its order, else says which did not.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { io } from 'socket.io-client';

const errand = JSON.parse(process.argv[2]);
const PATIENCE_MS = 20_000;

/** A call of the REST API. */
async function post(who, path, body) {
  const response = await fetch(errand.url + path, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'x-tenant-id': errand.tenant,
      authorization: `Bearer ${who.token}`,
      'idempotency-key': randomUUID(),
    },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  assert.ok(response.ok, `${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

/** A connection that remembers all it heard, so that nothing is missed between two questions. */
function connect(who) {
  const socket = io(errand.url, {
    path: '/socket.io',
    transports: [errand.transport],
    auth: { token: who.token, tenant: errand.tenant },
    query: { tenant: errand.tenant },
    reconnection: false,
    forceNew: true,
  });
  const heard = [];
  const waiting = new Set();
  socket.onAny((name, payload) => {
    heard.push({ name, payload });
    for (const look of waiting) look();
  });
  const hear = (name, fits) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.delete(look);
        reject(new Error(`no ${name} came; heard: ${JSON.stringify(heard)}`));
      }, PATIENCE_MS);
      const look = () => {
        const found = heard.find((event) => event.name === name && fits(event.payload));
        if (!found) return;
        clearTimeout(timer);
        waiting.delete(look);
        resolve(found.payload);
      };
      waiting.add(look);
      look();
    });
  const connected = new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('connect_error', (error) => reject(Object.assign(error, { code: error.data?.code })));
  });
  return { socket, hear, connected };
}

const nobody = connect({ token: 'not-a-token' });
await assert.rejects(nobody.connected, { code: 'invalid_token' });

const [rider, driver] = [connect(errand.rider), connect(errand.driver)];
await Promise.all([rider.connected, driver.connected]);
await post(errand.driver, `/v1/drivers/${errand.driver.id}/status`, { status: 'online' });
const ask = (name, payload) => driver.socket.timeout(PATIENCE_MS).emitWithAck(name, payload);
assert.deepEqual(await ask('location:update', errand.pickup), { ok: true });

const ride = await post(errand.rider, '/v1/rides', {
  pickup: errand.pickup,
  dropoff: errand.dropoff,
  vehicle_class: 'standard',
  payment_method: { type: 'card', token: 'tok_visa' },
});
const isRide = (status) => (update) => update.id === ride.id && update.status === status;
await driver.hear('ride:offer', (offer) => offer.ride_id === ride.id);
const trip = await ask('ride:accept', { ride_id: ride.id });
assert.equal(trip.ride_id, ride.id, JSON.stringify(trip));
await rider.hear('ride:update', isRide('accepted'));
await driver.hear('ride:update', isRide('accepted'));
driver.socket.emit('location:update', { ...errand.pickup, heading: 10, speed: 3 });
await rider.hear('driver:location', (seen) => seen.ride_id === ride.id);

for (const step of ['arrive', 'start']) await post(errand.driver, `/v1/trips/${trip.id}/${step}`, {});
assert.deepEqual(await ask('location:update', [errand.pickup, errand.dropoff]), { ok: true });
await post(errand.driver, `/v1/trips/${trip.id}/end`, {});
await rider.hear('ride:update', isRide('completed'));
const payment = await post(errand.rider, '/v1/payments', {
  trip_id: trip.id,
  method: { type: 'card', token: 'tok_visa' },
});
await rider.hear('payment:update', (update) => update.id === payment.id && update.status === 'settled');
await post(errand.driver, `/v1/drivers/${errand.driver.id}/status`, { status: 'offline' });
rider.socket.close();
driver.socket.close();
