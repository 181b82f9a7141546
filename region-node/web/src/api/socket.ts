import { useEffect, useRef, useState } from 'react';
import { io, type Socket } from 'socket.io-client';
import { accessToken, currentSession, refresh, signOut, type Session } from './session';
import type { Position } from './calls';
import type { DriverLocation, FareShare, Offer, Payment, Ride, Taken } from './types';

export interface ServerEvents {
  'ride:offer': (offer: Offer) => void;
  'ride:offer_withdrawn': (withdrawn: { offer_id: string; ride_id: string; reason: string }) => void;
  'ride:update': (ride: Ride) => void;
  'driver:location': (location: DriverLocation) => void;
  'payment:update': (payment: Payment) => void;
  'share:update': (share: FareShare) => void;
}

/** What positions are acknowledged with: refused, or taken. */
export type PositionAnswer = { ok: false; code: string } | ({ ok: true } & Taken);

export interface ClientEvents {
  'location:update': (positions: Position[], acknowledge: (answer: PositionAnswer) => void) => void;
}

export type RideSocket = Socket<ServerEvents, ClientEvents>;

export type Live = 'connecting' | 'live' | 'lost';

interface Refusal extends Error {
  data?: { code?: string; base_url?: string };
}

/**
 * Keeps one socket open for a signed-in person and hands over what arrives. The token is asked for at each connect, so
 * a reconnect after hours works; a node that is not the home region's names the one that is, and we go there.
 */
export function useSocket(
  session: Session | null,
  handlers: Partial<ServerEvents>,
): { live: Live; socket: RideSocket | null } {
  const [live, setLive] = useState<Live>('connecting');
  const [socket, setSocket] = useState<RideSocket | null>(null);
  const latest = useRef(handlers);
  useEffect(() => {
    latest.current = handlers;
  });

  const role = session?.role;
  const tenant = session?.tenant;
  const subject = session?.subject;
  useEffect(() => {
    if (role === undefined || tenant == null || subject === undefined) return;
    let current: RideSocket | null = null;
    let moved = false;
    let ended = false;

    const open = (baseUrl?: string): void => {
      const options = {
        path: '/socket.io',
        query: { tenant },
        auth: (done: (data: object) => void) => {
          accessToken(role).then(
            (token) => done({ token, tenant }),
            () => done({ tenant }),
          );
        },
        // After a node's death all its clients come back: each at another time, and those who are refused ever later.
        reconnectionDelay: 1000,
        reconnectionDelayMax: 15000,
        randomizationFactor: 0.7,
        forceNew: true,
      };
      const next: RideSocket = baseUrl === undefined ? io(options) : io(baseUrl, options);
      current = next;
      next.on('connect', () => {
        moved = false;
        setLive('live');
      });
      next.on('disconnect', (reason) => {
        setLive('lost');
        // The server closes a socket when its node stops; socket.io reconnects by itself from every other cause.
        if (reason === 'io server disconnect') retryLater(next);
      });
      next.on('connect_error', (error: Refusal) => {
        setLive('lost');
        const { code, base_url } = error.data ?? {};
        if (code === 'wrong_region' && base_url !== undefined && !moved) {
          moved = true;
          next.close();
          open(base_url);
        } else if (code === 'invalid_token' || code === 'unauthenticated') {
          const session = currentSession(role);
          if (session === null) return;
          refresh(role, session.accessToken).then(
            (renewed) => {
              if (renewed && !ended) next.connect();
              else if (!renewed) signOut(role);
            },
            () => retryLater(next),
          );
        } else if (!next.active) {
          retryLater(next);
        }
      });
      next.on('ride:offer', (offer) => latest.current['ride:offer']?.(offer));
      next.on('ride:offer_withdrawn', (withdrawn) => latest.current['ride:offer_withdrawn']?.(withdrawn));
      next.on('ride:update', (ride) => latest.current['ride:update']?.(ride));
      next.on('driver:location', (location) => latest.current['driver:location']?.(location));
      next.on('payment:update', (payment) => latest.current['payment:update']?.(payment));
      next.on('share:update', (share) => latest.current['share:update']?.(share));
      setSocket(next);
    };
    const retryLater = (refused: RideSocket): void => {
      setTimeout(() => {
        if (!ended && current === refused) refused.connect();
      }, 500 + Math.random() * 4500);
    };

    open();
    return () => {
      ended = true;
      current?.close();
      setSocket(null);
      setLive('connecting');
    };
  }, [role, tenant, subject]);

  return { live, socket };
}
