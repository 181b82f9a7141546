import { describe, expect, it } from 'vitest';
import { monthsSpan } from './months';

describe('a month', () => {
  it('ends where the next one begins, also over the turn of a year', () => {
    const now = new Date(2026, 0, 31, 23, 59);
    expect(monthsSpan('last', now)).toEqual({ from: new Date(2025, 11, 1), to: new Date(2026, 0, 1), name: '2025-12' });
    expect(monthsSpan('this', now)).toEqual({ from: new Date(2026, 0, 1), to: new Date(2026, 1, 1), name: '2026-01' });
  });
});
