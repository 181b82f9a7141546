import { expect, it } from 'vitest';
import { compare } from './compare';

it('names every setting by its path and marks what differs', () => {
  const before = { currency: 'EUR', tariffs: { standard: { base: 300 } }, labels: {} };
  const after = { currency: 'EUR', tariffs: { standard: { base: 350 } }, flags: { surge: false } };
  expect(compare(before, after)).toEqual([
    { path: 'currency', before: 'EUR', after: 'EUR', differs: false },
    { path: 'flags.surge', before: undefined, after: false, differs: true },
    { path: 'labels', before: {}, after: undefined, differs: true },
    { path: 'tariffs.standard.base', before: 300, after: 350, differs: true },
  ]);
});
