import type { DriverLocation, Payment, Ride, RideStatus } from '../api/types';

/** What the rider's screen knows of the ride it follows. */
export interface Followed {
  ride: Ride | null;
  car: DriverLocation | null;
  payment: Payment | null;
}

export type FollowEvent =
  | { type: 'ride'; ride: Ride }
  | { type: 'car'; location: DriverLocation }
  | { type: 'payment'; payment: Payment }
  | { type: 'leave' };

export const NOT_FOLLOWING: Followed = { ride: null, car: null, payment: null };

const ORDER: Record<RideStatus, number> = {
  requested: 0,
  offered: 0,
  accepted: 1,
  arrived: 2,
  in_progress: 3,
  completed: 4,
  cancelled: 4,
  expired: 4,
};

export function isOver(status: RideStatus): boolean {
  return ORDER[status] === 4;
}

export function hasDriver(status: RideStatus): boolean {
  return ORDER[status] >= 1 && ORDER[status] <= 3;
}

/** Whether a ride is what its rider is busy with; one booked ahead is not, until drivers are asked. */
export function isUnderWay(ride: Ride): boolean {
  return !isOver(ride.status) && (ride.scheduled_at == null || ride.status !== 'requested');
}

/**
 * Takes what arrived, in whatever order it came: answers and events overtake each other, so older news of the same
 * ride, car or payment is dropped.
 */
export function follow(state: Followed, event: FollowEvent): Followed {
  switch (event.type) {
    case 'ride':
      return followRide(state, event.ride);
    case 'car': {
      const { ride, car } = state;
      if (ride?.id !== event.location.ride_id || !hasDriver(ride.status)) return state;
      if (car !== null && Date.parse(car.recorded_at) > Date.parse(event.location.recorded_at)) return state;
      return { ...state, car: event.location };
    }
    case 'payment': {
      const { ride, payment } = state;
      if (ride === null || event.payment.trip_id == null || event.payment.trip_id !== ride.trip_id) return state;
      if (event.payment.kind === 'tip' || event.payment.share_id != null) return state;
      const same = payment?.id === event.payment.id;
      if (same && isFinal(payment) && !isFinal(event.payment)) return state;
      return { ...state, payment: event.payment };
    }
    case 'leave':
      return NOT_FOLLOWING;
  }
}

function followRide(state: Followed, ride: Ride): Followed {
  const before = state.ride;
  if (before?.id !== ride.id) {
    const free = before === null || isOver(before.status);
    return free && isUnderWay(ride) ? { ride, car: null, payment: null } : state;
  }
  if (isOlder(ride, before)) return state;
  return { ...state, ride, car: hasDriver(ride.status) ? state.car : null };
}

function isOlder(news: Ride, known: Ride): boolean {
  if (news.updated_at !== undefined && known.updated_at !== undefined) {
    return Date.parse(news.updated_at) < Date.parse(known.updated_at);
  }
  return ORDER[news.status] < ORDER[known.status];
}

export function isFinal(payment: Payment): boolean {
  return payment.status !== 'pending' && payment.status !== 'authorized' && payment.status !== 'unknown';
}
