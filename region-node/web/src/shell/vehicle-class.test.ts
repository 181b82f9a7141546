import { expect, it } from 'vitest';
import { usualClass, vehicleClassName } from './vehicle-class';

it('names a vehicle class in words', () => {
  expect(['standard', 'xl', 'wheelchair_van', 'ev-xl'].map(vehicleClassName)).toEqual(['Standard', 'XL', 'Wheelchair van', 'EV XL']);
});

it('begins with the standard class where there is one', () => {
  expect(usualClass(['auto', 'standard', 'xl'])).toBe('standard');
  expect(usualClass(['auto', 'moto'])).toBe('auto');
  expect(usualClass([])).toBeNull();
});
