import { expect, it } from 'vitest';
import { cityAt } from './cities';
import { describe as name, search } from './places';

const PLACES = [
  { name: 'Alameda', lat: 41.156, lng: -8.591 },
  { name: 'Campanhã', lat: 41.1496, lng: -8.5855 },
];

it('finds places without their accents', () => {
  expect(search('campanha', PLACES).map((place) => place.name)).toEqual(['Campanhã']);
  expect(search('zzz', PLACES)).toEqual([]);
});

it('names a point after what is close, or not at all', () => {
  expect(name({ lat: 41.156, lng: -8.591 }, PLACES)).toBe('Alameda');
  expect(name({ lat: 41.158, lng: -8.592 }, PLACES)).toBe('near Alameda');
  expect(name({ lat: 40, lng: -8 }, PLACES)).toBeNull();
});

it('knows the city of a point', () => {
  expect(cityAt({ lat: 12.97, lng: 77.6 })?.name).toBe('Bengaluru');
  expect(cityAt({ lat: 0, lng: 0 })).toBeNull();
});
