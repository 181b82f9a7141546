import { useEffect, useRef, useState } from 'react';
import type { Page } from '../api/types';

interface Pages<T> {
  items: T[];
  error: unknown;
  loading: boolean;
  hasMore: boolean;
  more: () => void;
  reload: () => void;
}

/** A list read page by page, from the start again when `key` changes. */
export function usePages<T>(key: string, load: (cursor: string | undefined, signal: AbortSignal) => Promise<Page<T>>): Pages<T> {
  const [want, setWant] = useState<{ key: string; cursor: string | undefined; round: number }>({ key, cursor: undefined, round: 0 });
  const [state, setState] = useState<{ key: string; items: T[]; next: string | null; error: unknown; loaded: boolean }>({
    key,
    items: [],
    next: null,
    error: null,
    loaded: false,
  });
  const latest = useRef(load);
  useEffect(() => {
    latest.current = load;
  });

  const cursor = want.key === key ? want.cursor : undefined;
  useEffect(() => {
    const abort = new AbortController();
    latest.current(cursor, abort.signal).then(
      (page) => {
        if (abort.signal.aborted) return;
        setState((before) => ({
          key,
          items: cursor === undefined || before.key !== key ? page.items : [...before.items, ...page.items],
          next: page.next_cursor,
          error: null,
          loaded: true,
        }));
      },
      (error: unknown) => {
        if (abort.signal.aborted) return;
        setState((before) => ({ ...(before.key === key ? before : { items: [], next: null }), key, error, loaded: true }));
      },
    );
    return () => abort.abort();
  }, [key, cursor, want.round]);

  const mine = state.key === key;
  const next = mine ? state.next : null;
  return {
    items: mine ? state.items : [],
    error: mine ? state.error : null,
    loading: !mine || !state.loaded,
    hasMore: next !== null,
    more: () => {
      if (next !== null) setWant((before) => ({ key, cursor: next, round: before.round }));
    },
    reload: () => setWant((before) => ({ key, cursor: undefined, round: before.round + 1 })),
  };
}
