import { expect, it } from 'vitest';
import migration from '../../../../migrations/0003_payments.sql?raw';
import { inWords } from './differences';

it('has words for every class the database knows', () => {
  const known = /class\s+text NOT NULL CHECK \(class IN\s+\(([^)]+)\)/.exec(migration)?.[1] ?? '';
  const classes = [...known.matchAll(/'(\w+)'/g)].map((match) => match[1] ?? '');
  expect(classes).toContain('charged_twice');
  for (const name of classes) expect(inWords(name), name).not.toBe(name.replaceAll('_', ' '));
});

it('shows what it does not know as it is', () => {
  expect(inWords('something_new')).toBe('something new');
});
