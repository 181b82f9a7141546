import { expect, it } from 'vitest';
import { kind, patchOf, textOf, valueFrom } from './edit';

it('writes one setting and touches no other, also where a name has a dot in it', () => {
  expect(patchOf(['tariffs', 'standard', 'base'], 350)).toEqual({ tariffs: { standard: { base: 350 } } });
  expect(patchOf(['labels', 'a.b'], null)).toEqual({ labels: { 'a.b': null } });
});

it('reads what is typed as the kind of value that is there', () => {
  expect(valueFrom('12', 'Cabs')).toBe('12');
  expect(valueFrom('12', 3)).toBe(12);
  expect(valueFrom('false', true)).toBe(false);
  expect(valueFrom('["auto","xl"]', ['auto'])).toEqual(['auto', 'xl']);
});

it('refuses what is of another kind', () => {
  expect(valueFrom('a lot', 3)).toBeUndefined();
  expect(valueFrom('"12"', 3)).toBeUndefined();
  expect(valueFrom('{}', ['auto'])).toBeUndefined();
  expect(kind(['auto'])).toBe('a list');
});

it('shows what can be typed again', () => {
  expect([textOf('Cabs'), textOf(3), textOf(['auto'])]).toEqual(['Cabs', '3', '["auto"]']);
});
