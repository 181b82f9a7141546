import { describe, expect, it } from 'vitest';
import type { DriverLocation, Payment, Ride, RideStatus } from '../api/types';
import { follow, NOT_FOLLOWING, type Followed } from './follow';

function ride(status: RideStatus, more: Partial<Ride> = {}): Ride {
  return {
    id: 'r1',
    status,
    rider_id: 'a',
    pickup: { lat: 41.1, lng: -8.6 },
    dropoff: { lat: 41.2, lng: -8.6 },
    vehicle_class: 'standard',
    payment_method: { type: 'card' },
    fare: { amount: 900, currency: 'EUR' },
    requested_at: '2026-01-01T10:00:00Z',
    trip_id: 't1',
    ...more,
  };
}

const payment = (status: Payment['status'], more: Partial<Payment> = {}): Payment =>
  ({ id: 'p1', trip_id: 't1', kind: 'fare', status, amount: { amount: 900, currency: 'EUR' }, method: { type: 'card' }, ...more });
const car = (recorded_at: string, lat = 41.1): DriverLocation => ({ ride_id: 'r1', lat, lng: -8.6, recorded_at });
const following = (one: Ride): Followed => ({ ...NOT_FOLLOWING, ride: one });
const hearingOf = (one: Ride): Followed => follow(NOT_FOLLOWING, { type: 'ride', ride: one });

describe('follow', () => {
  it('follows a ride from request to completion', () => {
    const states: RideStatus[] = ['requested', 'offered', 'accepted', 'arrived', 'in_progress', 'completed'];
    const end = states.reduce((state, status) => follow(state, { type: 'ride', ride: ride(status) }), NOT_FOLLOWING);
    expect(end.ride?.status).toBe('completed');
  });

  it('lets an offer that ran out put the ride back to requested', () => {
    const state = follow(following(ride('offered')), { type: 'ride', ride: ride('requested') });
    expect(state.ride?.status).toBe('requested');
  });

  it('drops news that were overtaken', () => {
    const state = following(ride('accepted', { updated_at: '2026-01-01T10:00:05Z' }));
    const late = follow(state, { type: 'ride', ride: ride('offered', { updated_at: '2026-01-01T10:00:04Z' }) });
    expect(late).toBe(state);
  });

  it('stays with its ride while another one is told of', () => {
    const state = following(ride('accepted'));
    expect(follow(state, { type: 'ride', ride: ride('requested', { id: 'r2' }) })).toBe(state);
  });

  it('lets a ride booked ahead wait until drivers are asked', () => {
    const booked = ride('requested', { scheduled_at: '2026-01-01T18:00:00Z' });
    expect(hearingOf(booked)).toBe(NOT_FOLLOWING);
    expect(hearingOf({ ...booked, status: 'cancelled' })).toBe(NOT_FOLLOWING);
    const asked = hearingOf({ ...booked, status: 'offered' });
    expect(follow(asked, { type: 'ride', ride: booked }).ride?.status).toBe('requested');
  });

  it('keeps the newest place of the car and forgets it at the end', () => {
    let state = following(ride('accepted'));
    state = follow(state, { type: 'car', location: car('2026-01-01T10:00:10Z', 41.15) });
    state = follow(state, { type: 'car', location: car('2026-01-01T10:00:09Z', 41.1) });
    expect(state.car?.lat).toBe(41.15);
    state = follow(state, { type: 'ride', ride: ride('completed') });
    expect(state.car).toBeNull();
  });

  it('never takes a settled payment back to pending', () => {
    let state = following(ride('completed'));
    state = follow(state, { type: 'payment', payment: payment('settled') });
    state = follow(state, { type: 'payment', payment: payment('pending') });
    expect(state.payment?.status).toBe('settled');
  });

  it('takes the new payment after a declined one, and none of other trips, of a tip or of a share', () => {
    let state = following(ride('completed'));
    state = follow(state, { type: 'payment', payment: payment('failed') });
    state = follow(state, { type: 'payment', payment: payment('pending', { id: 'p2' }) });
    expect(state.payment?.id).toBe('p2');
    expect(follow(state, { type: 'payment', payment: payment('settled', { id: 'p3', trip_id: 't9' }) })).toBe(state);
    expect(follow(state, { type: 'payment', payment: payment('settled', { id: 'p4', kind: 'tip' }) })).toBe(state);
    expect(follow(state, { type: 'payment', payment: payment('settled', { id: 'p5', share_id: 's1' }) })).toBe(state);
  });
});
