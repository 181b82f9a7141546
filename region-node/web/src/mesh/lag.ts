import type { EntryPlace, FactStream, PeerStatus } from '../api/types';

interface Behind {
  entries: number;
  bytes: number;
  ms: number;
  /** Null if it pulls no log of the stream. */
  credit: number | null;
}

/** What a peer lacks of all logs of one stream, and what it may be sent. */
export function behind(peer: PeerStatus, stream: FactStream): Behind {
  const logs = Object.entries(peer.logs ?? {}).filter(([log]) => log.endsWith(`/${stream}`));
  return logs.reduce<Behind>(
    (sum, [, log]) => ({
      entries: sum.entries + log.lag_entries,
      bytes: sum.bytes + log.lag_bytes,
      ms: Math.max(sum.ms, log.lag_ms),
      credit: log.credit_bytes == null ? sum.credit : (sum.credit ?? 0) + log.credit_bytes,
    }),
    { entries: 0, bytes: 0, ms: 0, credit: null },
  );
}

/** An entry by its name, as logs and answers write it. */
export const nameOf = ({ origin, incarnation, stream, seq }: EntryPlace): string => `${origin}/${incarnation}/${stream}/${seq}`;

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let value = count;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export const seconds = (ms: number): string => (ms === 0 ? '–' : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`);
