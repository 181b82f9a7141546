import { describe, expect, it, vi } from 'vitest';
import { Client, type ClientOptions } from './client';
import { ApiError, explain, NetworkError } from './problem';

type Answer = () => Response | Promise<Response>;

function problem(status: number, code: string, headers: Record<string, string> = {}, more: object = {}): Answer {
  const body = { type: 'about:blank', title: 'No.', status, code, request_id: 'r-1', ...more };
  return () => new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/problem+json', ...headers } });
}

const ok =
  (body: unknown, headers: Record<string, string> = {}): Answer =>
  () =>
    new Response(JSON.stringify(body), { status: 200, headers });

function clientThatGets(answers: Answer[], more: Partial<ClientOptions> = {}) {
  const calls: { url: string; headers: Headers; body: unknown }[] = [];
  const waits: number[] = [];
  const client = new Client({
    tenant: () => 'porto-taxis',
    fetch: async (url, init) => {
      calls.push({ url: url instanceof Request ? url.url : url.toString(), headers: new Headers(init?.headers), body: init?.body });
      const next = answers.shift();
      if (next === undefined) throw new Error('one call too many');
      return next();
    },
    wait: (ms) => {
      waits.push(ms);
      return Promise.resolve();
    },
    ...more,
  });
  return { client, calls, waits };
}

describe('Client', () => {
  it('sends tenant, token and query', async () => {
    const { client, calls } = clientThatGets([ok({ items: [] })], { accessToken: () => Promise.resolve('t0k3n') });
    await client.json({ method: 'GET', path: '/v1/rides', query: { limit: 5, status: undefined } });
    expect(calls[0]?.url).toBe('/v1/rides?limit=5');
    expect(calls[0]?.headers.get('X-Tenant-Id')).toBe('porto-taxis');
    expect(calls[0]?.headers.get('Authorization')).toBe('Bearer t0k3n');
    expect(calls[0]?.headers.get('Idempotency-Key')).toBeNull();
  });

  it('repeats a command over a lost connection under the same key', async () => {
    const lost: Answer = () => Promise.reject(new TypeError('Failed to fetch'));
    const { client, calls } = clientThatGets([lost, problem(409, 'idempotency_in_progress'), ok({ id: '1' })]);
    await expect(client.json({ method: 'POST', path: '/v1/rides', body: {}, idempotencyKey: 'k' })).resolves.toEqual({ id: '1' });
    expect(calls.map((call) => call.headers.get('Idempotency-Key'))).toEqual(['k', 'k', 'k']);
  });

  it('waits as long as it is told', async () => {
    const { client, waits } = clientThatGets([problem(429, 'rate_limited', { 'Retry-After': '3' }), ok({})]);
    await client.json({ method: 'GET', path: '/v1/rides' });
    expect(waits).toEqual([3000]);
  });

  it('does not wait longer than a person would', async () => {
    const { client, waits } = clientThatGets([problem(503, 'home_region_unreachable', { 'Retry-After': '60' })]);
    await expect(client.json({ method: 'GET', path: '/v1/rides' })).rejects.toMatchObject({ code: 'home_region_unreachable', retryAfterS: 60 });
    expect(waits).toEqual([]);
  });

  it('gives up on a network that stays away', async () => {
    const lost: Answer = () => Promise.reject(new TypeError('Failed to fetch'));
    const { client, calls } = clientThatGets([lost, lost, lost, lost]);
    await expect(client.json({ method: 'GET', path: '/v1/rides' })).rejects.toBeInstanceOf(NetworkError);
    expect(calls).toHaveLength(4);
  });

  it('does not repeat a refusal and keeps its fields', async () => {
    const { client, calls } = clientThatGets([
      problem(422, 'validation_failed', {}, { errors: [{ field: 'vehicle.plate', message: 'must not be empty' }] }),
    ]);
    const failure: unknown = await client.json({ method: 'POST', path: '/v1/drivers', body: {} }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ApiError);
    expect((failure as ApiError).fieldError('plate')).toBe('must not be empty');
    expect(explain(failure)).toBe('vehicle.plate: must not be empty');
    expect(calls).toHaveLength(1);
  });

  it('makes a problem of an answer that is none', async () => {
    const { client } = clientThatGets([() => new Response('<h1>Bad Gateway</h1>', { status: 500, statusText: 'Oops' })]);
    await expect(client.json({ method: 'GET', path: '/v1/rides' })).rejects.toMatchObject({ code: 'http_500', status: 500 });
  });

  it('renews a refused token once', async () => {
    const onUnauthorized = vi.fn(() => Promise.resolve(true));
    const { client } = clientThatGets([problem(401, 'invalid_token'), problem(401, 'invalid_token')], { onUnauthorized });
    await expect(client.json({ method: 'GET', path: '/v1/rides' })).rejects.toMatchObject({ status: 401 });
    expect(onUnauthorized).toHaveBeenCalledTimes(1);
  });

  it('tells which regions served', async () => {
    const onServedBy = vi.fn();
    const { client } = clientThatGets([ok({}, { 'X-Edge-Region': 'us-east', 'X-Served-By-Region': 'eu-west' })], { onServedBy });
    await client.json({ method: 'GET', path: '/v1/rides' });
    expect(onServedBy).toHaveBeenCalledWith({ edge: 'us-east', home: 'eu-west' });
  });
});
