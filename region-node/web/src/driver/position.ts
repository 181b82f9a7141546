import { useCallback, useEffect, useRef, useState } from 'react';
import { sendLocation, type Position } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf } from '../api/session';
import type { PositionAnswer, RideSocket } from '../api/socket';
import type { Taken } from '../api/types';
import { bearing, distanceM, type Point } from '../lib/geo';
import { drive, type Speed } from './autopilot';
import { Unsent } from './unsent';

export interface Here extends Point {
  heading: number | null;
  /** Since when, milliseconds since 1970. */
  at: number;
}

const KEY = 'gocomet.driver.position';
const TICK_MS = 1000;
/** A driver who stands still says so this often; a position older than a minute is forgotten by the region. */
const STILL_EVERY_MS = 10_000;

/** The region answers sooner, if only to say that it could not; a lost connection is told at once. */
const ANSWER_WITHIN_MS = 25_000;

/** An answer later than this says nothing of how it is now. */
const IS_NEWS_WITHIN_MS = 5000;

/** For how long nothing but the newest position is sent when the region has had enough. */
const REST_MS = 5000;

/** A trip's end waits for its positions as long as this, not for ever: without a network it ends all the same. */
const SETTLED_WITHIN_MS = 10_000;

/** Faster is no drive but a car put somewhere else on the map. */
const FASTEST_M_PER_S = 60;

function remembered(subject: string): Here | null {
  try {
    const stored = JSON.parse(sessionStorage.getItem(KEY) ?? 'null') as ({ subject: string } & Here) | null;
    return stored?.subject === subject ? { lat: stored.lat, lng: stored.lng, heading: stored.heading, at: stored.at } : null;
  } catch {
    return null;
  }
}

interface DriverPosition {
  here: Here | null;
  place: (point: Point) => void;
  following: boolean;
  follow: (on: boolean) => void;
  error: string | null;
}

/** Where the driver is: placed by hand, or followed by the device's geolocation. */
export function usePosition(subject: string): DriverPosition {
  const [here, setHere] = useState<Here | null>(() => remembered(subject));
  const [following, setFollowing] = useState(false);
  const [error, setError] = useState<string | null>(null);

  const place = useCallback(
    (point: Point) =>
      setHere((before) => ({
        lat: point.lat,
        lng: point.lng,
        heading: before !== null && distanceM(before, point) > 1 ? bearing(before, point) : (before?.heading ?? null),
        at: Date.now(),
      })),
    [],
  );

  useEffect(() => {
    if (here !== null) sessionStorage.setItem(KEY, JSON.stringify({ subject, ...here }));
  }, [subject, here]);

  useEffect(() => {
    const geolocation = (navigator as Partial<Navigator>).geolocation;
    if (!following || geolocation === undefined) return;
    const watch = geolocation.watchPosition(
      ({ coords }) => {
        setError(null);
        place({ lat: coords.latitude, lng: coords.longitude });
      },
      () => {
        setFollowing(false);
        setError('Your position is not available. Place yourself on the map.');
      },
      { enableHighAccuracy: true, maximumAge: 5000 },
    );
    return () => geolocation.clearWatch(watch);
  }, [following, place]);

  const follow = useCallback((on: boolean) => {
    setError(null);
    setFollowing(on);
  }, []);
  return { here, place, following, follow, error };
}

/** Moves the driver once a second on the straight line to a target until it is reached; for demos and tests. */
export function useAutopilot(active: boolean, here: Here | null, target: Point | null, speed: Speed, place: (point: Point) => void): void {
  const latest = useRef({ here, target, speed });
  useEffect(() => {
    latest.current = { here, target, speed };
  });
  const goal = active && target !== null ? `${target.lat} ${target.lng}` : null;
  useEffect(() => {
    if (goal === null) return;
    let before = Date.now();
    const timer = window.setInterval(() => {
      const { here, target, speed } = latest.current;
      const now = Date.now();
      const next = here === null || target === null ? null : drive(here, target, speed, now - before);
      before = now;
      if (next !== null) place(next);
    }, TICK_MS);
    return () => window.clearInterval(timer);
  }, [goal, place]);
}

interface Reporting {
  /** How many seconds old the last position was when it came, if that is too old for anybody to find the driver there. */
  lateS: number | null;
  /** Waits, not for ever, until the region has all positions of the trip. */
  settle: () => Promise<void>;
}

/**
 * Tells the region where the driver is: each second while moving, seldom while standing, and at once when `moment` changes;
 * over the socket if there is one. What is not acknowledged of a running trip is sent again.
 */
export function useReporting(
  online: boolean,
  subject: string,
  here: Here | null,
  socket: RideSocket | null,
  moment: string,
  onTrip: boolean,
): Reporting {
  const [lateS, setLateS] = useState<number | null>(null);
  const latest = useRef({ here, socket, onTrip });
  const unsent = useRef(new Unsent());
  const unanswered = useRef(0);
  const restUntil = useRef(0);
  const sent = useRef<{ at: number; point: Point } | null>(null);
  useEffect(() => {
    latest.current = { here, socket, onTrip };
    if (!onTrip) unsent.current.forget();
  });
  const report = useCallback(() => {
    const { here, socket, onTrip } = latest.current;
    if (here === null) return;
    const now = Date.now();
    const last = sent.current;
    const moved = last === null ? 0 : distanceM(last.point, here);
    const moving = moved >= 1;
    if (last !== null && !moving && unsent.current.isEmpty && now - last.at < STILL_EVERY_MS) return;
    // Where a moving car was when, not when this was told: the fare is counted from it.
    const at = moving ? here.at : now;
    const elapsedS = last === null ? 0 : (at - last.at) / 1000;
    const speed = elapsedS > 0 && elapsedS < 30 ? Math.round((moved / elapsedS) * 10) / 10 : Infinity;
    const position: Position = {
      lat: here.lat,
      lng: here.lng,
      ...(here.heading === null ? {} : { heading: Math.round(here.heading) % 360 }),
      ...(speed <= FASTEST_M_PER_S ? { speed } : {}),
      recorded_at: new Date(at).toISOString(),
    };
    sent.current = { at, point: here };
    const positions = now < restUntil.current ? [position] : unsent.current.withOldest(position);
    const taken = (answer: Taken): void => {
      if (Date.now() - now < IS_NEWS_WITHIN_MS) setLateS(answer.late_s ?? null);
    };
    const failed = (code?: string): void => {
      if (code === 'rate_limited') restUntil.current = Date.now() + REST_MS;
      // Refused for good is the newest at fault; the others had been taken as they are.
      const again = code === 'validation_failed' ? positions.slice(0, -1) : positions;
      if (onTrip) unsent.current.keep(again);
    };
    const over = (): void => {
      unanswered.current--;
    };
    unanswered.current++;
    if (socket?.connected === true) {
      // Without an answer what was known before stands, beside the socket's state.
      const answered = (answer: PositionAnswer): void => (answer.ok ? taken(answer) : failed(answer.code));
      const lost = (): void => failed();
      void socket.timeout(ANSWER_WITHIN_MS).emitWithAck('location:update', positions).then(answered, lost).finally(over);
    } else {
      // The next second tries again with a newer position; the socket's state is what the driver is shown.
      const refused = (error: unknown): void => {
        failed(error instanceof ApiError ? error.code : undefined);
        sent.current = last;
      };
      void sendLocation(clientOf('driver'), subject, positions).then(taken, refused).finally(over);
    }
  }, [subject]);

  useEffect(() => {
    if (!online) return;
    sent.current = null;
    report();
    const timer = window.setInterval(report, TICK_MS);
    return () => window.clearInterval(timer);
  }, [online, moment, report]);

  // A step is told when it is made, so that the last one before a trip's end is not missing from it.
  const at = here?.at;
  useEffect(() => {
    if (online && at !== undefined && at - (sent.current?.at ?? 0) >= TICK_MS / 2) report();
  }, [online, at, report]);
  const settle = useCallback(async () => {
    const begun = Date.now();
    while ((unanswered.current > 0 || !unsent.current.isEmpty) && Date.now() - begun < SETTLED_WITHIN_MS) {
      await new Promise((resolve) => window.setTimeout(resolve, 100));
    }
  }, []);
  return { lateS: online ? lateS : null, settle };
}
