import { newKey } from '../lib/key';
import { ApiError, NetworkError, readProblem } from './problem';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface Call {
  method: Method;
  path: string;
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  contentType?: string;
  accept?: string;
  /** Sent with every try of this call; commands without one get a fresh key. */
  idempotencyKey?: string;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** Which regions took and answered the last call. */
export interface ServedBy {
  edge: string | null;
  home: string | null;
}

export interface ClientOptions {
  /** The tenant of every call, or null for calls about none. */
  tenant: () => string | null;
  /** A valid access token, or null when nobody is signed in. */
  accessToken?: () => Promise<string | null>;
  /** Called once when a token is refused; true when a new one is there and the call is worth repeating. */
  onUnauthorized?: () => Promise<boolean>;
  onServedBy?: (served: ServedBy) => void;
  fetch?: typeof fetch;
  wait?: (ms: number) => Promise<void>;
}

const MAX_TRIES = 4;
const LONGEST_WAIT_MS = 8000;

/**
 * Talks to the API as one caller. A call that may be repeated safely (reads, and commands under one idempotency key)
 * is repeated over lost connections and temporary refusals; everything else fails as ApiError or NetworkError.
 */
export class Client {
  private readonly options: ClientOptions;

  constructor(options: ClientOptions) {
    this.options = options;
  }

  async json<T>(call: Call): Promise<T> {
    const response = await this.send(call);
    if (response.status === 204) return undefined as T;
    return (await response.json()) as T;
  }

  async send(call: Call): Promise<Response> {
    const key = call.idempotencyKey ?? (call.method === 'GET' ? undefined : newKey());
    let refreshed = false;
    for (let attempt = 1; ; attempt++) {
      let failure: ApiError | NetworkError;
      try {
        const response = await this.once(call, key);
        if (response.ok) return response;
        failure = await readProblem(response);
        if (failure.status === 401 && !refreshed && this.options.onUnauthorized) {
          refreshed = true;
          if (await this.options.onUnauthorized()) continue;
        }
      } catch (error) {
        if (error instanceof DOMException && error.name === 'AbortError') throw error;
        failure = error instanceof NetworkError ? error : new NetworkError(error);
      }
      const temporary = failure instanceof NetworkError || failure.isTemporary;
      if (!temporary || attempt >= MAX_TRIES) throw failure;
      const asked = failure instanceof ApiError ? failure.retryAfterS : null;
      const delay = asked === null ? 250 * 2 ** attempt : asked * 1000;
      if (delay > LONGEST_WAIT_MS) throw failure;
      await (this.options.wait ?? wait)(delay);
      call.signal?.throwIfAborted();
    }
  }

  private async once(call: Call, key: string | undefined): Promise<Response> {
    const headers = new Headers(call.headers);
    headers.set('Accept', call.accept ?? 'application/json');
    const tenant = this.options.tenant();
    if (tenant !== null) headers.set('X-Tenant-Id', tenant);
    const token = await this.options.accessToken?.();
    if (token != null) headers.set('Authorization', `Bearer ${token}`);
    if (key !== undefined) headers.set('Idempotency-Key', key);
    const init: RequestInit = { method: call.method, headers };
    if (call.body !== undefined) {
      headers.set('Content-Type', call.contentType ?? 'application/json');
      init.body = JSON.stringify(call.body);
    }
    if (call.signal) init.signal = call.signal;
    const response = await (this.options.fetch ?? fetch)(address(call), init);
    const edge = response.headers.get('X-Edge-Region');
    const home = response.headers.get('X-Served-By-Region');
    if (edge !== null || home !== null) this.options.onServedBy?.({ edge, home });
    return response;
  }
}

function address(call: Call): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(call.query ?? {})) {
    if (value !== undefined && value !== '') query.set(name, String(value));
  }
  const text = query.toString();
  return text === '' ? call.path : `${call.path}?${text}`;
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
