import type { Point } from '../lib/geo';
import type { Money } from '../lib/money';
import type { Client } from './client';
import type {
  ConfigAnswer,
  Difference,
  Directory,
  DispatchStory,
  DriverBalance,
  Estimate,
  FareShare,
  GivenCommand,
  GivenUp,
  Move,
  MoveMode,
  NearbyDriver,
  Offer,
  Page,
  Payment,
  PaymentMethod,
  Payout,
  Place,
  QuarantinedEntry,
  Receipt,
  Reconciliation,
  RegionsView,
  RejectedFact,
  Ride,
  RollupDay,
  Route,
  Settlement,
  StrayDispute,
  Surge,
  SyncCommand,
  Taken,
  TenantBalances,
  Trip,
  Vehicle,
  VersionNumber,
  Wallet,
  Zone,
  ZoneQueue,
} from './types';

const enc = encodeURIComponent;

export const route = (client: Client, signal?: AbortSignal): Promise<Route> =>
  client.json({ method: 'GET', path: '/v1/route', signal });

export interface NewAccount {
  name: string;
  phone: string;
  password: string;
}

export const registerRider = (client: Client, account: NewAccount, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: '/v1/riders', body: account, idempotencyKey });

export const registerDriver = (
  client: Client,
  account: NewAccount & { vehicle: Vehicle },
  idempotencyKey: string,
): Promise<unknown> => client.json({ method: 'POST', path: '/v1/drivers', body: account, idempotencyKey });

export interface Journey {
  pickup: Place;
  dropoff: Place;
  vehicle_class: string;
}

export interface Wish extends Journey {
  scheduled_at?: string;
  promotion_code?: string;
}

export const estimate = (client: Client, wish: Wish, signal?: AbortSignal): Promise<Estimate> =>
  client.json({ method: 'POST', path: '/v1/rides/estimate', body: wish, signal });

export const requestRide = (
  client: Client,
  body: Journey & { payment_method: PaymentMethod; quote_id?: string },
  idempotencyKey: string,
): Promise<Ride> => client.json({ method: 'POST', path: '/v1/rides', body, idempotencyKey });

export const ride = (client: Client, id: string, signal?: AbortSignal): Promise<Ride> =>
  client.json({ method: 'GET', path: `/v1/rides/${enc(id)}`, signal });

export const rides = (
  client: Client,
  query: { status?: string; cursor?: string; limit?: number },
  signal?: AbortSignal,
): Promise<Page<Ride>> => client.json({ method: 'GET', path: '/v1/rides', query, signal });

export const cancelRide = (client: Client, id: string, reason: string, idempotencyKey: string): Promise<Ride> =>
  client.json({ method: 'POST', path: `/v1/rides/${enc(id)}/cancel`, body: { reason }, idempotencyKey });

export const rideDispatch = (client: Client, id: string, signal?: AbortSignal): Promise<DispatchStory> =>
  client.json({ method: 'GET', path: `/v1/rides/${enc(id)}/dispatch`, signal });

export const setDriverStatus = (client: Client, id: string, status: 'online' | 'offline'): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/drivers/${enc(id)}/status`, body: { status } });

export const sendLocation = (client: Client, id: string, positions: Position[]): Promise<Taken> =>
  client.json({ method: 'POST', path: `/v1/drivers/${enc(id)}/location`, body: positions });

export interface Position extends Point {
  heading?: number;
  speed?: number;
  accuracy?: number;
  recorded_at: string;
}

export const offers = (client: Client, id: string, signal?: AbortSignal): Promise<{ items: Offer[] }> =>
  client.json({ method: 'GET', path: `/v1/drivers/${enc(id)}/offers`, signal });

export const nearbyDrivers = (
  client: Client,
  query: { lat: number; lng: number; radius_m: number; limit?: number },
  signal?: AbortSignal,
): Promise<Page<NearbyDriver>> => client.json({ method: 'GET', path: '/v1/drivers/nearby', query, signal });

export const zones = (client: Client, signal?: AbortSignal): Promise<Page<Zone>> =>
  client.json({ method: 'GET', path: '/v1/zones', signal });

export const zoneQueue = (client: Client, id: string, signal?: AbortSignal): Promise<ZoneQueue> =>
  client.json({ method: 'GET', path: `/v1/zones/${enc(id)}/queue`, signal });

export const surge = (client: Client, signal?: AbortSignal): Promise<Surge> =>
  client.json({ method: 'GET', path: '/v1/surge', signal });

export const acceptRide = (client: Client, driver: string, rideId: string, idempotencyKey: string): Promise<Trip> =>
  client.json({ method: 'POST', path: `/v1/drivers/${enc(driver)}/accept`, body: { ride_id: rideId }, idempotencyKey });

export const declineRide = (client: Client, driver: string, rideId: string): Promise<void> =>
  client.json({ method: 'POST', path: `/v1/drivers/${enc(driver)}/decline`, body: { ride_id: rideId } });

export type TripStep = 'arrive' | 'start' | 'pause' | 'resume' | 'end';

export const stepTrip = (client: Client, id: string, step: TripStep, body: { pin?: string }, idempotencyKey: string): Promise<Trip> =>
  client.json({ method: 'POST', path: `/v1/trips/${enc(id)}/${step}`, body, idempotencyKey });

export const trip = (client: Client, id: string, signal?: AbortSignal): Promise<Trip> =>
  client.json({ method: 'GET', path: `/v1/trips/${enc(id)}`, signal });

export const receipt = (client: Client, tripId: string, signal?: AbortSignal): Promise<Receipt> =>
  client.json({ method: 'GET', path: `/v1/trips/${enc(tripId)}/receipt`, signal });

export const receiptFile = (client: Client, tripId: string, accept: 'application/pdf' | 'text/html'): Promise<Response> =>
  client.send({ method: 'GET', path: `/v1/trips/${enc(tripId)}/receipt`, accept });

/** Pays the rider's own part of a fare, or a share that has fallen back to him. */
export const pay = (
  client: Client,
  body: { trip_id: string; share_id?: string; method: PaymentMethod },
  idempotencyKey: string,
): Promise<Payment> => client.json({ method: 'POST', path: '/v1/payments', body, idempotencyKey });

export const inviteToShare = (
  client: Client,
  rideId: string,
  body: { phone: string; amount?: Money },
  idempotencyKey: string,
): Promise<FareShare> => client.json({ method: 'POST', path: `/v1/rides/${enc(rideId)}/shares`, body, idempotencyKey });

export const sharesOfRide = (client: Client, rideId: string, signal?: AbortSignal): Promise<Page<FareShare>> =>
  client.json({ method: 'GET', path: `/v1/rides/${enc(rideId)}/shares`, signal });

/** What the rider was asked to share of others' fares. */
export const shares = (client: Client, query: { limit?: number }, signal?: AbortSignal): Promise<Page<FareShare>> =>
  client.json({ method: 'GET', path: '/v1/shares', query, signal });

export const acceptShare = (client: Client, id: string, method: PaymentMethod, idempotencyKey: string): Promise<FareShare> =>
  client.json({ method: 'POST', path: `/v1/shares/${enc(id)}/accept`, body: { method }, idempotencyKey });

export const endShare = (client: Client, id: string, how: 'decline' | 'withdraw', idempotencyKey: string): Promise<FareShare> =>
  client.json({ method: 'POST', path: `/v1/shares/${enc(id)}/${how}`, body: {}, idempotencyKey });

/** By what the ride was to be paid with, unless another method is said. */
export const tip = (
  client: Client,
  tripId: string,
  body: { amount: Money; method?: PaymentMethod },
  idempotencyKey: string,
): Promise<Payment> => client.json({ method: 'POST', path: `/v1/trips/${enc(tripId)}/tip`, body, idempotencyKey });

export const payment = (client: Client, id: string, signal?: AbortSignal): Promise<Payment> =>
  client.json({ method: 'GET', path: `/v1/payments/${enc(id)}`, signal });

export const refund = (client: Client, id: string, body: { amount?: number; reason: string; to?: 'source' | 'wallet' }, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/payments/${enc(id)}/refunds`, body, idempotencyKey });

export const ownWallet = (client: Client, query: { limit?: number }, signal?: AbortSignal): Promise<Wallet> =>
  client.json({ method: 'GET', path: '/v1/riders/me/wallet', query, signal });

export const wallet = (client: Client, rider: string, query: { limit?: number }, signal?: AbortSignal): Promise<Wallet> =>
  client.json({ method: 'GET', path: `/v1/riders/${enc(rider)}/wallet`, query, signal });

/** By the rider's usual card. */
export const topUp = (client: Client, body: { amount: Money }, idempotencyKey: string): Promise<Payment> =>
  client.json({ method: 'POST', path: '/v1/riders/me/wallet/top-ups', body, idempotencyKey });

export const creditWallet = (client: Client, rider: string, body: { amount: Money; reason: string }, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/riders/${enc(rider)}/wallet/credits`, body, idempotencyKey });

/** To the cards it was topped up from. */
export const refundWallet = (client: Client, rider: string, body: { amount?: Money; reason: string }, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/riders/${enc(rider)}/wallet/refunds`, body, idempotencyKey });

export const driverBalance = (client: Client, driver: string, signal?: AbortSignal): Promise<DriverBalance> =>
  client.json({ method: 'GET', path: `/v1/drivers/${enc(driver)}/balance`, signal });

export const balances = (client: Client, signal?: AbortSignal): Promise<TenantBalances> =>
  client.json({ method: 'GET', path: '/v1/balances', signal });

export const driverBalances = (client: Client, query: { cursor?: string }, signal?: AbortSignal): Promise<Page<DriverBalance>> =>
  client.json({ method: 'GET', path: '/v1/balances/drivers', query, signal });

/** All the driver can be paid now, unless an amount is said. */
export const payOut = (client: Client, driver: string, body: { amount?: Money }, idempotencyKey: string): Promise<Payout> =>
  client.json({ method: 'POST', path: `/v1/drivers/${enc(driver)}/payouts`, body, idempotencyKey });

export const payouts = (client: Client, query: { cursor?: string; limit?: number }, signal?: AbortSignal): Promise<Page<Payout>> =>
  client.json({ method: 'GET', path: '/v1/payouts', query, signal });

/** The last 30 days. */
export const rollup = (client: Client, signal?: AbortSignal): Promise<{ items: RollupDay[] }> =>
  client.json({ method: 'GET', path: '/v1/settlements/rollup', signal });

export type Movement = 'payments' | 'refunds';

export const givenUp = (client: Client, what: Movement, cursor: string | undefined, signal?: AbortSignal): Promise<Page<GivenUp>> =>
  client.json({ method: 'GET', path: `/v1/${what}`, query: { attention: 'true', ...(cursor === undefined ? {} : { cursor }) }, signal });

export const retry = (client: Client, what: Movement, id: string, idempotencyKey: string): Promise<GivenUp> =>
  client.json({ method: 'POST', path: `/v1/${what}/${enc(id)}/retry`, body: {}, idempotencyKey });

/** Somebody has seen to a refund that was sent back. */
export const attendRefund = (client: Client, id: string, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/refunds/${enc(id)}/attend`, body: {}, idempotencyKey });

export const strayDisputes = (client: Client, cursor: string | undefined, signal?: AbortSignal): Promise<Page<StrayDispute>> =>
  client.json({ method: 'GET', path: '/v1/disputes', query: { attention: 'true', ...(cursor === undefined ? {} : { cursor }) }, signal });

/** Somebody has seen to a dispute about a payment that is not here. */
export const attendDispute = (client: Client, id: string, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/disputes/${enc(id)}/attend`, body: {}, idempotencyKey });

/** The newest first. */
export const reconciliations = (client: Client, cursor: string | undefined, signal?: AbortSignal): Promise<Page<Reconciliation>> =>
  client.json({ method: 'GET', path: '/v1/reconciliations', query: cursor === undefined ? {} : { cursor }, signal });

/** Of the last day. */
export const reconcile = (client: Client, idempotencyKey: string): Promise<Reconciliation> =>
  client.json({ method: 'POST', path: '/v1/reconciliations', body: {}, idempotencyKey });

export const differencesOf = (client: Client, id: string, cursor: string | undefined, signal?: AbortSignal): Promise<Page<Difference>> =>
  client.json({ method: 'GET', path: `/v1/reconciliations/${enc(id)}`, query: cursor === undefined ? {} : { cursor }, signal });

const STATEMENT_TYPES = { pdf: 'application/pdf', csv: 'text/csv' } as const;
export type StatementFormat = keyof typeof STATEMENT_TYPES;

/** A driver's, or the company's own. */
export const statementFile = (
  client: Client,
  period: { from: string; to: string },
  format: StatementFormat,
  driver?: string,
): Promise<Response> =>
  client.send({
    method: 'GET',
    path: driver === undefined ? '/v1/statement' : `/v1/drivers/${enc(driver)}/statement`,
    query: period,
    accept: STATEMENT_TYPES[format],
  });

export const rateTrip = (client: Client, id: string, body: { stars: number; comment?: string }, idempotencyKey: string): Promise<unknown> =>
  client.json({ method: 'POST', path: `/v1/trips/${enc(id)}/rating`, body, idempotencyKey });

export const config = (client: Client, tenant: string, signal?: AbortSignal): Promise<ConfigAnswer> =>
  client.json({ method: 'GET', path: `/v1/tenants/${enc(tenant)}/config`, signal });

/** Edits the draft as it was read: what others wrote since merges with this. */
export const patchConfig = (
  client: Client,
  tenant: string,
  patch: Record<string, unknown>,
  heads: readonly string[],
  idempotencyKey: string,
): Promise<ConfigAnswer> =>
  client.json({
    method: 'PATCH',
    path: `/v1/tenants/${enc(tenant)}/config`,
    body: patch,
    contentType: 'application/merge-patch+json',
    headers: { 'If-Match': heads.join(',') },
    idempotencyKey,
  });

/** Publishes the draft everywhere, or in one region first. */
export const publishConfig = (client: Client, tenant: string, canaryRegion: string | null, idempotencyKey: string): Promise<ConfigAnswer> =>
  client.json({
    method: 'POST',
    path: `/v1/tenants/${enc(tenant)}/config/publish`,
    body: canaryRegion === null ? {} : { canary_region: canaryRegion },
    idempotencyKey,
  });

/** Ends a canary: the version runs everywhere, or nowhere. */
export const endCanary = (client: Client, tenant: string, how: 'promote' | 'rollback', idempotencyKey: string): Promise<ConfigAnswer> =>
  client.json({ method: 'POST', path: `/v1/tenants/${enc(tenant)}/config/${how}`, idempotencyKey });

const pinPath = (tenant: string, here: boolean): string => `/v1/tenants/${enc(tenant)}/config/pin${here ? '/here' : ''}`;

/** Pins a version in every region, or in the region that takes the call. */
export const pinConfig = (
  client: Client,
  tenant: string,
  pin: { version: number; here: boolean },
  idempotencyKey: string,
): Promise<ConfigAnswer> =>
  client.json({ method: 'PUT', path: pinPath(tenant, pin.here), body: { version: pin.version }, idempotencyKey });

export const unpinConfig = (client: Client, tenant: string, here: boolean): Promise<ConfigAnswer> =>
  client.json({ method: 'DELETE', path: pinPath(tenant, here) });

export const configVersions = (client: Client, tenant: string, signal?: AbortSignal): Promise<Page<VersionNumber>> =>
  client.json({ method: 'GET', path: `/v1/tenants/${enc(tenant)}/config/versions`, query: { limit: 50 }, signal });

export const settlements = (
  client: Client,
  query: { after?: string; limit?: number; tenant?: string },
  signal?: AbortSignal,
): Promise<Page<Settlement>> => client.json({ method: 'GET', path: '/v1/settlements', query, signal });

export const regions = (client: Client, signal?: AbortSignal): Promise<RegionsView> =>
  client.json({ method: 'GET', path: '/v1/regions', signal });

const syncPath = (region: string, what: 'commands' | 'quarantine' | 'rejected'): string => `/v1/regions/${enc(region)}/sync/${what}`;

/** What a region has stored and not applied. */
export const quarantine = (
  client: Client,
  region: string,
  cursor: string | undefined,
  signal?: AbortSignal,
): Promise<Page<QuarantinedEntry>> => client.json({ method: 'GET', path: syncPath(region, 'quarantine'), query: { cursor }, signal });

/** What a region has written and may not leave it. */
export const rejected = (client: Client, region: string, cursor: string | undefined, signal?: AbortSignal): Promise<Page<RejectedFact>> =>
  client.json({ method: 'GET', path: syncPath(region, 'rejected'), query: { cursor }, signal });

/** What a region's replication was told to do, the newest first. */
export const syncCommands = (client: Client, region: string, signal?: AbortSignal): Promise<Page<GivenCommand>> =>
  client.json({ method: 'GET', path: syncPath(region, 'commands'), query: { limit: 10 }, signal });

export const giveSyncCommand = (
  client: Client,
  region: string,
  command: { command: SyncCommand; reason: string },
  idempotencyKey: string,
): Promise<GivenCommand> => client.json({ method: 'POST', path: syncPath(region, 'commands'), body: command, idempotencyKey });

export const directory = (client: Client, signal?: AbortSignal): Promise<Directory> =>
  client.json({ method: 'GET', path: '/v1/directory', signal });

export const moves = (client: Client, signal?: AbortSignal): Promise<{ items: Move[] }> =>
  client.json({ method: 'GET', path: '/v1/moves', signal });

export const rehome = (client: Client, tenant: string, toRegion: string, mode: MoveMode, idempotencyKey: string): Promise<Move> =>
  client.json({ method: 'POST', path: `/v1/tenants/${enc(tenant)}/rehome`, body: { to_region: toRegion, mode }, idempotencyKey });

export const cancelMove = (client: Client, tenant: string, idempotencyKey: string): Promise<Move> =>
  client.json({ method: 'POST', path: `/v1/tenants/${enc(tenant)}/rehome/cancel`, body: {}, idempotencyKey });

export interface NodeHealth {
  status?: string;
  region?: string;
  role?: string;
  [more: string]: unknown;
}

export const health = (client: Client, signal?: AbortSignal): Promise<NodeHealth> =>
  client.json({ method: 'GET', path: '/health', signal });
