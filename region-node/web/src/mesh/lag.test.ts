import { describe, expect, it } from 'vitest';
import { behind, bytes, nameOf, seconds } from './lag';

const log = (lag_entries: number, lag_ms: number, credit_bytes: number | null) => ({
  lag_entries,
  lag_bytes: lag_entries * 200,
  lag_ms,
  credit_bytes,
});

describe('what a peer lacks', () => {
  it('is summed over the logs of a stream', () => {
    const logs = { 'us-east/1/ledger': log(3, 500, 2048), 'us-east/2/ledger': log(2, 900, null), 'us-east/1/config': log(7, 90, 1) };
    const peer = { region: 'eu-west', connected: true, rtt_ms: 80, lag_entries: 5, lag_ms: 900, logs };
    expect(behind(peer, 'ledger')).toEqual({ entries: 5, bytes: 1000, ms: 900, credit: 2048 });
    expect(behind(peer, 'control')).toEqual({ entries: 0, bytes: 0, ms: 0, credit: null });
  });

  it('is written in units', () => {
    expect([bytes(0), bytes(1023), bytes(1536), bytes(-2 * 1024 * 1024)]).toEqual(['0 B', '1023 B', '1.5 KiB', '-2.0 MiB']);
    expect([seconds(0), seconds(1234), seconds(61_000)]).toEqual(['–', '1.2 s', '61 s']);
    expect(nameOf({ origin: 'eu-west', incarnation: 1, stream: 'ledger', seq: 7 })).toBe('eu-west/1/ledger/7');
  });
});
