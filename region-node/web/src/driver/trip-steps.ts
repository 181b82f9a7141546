import type { TripStep } from '../api/calls';
import type { TripStatus } from '../api/types';

/** What a driver may do next, the usual step first. */
export function nextSteps(status: TripStatus): readonly TripStep[] {
  switch (status) {
    case 'accepted':
      return ['arrive'];
    case 'arrived':
      return ['start'];
    case 'in_progress':
      return ['end', 'pause'];
    case 'paused':
      return ['resume', 'end'];
    case 'completed':
    case 'cancelled':
      return [];
  }
}

export const STEP_WORDS: Record<TripStep, string> = {
  arrive: 'I have arrived',
  start: 'Start trip',
  pause: 'Pause',
  resume: 'Resume',
  end: 'End trip',
};

export const TRIP_HEADLINE: Record<TripStatus, string> = {
  accepted: 'Drive to the pick-up',
  arrived: 'Wait for your rider',
  in_progress: 'Drive to the drop-off',
  paused: 'Trip paused',
  completed: 'Trip completed',
  cancelled: 'Ride cancelled',
};
