import { expect, it } from 'vitest';
import type { Route } from '../api/types';
import { atHomeIn, tenantOf } from './tenants';

const route = (tenant: string, home_region: string): Route => ({ tenant, home_region, base_url: 'http://127.0.0.1:1', name: tenant });

it('opens with the company at home in the region that answers', () => {
  const routes = [route('manhattan-cabs', 'us-east'), route('porto-taxis', 'eu-west')];
  expect(atHomeIn('eu-west', routes)).toBe('porto-taxis');
  expect(atHomeIn('ap-south', routes)).toBe('manhattan-cabs');
  expect(atHomeIn('eu-west', [])).toBeNull();
});

it("takes a company's map and vehicles from its config", () => {
  const told = tenantOf({ ...route('limos', 'us-east'), map: { lat: 1, lng: 2, zoom: 11 }, vehicle_classes: ['auto', 'xl'] });
  expect(told.view).toEqual({ centre: { lat: 1, lng: 2 }, zoom: 11 });
  expect(told.vehicleClasses).toEqual(['auto', 'xl']);
});

it('has no place on the map for a company that names none', () => {
  expect(tenantOf(route('limos', 'us-east'))).toMatchObject({ view: null, vehicleClasses: ['standard'] });
});
