import { useState } from 'react';
import { balances as loadBalances, driverBalances, payOut, payouts as loadPayouts } from '../api/calls';
import type { Client } from '../api/client';
import type { Balance } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Badge, Button, Empty, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ShortId } from '../ui/short-id';
import { StatementDownload } from '../ui/statement-download';
import { GivenUpMoney } from './given-up';
import { Reconciliations } from './reconciliations';
import { RollupTable } from './rollup-table';
import { StrayDisputes } from './stray-disputes';

const EVERY_MS = 10_000;

/** What stands on the company's accounts, what drivers have coming, and paying it to them. */
export function MoneyView({ client, tenant }: { client: Client; tenant: string }) {
  const accounts = useLoad(`balances ${tenant}`, (signal) => loadBalances(client, signal), EVERY_MS);
  const drivers = usePages(`drivers ${tenant}`, (cursor, signal) => driverBalances(client, cursor === undefined ? {} : { cursor }, signal));
  const payouts = usePages(`payouts ${tenant}`, (cursor, signal) => loadPayouts(client, cursor === undefined ? {} : { cursor }, signal));
  const onPaid = (): void => {
    accounts.reload();
    drivers.reload();
    payouts.reload();
  };

  return (
    <div className="stack">
      <section className="stack" aria-labelledby="money">
        <div>
          <h1 id="money">Money</h1>
          <p className="muted small">From the ledger: positive is owed to an account&rsquo;s holder, negative is held by it. All together is zero.</p>
        </div>
        <ErrorNote error={accounts.error} onRetry={accounts.reload} />
        {accounts.loading && <Skeleton lines={4} />}
        {accounts.data !== null && accounts.data.accounts.length === 0 && (
          <div className="card">
            <Empty title="Nothing in the ledger yet">The first paid trip appears here.</Empty>
          </div>
        )}
        {accounts.data !== null && accounts.data.accounts.length > 0 && (
          <div className="table-wrap">
            <table>
              <caption className="visually-hidden">Balances of the company&rsquo;s accounts</caption>
              <thead>
                <tr>
                  <th scope="col">Account</th>
                  <th scope="col" className="num">
                    Balance
                  </th>
                </tr>
              </thead>
              <tbody>
                {accounts.data.accounts.map(({ account, balance }) => (
                  <tr key={`${account} ${balance.currency}`}>
                    <td>{account}</td>
                    <td className="num">{formatMoney(balance)}</td>
                  </tr>
                ))}
                {accounts.data.drivers.map(({ coming, owed }) => (
                  <tr key={`drivers ${coming.currency}`}>
                    <td>
                      drivers {owed.amount > 0 && <span className="muted small">(some owe {formatMoney(owed)} together)</span>}
                    </td>
                    <td className="num">{formatMoney({ ...coming, amount: coming.amount - owed.amount })}</td>
                  </tr>
                ))}
                {accounts.data.riders.map((inWallets) => (
                  <tr key={`riders ${inWallets.currency}`}>
                    <td>
                      riders <span className="muted small">(in their wallets)</span>
                    </td>
                    <td className="num">{formatMoney(inWallets)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        <StatementDownload client={client} />
      </section>

      <RollupTable client={client} tenant={tenant} />
      <GivenUpMoney client={client} tenant={tenant} />
      <StrayDisputes client={client} tenant={tenant} />
      <Reconciliations client={client} tenant={tenant} />

      <section className="stack" aria-labelledby="driver-balances">
        <h2 id="driver-balances">Drivers</h2>
        <ErrorNote error={drivers.error} onRetry={drivers.reload} />
        {drivers.loading && <Skeleton lines={4} />}
        {!drivers.loading && drivers.items.length === 0 && <p className="muted small">No driver has a balance yet.</p>}
        {drivers.items.length > 0 && (
          <div className="table-wrap">
            <table>
              <caption className="visually-hidden">Balances of drivers</caption>
              <thead>
                <tr>
                  <th scope="col">Driver</th>
                  <th scope="col" className="num">
                    Balance
                  </th>
                  <th scope="col" className="num">
                    Held
                  </th>
                  <th scope="col">
                    <span className="visually-hidden">Pay out</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {drivers.items.flatMap((driver) =>
                  driver.balances.map((balance) => (
                    <DriverRow
                      key={`${driver.driver_id} ${balance.balance.currency}`}
                      client={client}
                      driver={driver.driver_id}
                      balance={balance}
                      onPaid={onPaid}
                    />
                  )),
                )}
              </tbody>
            </table>
          </div>
        )}
        {drivers.hasMore && <Button onClick={drivers.more}>Show more drivers</Button>}
      </section>

      <section className="stack" aria-labelledby="payouts">
        <h2 id="payouts">Payouts</h2>
        <ErrorNote error={payouts.error} onRetry={payouts.reload} />
        {!payouts.loading && payouts.items.length === 0 && <p className="muted small">Nobody was paid yet.</p>}
        {payouts.items.length > 0 && (
          <div className="table-wrap">
            <table>
              <caption className="visually-hidden">Payouts, newest first</caption>
              <thead>
                <tr>
                  <th scope="col">When</th>
                  <th scope="col">Driver</th>
                  <th scope="col">By</th>
                  <th scope="col" className="num">
                    Amount
                  </th>
                  <th scope="col">Payout</th>
                </tr>
              </thead>
              <tbody>
                {payouts.items.map((payout) => (
                  <tr key={payout.payout_id}>
                    <td>{formatTime(payout.created_at)}</td>
                    <td>
                      <ShortId id={payout.driver_id} />
                    </td>
                    <td>{payout.day === undefined ? payout.made_by : <Badge>daily, {payout.day}</Badge>}</td>
                    <td className="num">{formatMoney(payout.amount)}</td>
                    <td>
                      <ShortId id={payout.payout_id} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        {payouts.hasMore && <Button onClick={payouts.more}>Show older payouts</Button>}
      </section>
    </div>
  );
}

interface DriverRowProps {
  client: Client;
  driver: string;
  balance: Balance;
  onPaid: () => void;
}

/** A driver's balance in one currency; paying it out takes a second press. */
function DriverRow({ client, driver, balance: { balance, held, payable }, onPaid }: DriverRowProps) {
  const [asked, setAsked] = useState(false);
  const attempt = useAttemptKey();
  const pay = useAction(async () => {
    await payOut(client, driver, { amount: payable }, attempt.keyFor([driver, payable]));
    attempt.done();
    setAsked(false);
    onPaid();
  });
  return (
    <tr>
      <td>
        <ShortId id={driver} />
      </td>
      <td className="num">{formatMoney(balance)}</td>
      <td className="num">{held.amount > 0 ? formatMoney(held) : ''}</td>
      <td>
        {payable.amount > 0 && !asked && (
          <Button compact onClick={() => setAsked(true)}>
            Pay out
          </Button>
        )}
        {payable.amount > 0 && asked && (
          <span className="row">
            <Button compact kind="primary" busy={pay.busy} onClick={() => void pay.run()}>
              Pay out {formatMoney(payable)}
            </Button>
            <Button compact onClick={() => setAsked(false)}>
              Not now
            </Button>
          </span>
        )}
        <ErrorNote error={pay.error} />
      </td>
    </tr>
  );
}
