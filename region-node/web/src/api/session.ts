import { useSyncExternalStore } from 'react';
import { Client, type ServedBy } from './client';
import { ApiError } from './problem';
import type { Role, TokenAnswer } from './types';

/** Somebody signed in on this device; one per role, so that a rider and a driver can share a browser. */
export interface Session {
  role: Role;
  tenant: string | null;
  subject: string;
  accessToken: string;
  refreshToken: string;
  /** Milliseconds since 1970. */
  expiresAt: number;
}

const REFRESH_BEFORE_MS = 30_000;
const storageKey = (role: Role): string => `gocomet.session.${role}`;
const listeners = new Set<() => void>();
const cache = new Map<Role, { text: string | null; session: Session | null }>();

function changed(): void {
  for (const listener of listeners) listener();
}

export function currentSession(role: Role): Session | null {
  const text = localStorage.getItem(storageKey(role));
  const known = cache.get(role);
  if (known && known.text === text) return known.session;
  let session: Session | null = null;
  try {
    session = text === null ? null : (JSON.parse(text) as Session);
  } catch {
    localStorage.removeItem(storageKey(role));
  }
  cache.set(role, { text, session });
  return session;
}

function store(role: Role, session: Session | null): void {
  if (session === null) localStorage.removeItem(storageKey(role));
  else localStorage.setItem(storageKey(role), JSON.stringify(session));
  changed();
}

export function useSession(role: Role): Session | null {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      window.addEventListener('storage', listener);
      return () => {
        listeners.delete(listener);
        window.removeEventListener('storage', listener);
      };
    },
    () => currentSession(role),
  );
}

export function signOut(role: Role): void {
  store(role, null);
}

export type Credentials =
  | { grant_type: 'password'; phone: string; password: string }
  | { grant_type: 'client_credentials'; client_id: string; client_secret: string };

/** Calls before anybody is signed in. */
export function anonymous(tenant: string | null): Client {
  return new Client({ tenant: () => tenant, onServedBy: noteServedBy });
}

/** Signs in and remembers it; refuses an account of another role, so that a driver does not end up on the rider's screen. */
export async function signIn(role: Role, tenant: string | null, credentials: Credentials): Promise<Session> {
  const body = credentials.grant_type === 'password' ? { ...credentials, role } : credentials;
  const answer = await anonymous(tenant).json<TokenAnswer>({ method: 'POST', path: '/v1/auth/token', body });
  if (answer.role !== role) {
    throw new ApiError({
      type: 'about:blank',
      title: 'Another kind of account',
      status: 403,
      code: 'wrong_role',
      detail: `These are the credentials of a ${answer.role.replace('_', ' ')}.`,
    });
  }
  const session = fromAnswer(role, tenant, answer);
  store(role, session);
  return session;
}

function fromAnswer(role: Role, tenant: string | null, answer: TokenAnswer): Session {
  return {
    role,
    tenant,
    subject: answer.subject,
    accessToken: answer.access_token,
    refreshToken: answer.refresh_token,
    expiresAt: Date.now() + answer.expires_in * 1000,
  };
}

const refreshing = new Map<Role, Promise<boolean>>();

/**
 * Trades the refresh token for new tokens. Refresh tokens are good once, so tabs take turns, and a tab that finds
 * the stored token already renewed by another takes that one.
 */
export async function refresh(role: Role, refused: string): Promise<boolean> {
  const running = refreshing.get(role);
  if (running) return running;
  const renew = async (): Promise<boolean> => {
    const session = currentSession(role);
    if (session === null) return false;
    if (session.accessToken !== refused) return true;
    try {
      const answer = await anonymous(session.tenant).json<TokenAnswer>({
        method: 'POST',
        path: '/v1/auth/token',
        body: { grant_type: 'refresh_token', refresh_token: session.refreshToken },
      });
      store(role, fromAnswer(role, session.tenant, answer));
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && !error.isTemporary) {
        store(role, null);
        return false;
      }
      throw error;
    }
  };
  // Locks exist in secure contexts only; elsewhere one tab at a time is all that can be promised.
  const locks = (navigator as Partial<Navigator>).locks;
  const inTurn = async (): Promise<boolean> => {
    if (locks === undefined) return renew();
    let renewed = false;
    await locks.request(`${storageKey(role)}.refresh`, async () => {
      renewed = await renew();
    });
    return renewed;
  };
  const turn = inTurn();
  refreshing.set(role, turn);
  try {
    return await turn;
  } finally {
    refreshing.delete(role);
  }
}

/** A token that will last for the next call. */
export async function accessToken(role: Role): Promise<string | null> {
  const session = currentSession(role);
  if (session === null) return null;
  if (session.expiresAt - Date.now() < REFRESH_BEFORE_MS) {
    await refresh(role, session.accessToken);
    return currentSession(role)?.accessToken ?? null;
  }
  return session.accessToken;
}

const clients = new Map<string, Client>();

/** The client of whoever is signed in with this role; `tenant` lets an operator name one. */
export function clientOf(role: Role, tenant?: string): Client {
  const key = `${role} ${tenant ?? ''}`;
  let client = clients.get(key);
  if (client === undefined) {
    client = new Client({
      tenant: () => tenant ?? currentSession(role)?.tenant ?? null,
      accessToken: () => accessToken(role),
      onUnauthorized: () => {
        const session = currentSession(role);
        return session === null ? Promise.resolve(false) : refresh(role, session.accessToken);
      },
      onServedBy: noteServedBy,
    });
    clients.set(key, client);
  }
  return client;
}

let served: ServedBy = { edge: null, home: null };

function noteServedBy(next: ServedBy): void {
  if (next.edge === served.edge && next.home === served.home) return;
  served = next;
  changed();
}

/** The regions that took and answered the last call. */
export function useServedBy(): ServedBy {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => served,
  );
}
