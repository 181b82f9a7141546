import type { Money } from '../lib/money';
import type { Point } from '../lib/geo';

export type Role = 'rider' | 'driver' | 'tenant_admin' | 'operator';

export interface TokenAnswer {
  access_token: string;
  token_type: string;
  expires_in: number;
  refresh_token: string;
  role: Role;
  subject: string;
}

export interface Route {
  tenant: string;
  home_region: string;
  base_url: string;
  name: string;
  /** Missing until the company says where its map opens. */
  map?: { lat: number; lng: number; zoom: number };
  /** Missing where the company's config has not arrived yet. */
  vehicle_classes?: string[];
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

export interface Place extends Point {
  address?: string | null;
}

export interface Vehicle {
  class: string;
  plate: string;
  model: string;
  seats: number;
}

export interface Estimate {
  quote_id: string;
  fare: Money;
  /** What the promotion took off; missing without one. */
  discount?: Money;
  surge_multiplier: number;
  distance_m: number;
  duration_s: number;
  pickup_eta_s: number | null;
  expires_at: string;
}

export type RideStatus =
  | 'requested'
  | 'offered'
  | 'accepted'
  | 'arrived'
  | 'in_progress'
  | 'completed'
  | 'cancelled'
  | 'expired';

export interface PaymentMethod {
  type: 'card' | 'cash' | 'wallet';
}

export interface Ride {
  id: string;
  status: RideStatus;
  rider_id: string;
  driver_id?: string | null;
  trip_id?: string | null;
  pickup: Place;
  dropoff: Place;
  vehicle_class: string;
  payment_method: PaymentMethod;
  fare: Money;
  surge_multiplier?: number;
  pin?: string | null;
  driver?: { name: string; rating?: number | null; vehicle: Vehicle } | null;
  rider?: { name: string } | null;
  pickup_eta_s?: number | null;
  /** The driver brings somebody else to their place first. */
  driver_ends_trip_first?: boolean;
  requested_at: string;
  scheduled_at?: string | null;
  cancelled_by?: string | null;
  cancel_reason?: string | null;
  cancellation_fee?: Money | null;
  updated_at?: string;
}

/** What came of a driver's positions. */
export interface Taken {
  /** Seconds since the newest was recorded, if that is too long for anybody to find the driver there. */
  late_s?: number | null;
}

export interface Offer {
  offer_id: string;
  ride_id: string;
  pickup: Place;
  dropoff: Place;
  fare: Money;
  pickup_eta_s: number;
  /** The trip the driver ends first. */
  after_trip_id?: string | null;
  expires_at: string;
}

export type TripStatus = 'accepted' | 'arrived' | 'in_progress' | 'paused' | 'completed' | 'cancelled';

export interface FareLine {
  code: string;
  description: string;
  amount: Money;
}

export interface Fare {
  total: Money;
  lines: FareLine[];
}

export interface Trip {
  id: string;
  ride_id: string;
  /** The trip its driver ends first. */
  after_trip_id?: string | null;
  rider_id: string;
  driver_id: string;
  status: TripStatus;
  pickup: Place;
  dropoff: Place;
  accepted_at: string;
  arrived_at?: string | null;
  started_at?: string | null;
  ended_at?: string | null;
  distance_m?: number | null;
  duration_s?: number | null;
  fare?: Fare | null;
  /** What of the fare others pay as their shares. */
  shared?: Money | null;
  payment_id?: string | null;
}

export type PaymentStatus =
  | 'pending'
  | 'authorized'
  | 'settled'
  | 'failed'
  | 'refunded'
  | 'partially_refunded'
  | 'unknown';

export interface Payment {
  id: string;
  trip_id?: string | null;
  /** The share of a fare that is paid; missing where it is the rider's own part. */
  share_id?: string | null;
  kind: 'fare' | 'cancellation_fee' | 'no_show_fee' | 'tip' | 'top_up';
  status: PaymentStatus;
  amount: Money;
  refunded?: Money | null;
  method: PaymentMethod;
  failure_code?: string | null;
  /** Why it failed, for people, where no payment service was asked. */
  failure_reason?: string | null;
  settled_at?: string | null;
  remote_durable_at?: string | null;
}

/** What goes back of a payment, to where it came from or into the wallet. */
export interface ReceiptRefund {
  status: 'pending' | 'authorized' | 'settled' | 'failed' | 'unknown';
  amount: Money;
  to: 'source' | 'wallet';
}

/** A bank takes money back, or has tried to. */
export interface Dispute {
  status: 'open' | 'won' | 'lost';
  amount: Money;
}

/** A payment of a trip, and what came of it. */
export interface ReceiptPart {
  id: string;
  kind: Payment['kind'];
  /** First name of whose share of the fare it pays; missing where it is the rider's own part. */
  share_of?: string | null;
  status: PaymentStatus;
  method: PaymentMethod['type'];
  amount: Money;
  refunds: ReceiptRefund[];
  disputes: Dispute[];
}

export interface Receipt {
  payments: ReceiptPart[];
}

/** A movement of a rider's wallet; negative: spent. */
export interface WalletEntry {
  entry_id: string;
  kind:
    | 'credit'
    | 'settlement'
    | 'cancellation_fee'
    | 'no_show_fee'
    | 'tip'
    | 'top_up'
    | 'withdrawal'
    | 'adjustment'
    | 'refund'
    | 'recovered';
  amount: Money;
  posted_at: string;
  /** Of a credit, a refund or a withdrawal. */
  reason?: string | null;
}

/** What a rider has with the company, and a page of what it has moved by, the newest first. */
export interface Wallet extends Page<WalletEntry> {
  rider_id: string;
  balance: Money;
}

/** A driver's balance in one currency. */
export interface Balance {
  /** Negative: the driver owes it. */
  balance: Money;
  /** Not paid out before another region has stored the settlements behind it. */
  held: Money;
  payable: Money;
}

export interface DriverBalance {
  driver_id: string;
  balances: Balance[];
}

export interface TenantBalances {
  /** Positive: owed to the account's holder; negative: held by it. */
  accounts: { account: string; balance: Money }[];
  drivers: { coming: Money; owed: Money }[];
  /** What is in all riders' wallets together. */
  riders: Money[];
}

export interface Payout {
  payout_id: string;
  driver_id: string;
  amount: Money;
  /** The day a daily one is of. */
  day?: string;
  /** Shown to the back office alone. */
  made_by?: string;
  created_at: string;
}

/** A payment or refund that was given up, or a refund that its bank has sent back. */
export interface GivenUp {
  id: string;
  amount: Money;
  created_at: string;
  /** Of a refund. */
  payment_id?: string;
  sent_back?: boolean;
  /** The bank's reason. */
  failure_code?: string | null;
  /** Since somebody had it tried again last. */
  attempts: number;
  last_error?: string | null;
  retried_by?: string | null;
}

/** A dispute about a charge whose payment is not here. */
export interface StrayDispute {
  id: string;
  payment_id: string;
  provider: string;
  provider_ref: string;
  charge_ref: string;
  status: 'open' | 'won' | 'lost';
  amount: Money;
  opened_at: string;
}

/** A comparison of an account at a payment service with the books here. */
export interface Reconciliation {
  id: string;
  provider: string;
  /** The day (UTC) a daily one is of. */
  day?: string | null;
  from: string;
  to: string;
  status: 'running' | 'completed' | 'failed';
  failure?: string | null;
  listed: number;
  differences: number;
}

/** What the two sides do not agree on. */
export interface Difference {
  id: string;
  class: string;
  payment_id?: string | null;
  refund_id?: string | null;
  provider_ref?: string | null;
  here?: Seen | null;
  there?: Seen | null;
}

/** How one side sees it. */
interface Seen extends Money {
  status: string;
}

/** What a day's settlements in one currency come to. */
export interface RollupDay {
  day: string;
  count: number;
  gross: Money;
  refund_count: number;
  refunds: Money;
  adjustments: Money;
  net: Money;
}

export type ShareStatus = 'invited' | 'accepted' | 'declined' | 'withdrawn' | 'lapsed' | 'fixed' | 'fallen_back';

/** A part of a ride's fare that somebody is asked to pay. */
export interface FareShare {
  id: string;
  ride_id: string;
  /** First name of who is asked to pay it. */
  rider: string;
  /** First name of whose ride it is. */
  invited_by: string;
  status: ShareStatus;
  /** Missing where it is an equal part. */
  asked?: Money | null;
  /** Until the trip ends, by the quoted fare; missing once it costs nothing. */
  amount?: Money | null;
  payment?: { id: string; status: PaymentStatus } | null;
}

export interface NearbyDriver extends Point {
  heading?: number | null;
  vehicle_class: string;
  distance_m: number;
  recorded_at: string;
  /** Shown to the back office alone. */
  doing?: 'free' | 'offered' | 'on_trip';
}

/** One of the two, as configured. */
export interface Area {
  circle?: { center: Point; radius_m: number };
  polygon?: Point[];
}

export interface Zone {
  id: string;
  name: string;
  area: Area;
  /** Drivers in its queue; null if it has none. */
  waiting: number | null;
}

export interface ZoneQueue {
  zone_id: string;
  name: string;
  items: ZoneQueueEntry[];
}

export interface ZoneQueueEntry {
  driver_id: string;
  vehicle_class: string;
  /** Among those with the same class of vehicle. */
  place: number;
  entered_at: string;
  /** Since when too far outside, or out of sight. */
  away_since: string | null;
  declines: number;
}

export interface SurgeCell extends Point {
  cell: string;
  corners: Point[];
  vehicle_class: string;
  demand: number;
  supply: number;
  surge_multiplier: number;
}

export interface Surge {
  enabled: boolean;
  /** Null before it ever was. */
  computed_at: string | null;
  items: SurgeCell[];
}

export interface DriverLocation extends Point {
  ride_id: string;
  heading?: number | null;
  recorded_at: string;
}

export interface DispatchCandidate {
  driver_id: string;
  round: number;
  reason: string;
  /** What the reason means, for people. */
  explanation: string;
  pickup_eta_s: number | null;
  distance_m: number | null;
  considered_at: string;
}

export interface OfferRecord {
  offer_id: string;
  driver_id: string;
  status: 'live' | 'accepted' | 'declined' | 'expired' | 'withdrawn';
  pickup_eta_s: number;
  offered_at: string;
  expires_at: string;
  answered_at: string | null;
}

export interface DispatchStory {
  ride_id: string;
  status: RideStatus;
  offers: OfferRecord[];
  candidates: DispatchCandidate[];
}

export interface Settlement {
  fact_id: string;
  payment_id: string;
  trip_id: string;
  tenant: string;
  kind: 'settlement' | 'refund' | 'adjustment';
  amount: number;
  currency: string;
  origin_region: string;
  origin_seq: number;
  settled_at: string;
  late: boolean;
}

export interface ConfigConflict {
  path: string;
  values: unknown[];
  winner: unknown;
}

export interface PublishedVersion {
  version: number;
  config: Record<string, unknown>;
  published_at: string;
}

export interface RefusedVersion {
  version: number;
  field: string;
  reason: string;
}

export interface Rollout {
  pinned: number | null;
  pinned_here: number | null;
  stable: number | null;
  canary: { region: string; version: number } | null;
  /** Where a version can be tried. */
  regions: string[];
}

export interface ConfigAnswer {
  config: Record<string, unknown>;
  heads: string[];
  conflicts: ConfigConflict[];
  published: PublishedVersion | null;
  running: { region: string; version: PublishedVersion | null; refused: RefusedVersion[] };
  rollout: Rollout;
  rejected: string[];
}

export interface VersionNumber {
  version: number;
  published_at: string;
}

export interface PeerStatus {
  region: string;
  connected: boolean;
  rtt_ms: number | null;
  lag_entries: number | null;
  lag_ms: number | null;
  /** Every log there is, by origin and stream. */
  logs?: Record<string, PeerLog>;
  paused?: FactStream[];
}

export type FactStream = 'control' | 'config' | 'ledger';

/** How far a peer is behind on one log. */
export interface PeerLog {
  lag_entries: number;
  lag_bytes: number;
  lag_ms: number;
  credit_bytes: number | null;
}

export type VersionVector = Record<string, { control: number; config: number; ledger: number }>;

export interface SyncStatus {
  region: string;
  leader: boolean;
  version_vector: VersionVector;
  digest: string;
  peers: PeerStatus[];
  instance?: string;
  lease?: { epoch: number; holder: string; valid_for_ms: number } | null;
  members?: Record<string, string>;
  quarantine?: Record<string, number>;
  fetched?: Record<string, { direct: number; relayed: number; relay_share: number }>;
  damage?: { seconds_ago: number; entries: number; named: string[]; rows?: string[] } | null;
  /** Keys of rows that are others in another region, by region and stream. */
  differing?: Record<string, string[]>;
  /** Logs that are others in another region, by region, each with the entry that showed it. */
  diverged?: Record<string, string[]>;
}

export interface RegionView {
  name: string;
  base_url: string;
  state: string;
  health: { ready: boolean; postgres: boolean; redis: boolean; sync: boolean };
  sync: SyncStatus | null;
}

export interface EntryPlace {
  origin: string;
  incarnation: number;
  stream: FactStream;
  seq: number;
}

/** An entry that is stored and not applied. */
export interface QuarantinedEntry extends EntryPlace {
  tenant?: string | null;
  kind: string;
  state: string;
  reason: string;
  attempts: number;
  first_at: string;
  last_at: string;
}

/** A fact of the region's own that may not leave it. */
export interface RejectedFact {
  id: string;
  stream: FactStream;
  kind: string;
  tenant?: string | null;
  reason: string;
  bytes: number;
  committed_at: string;
  rejected_at: string;
}

/** A tenant that another region took from this one by force. */
export interface LostTenant {
  tenant: string;
  /** Also where payments or refunds were given up, whose money somebody has seen to. */
  and_given_up?: boolean;
}

/** What replication can be told to do. */
export type SyncCommand =
  | { retry: EntryPlace }
  | { skip: EntryPlace }
  | { readmit: { id: string } }
  | { dismiss: { id: string } }
  | { refetch: EntryPlace }
  | { pause: { peer: string; stream: FactStream } }
  | { resume: { peer: string; stream: FactStream } }
  | { load_snapshot: { peer: string } }
  | { retire: { region: string } }
  | { mend: { key: string } }
  | 'mend_all'
  | { erase_lost: LostTenant }
  | 'compare'
  | 'verify'
  | 'drain'
  | 'leave'
  | 'join';

/** A command, who gave it and why, and what came of it. */
export interface GivenCommand {
  id: string;
  command: SyncCommand;
  reason: string;
  made_by: string;
  made_at: string;
  ended_at?: string | null;
  done?: boolean | null;
  outcome?: string | null;
}

export interface RegionsView {
  region: string;
  regions: RegionView[];
}

/** All regions, and where each tenant is at home. */
export interface Directory {
  regions: Record<string, { base_url: string; state: string }>;
  homes: Record<string, { region: string; name: string; state: string }>;
}

/** Whether the old home hands a tenant over, or is gone and the new one takes it. */
export type MoveMode = 'planned' | 'failover';

/** A tenant's move from one region to another. */
export interface Move {
  id: string;
  tenant: string;
  mode: MoveMode;
  from_region: string;
  to_region: string;
  state: 'requested' | 'copying' | 'pausing' | 'handed_over' | 'erasing' | 'voting' | 'completed' | 'failed' | 'cancelled';
  rows_moved: number;
  paused_ms: number | null;
  failure: string | null;
}
