import type { PaymentStatus, RideStatus, ShareStatus, TripStatus } from '../api/types';
import { Badge, type Tone } from './controls';

const RIDE: Record<RideStatus | TripStatus, { tone: Tone; words: string }> = {
  requested: { tone: 'warn', words: 'Requested' },
  offered: { tone: 'warn', words: 'Offered' },
  accepted: { tone: 'info', words: 'Accepted' },
  arrived: { tone: 'info', words: 'Driver there' },
  in_progress: { tone: 'info', words: 'In progress' },
  paused: { tone: 'warn', words: 'Paused' },
  completed: { tone: 'good', words: 'Completed' },
  cancelled: { tone: 'bad', words: 'Cancelled' },
  expired: { tone: 'plain', words: 'No driver found' },
};

export function RideBadge({ status }: { status: RideStatus | TripStatus }) {
  const { tone, words } = RIDE[status];
  return <Badge tone={tone}>{words}</Badge>;
}

const PAYMENT: Record<PaymentStatus, { tone: Tone; words: string }> = {
  pending: { tone: 'warn', words: 'Pending' },
  authorized: { tone: 'info', words: 'Authorized' },
  settled: { tone: 'good', words: 'Paid' },
  failed: { tone: 'bad', words: 'Declined' },
  refunded: { tone: 'plain', words: 'Refunded' },
  partially_refunded: { tone: 'plain', words: 'Partly refunded' },
  unknown: { tone: 'warn', words: 'Being checked' },
};

export function PaymentBadge({ status }: { status: PaymentStatus }) {
  const { tone, words } = PAYMENT[status];
  return <Badge tone={tone}>{words}</Badge>;
}

const SHARE: Record<ShareStatus, { tone: Tone; words: string }> = {
  invited: { tone: 'warn', words: 'Asked' },
  accepted: { tone: 'good', words: 'Accepted' },
  declined: { tone: 'plain', words: 'Declined' },
  withdrawn: { tone: 'plain', words: 'Taken back' },
  lapsed: { tone: 'plain', words: 'Over' },
  fixed: { tone: 'info', words: 'Being charged' },
  fallen_back: { tone: 'warn', words: 'Card declined' },
};

export function ShareBadge({ status }: { status: ShareStatus }) {
  const { tone, words } = SHARE[status];
  return <Badge tone={tone}>{words}</Badge>;
}
