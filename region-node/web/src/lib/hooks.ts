import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from 'react';
import { newKey } from './key';

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  loading: boolean;
  reload: () => void;
}

/**
 * Loads something when `key` changes, and again every `everyMs` while the page is visible. What was loaded for another
 * key is not shown; an error keeps the last good answer beside it. A null key loads nothing. `onData` hears of each answer,
 * for what has to be merged with other news.
 */
export function useLoad<T>(
  key: string | null,
  load: (signal: AbortSignal) => Promise<T>,
  everyMs?: number,
  onData?: (data: T) => void,
): Loaded<T> {
  const [state, setState] = useState<{ key: string | null; data: T | null; error: unknown }>({ key: null, data: null, error: null });
  const [round, setRound] = useState(0);
  const latest = useRef({ load, onData });
  useEffect(() => {
    latest.current = { load, onData };
  });

  useEffect(() => {
    if (key === null) return;
    const abort = new AbortController();
    let timer: number | undefined;
    const run = async (): Promise<void> => {
      if (document.visibilityState === 'visible' || everyMs === undefined) {
        try {
          const data = await latest.current.load(abort.signal);
          if (abort.signal.aborted) return;
          setState({ key, data, error: null });
          latest.current.onData?.(data);
        } catch (error) {
          if (abort.signal.aborted) return;
          setState((before) => ({ key, data: before.key === key ? before.data : null, error }));
        }
      }
      if (everyMs !== undefined && !abort.signal.aborted) timer = window.setTimeout(() => void run(), everyMs);
    };
    void run();
    return () => {
      abort.abort();
      window.clearTimeout(timer);
    };
  }, [key, everyMs, round]);

  const reload = useCallback(() => setRound((value) => value + 1), []);
  const mine = key !== null && state.key === key;
  return { data: mine ? state.data : null, error: mine ? state.error : null, loading: key !== null && !mine, reload };
}

/** The time, again every so often, for countdowns. */
export function useNow(everyMs: number, running = true): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (!running) return;
    const tick = (): void => setNow(Date.now());
    const first = window.setTimeout(tick, 0);
    const timer = window.setInterval(tick, everyMs);
    return () => {
      window.clearTimeout(first);
      window.clearInterval(timer);
    };
  }, [everyMs, running]);
  return now;
}

export function useOnline(): boolean {
  return useSyncExternalStore(
    (listener) => {
      window.addEventListener('online', listener);
      window.addEventListener('offline', listener);
      return () => {
        window.removeEventListener('online', listener);
        window.removeEventListener('offline', listener);
      };
    },
    () => navigator.onLine,
  );
}

export interface Action<A extends unknown[]> {
  run: (...args: A) => Promise<boolean>;
  busy: boolean;
  error: unknown;
  clear: () => void;
}

/** Runs one command at a time and keeps its failure for the screen; answers whether it went well. */
export function useAction<A extends unknown[]>(command: (...args: A) => Promise<void>): Action<A> {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const running = useRef(false);
  const latest = useRef(command);
  useEffect(() => {
    latest.current = command;
  });
  const run = useCallback(async (...args: A): Promise<boolean> => {
    if (running.current) return false;
    running.current = true;
    setBusy(true);
    setError(null);
    try {
      await latest.current(...args);
      return true;
    } catch (failure) {
      setError(failure);
      return false;
    } finally {
      running.current = false;
      setBusy(false);
    }
  }, []);
  const clear = useCallback(() => setError(null), []);
  return { run, busy, error, clear };
}

/**
 * One idempotency key per attempt: the same while the same thing is tried again, a new one once it succeeded or is
 * about something else.
 */
export function useAttemptKey(): { keyFor: (what: unknown) => string; done: () => void } {
  const attempt = useRef<{ what: string; key: string } | null>(null);
  const keyFor = useCallback((what: unknown): string => {
    const text = JSON.stringify(what);
    if (attempt.current?.what !== text) attempt.current = { what: text, key: newKey() };
    return attempt.current.key;
  }, []);
  const done = useCallback(() => {
    attempt.current = null;
  }, []);
  return { keyFor, done };
}
