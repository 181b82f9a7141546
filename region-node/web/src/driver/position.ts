import { useCallback, useEffect, useRef, useState } from 'react';
import { sendLocation, type Position } from '../api/calls';
import { clientOf } from '../api/session';
import type { RideSocket } from '../api/socket';
import { bearing, distanceM, stepTowards, type Point } from '../lib/geo';

export interface Here extends Point {
  heading: number | null;
}

const KEY = 'gocomet.driver.position';
const TICK_MS = 1000;
/** A driver who stands still says so this often; a position older than a minute is forgotten by the region. */
const STILL_EVERY_MS = 10_000;

function remembered(subject: string): Here | null {
  try {
    const stored = JSON.parse(sessionStorage.getItem(KEY) ?? 'null') as ({ subject: string } & Here) | null;
    return stored?.subject === subject ? { lat: stored.lat, lng: stored.lng, heading: stored.heading } : null;
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
export function useAutopilot(active: boolean, here: Here | null, target: Point | null, speedKmh: number, place: (point: Point) => void): void {
  const latest = useRef({ here, target, speedKmh });
  useEffect(() => {
    latest.current = { here, target, speedKmh };
  });
  useEffect(() => {
    if (!active) return;
    const timer = window.setInterval(() => {
      const { here, target, speedKmh } = latest.current;
      if (here === null || target === null || distanceM(here, target) < 1) return;
      place(stepTowards(here, target, (speedKmh / 3.6) * (TICK_MS / 1000)));
    }, TICK_MS);
    return () => window.clearInterval(timer);
  }, [active, place]);
}

/** Tells the region where the driver is: each second while moving, seldom while standing; over the socket if there is one. */
export function useReporting(online: boolean, subject: string, here: Here | null, socket: RideSocket | null): void {
  const latest = useRef({ here, socket });
  const sent = useRef<{ at: number; point: Point } | null>(null);
  useEffect(() => {
    latest.current = { here, socket };
  });
  const report = useCallback(() => {
    const { here, socket } = latest.current;
    if (here === null) return;
    const now = Date.now();
    const last = sent.current;
    const moved = last === null ? Infinity : distanceM(last.point, here);
    if (last !== null && moved < 1 && now - last.at < STILL_EVERY_MS) return;
    const elapsedS = last === null ? 0 : (now - last.at) / 1000;
    const position: Position = {
      lat: here.lat,
      lng: here.lng,
      ...(here.heading === null ? {} : { heading: Math.round(here.heading) % 360 }),
      ...(elapsedS > 0 && elapsedS < 30 ? { speed: Math.round((moved / elapsedS) * 10) / 10 } : {}),
      recorded_at: new Date(now).toISOString(),
    };
    sent.current = { at: now, point: here };
    if (socket?.connected === true) socket.emit('location:update', position);
    else {
      // The next second tries again with a newer position; the socket's state is what the driver is shown.
      sendLocation(clientOf('driver'), subject, position).catch(() => {
        sent.current = last;
      });
    }
  }, [subject]);

  useEffect(() => {
    if (!online) return;
    sent.current = null;
    report();
    const timer = window.setInterval(report, TICK_MS);
    return () => window.clearInterval(timer);
  }, [online, report]);
}
