import { expect, it } from 'vitest';
import { compare } from './compare';

it('names every setting by its path and marks what differs', () => {
  const before = { currency: 'EUR', tariffs: { standard: { base: 300 } }, labels: {} };
  const after = { currency: 'EUR', tariffs: { standard: { base: 350 } }, flags: { surge: false } };
  expect(compare(before, after)).toEqual([
    { keys: ['currency'], before: 'EUR', after: 'EUR', differs: false },
    { keys: ['flags', 'surge'], before: undefined, after: false, differs: true },
    { keys: ['labels'], before: {}, after: undefined, differs: true },
    { keys: ['tariffs', 'standard', 'base'], before: 300, after: 350, differs: true },
  ]);
});
