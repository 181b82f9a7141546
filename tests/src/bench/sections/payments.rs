//! Payments of trips that were driven: how many a second are settled, how long a rider waits for it, and what the ledger and the
//! outbox add to the transaction that settles.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow, ensure};
use deploy_local::Builder;
use futures::future::try_join_all;
use serde_json::json;
use shared::{
    clock::Clock,
    fact::{Fact, LedgerEntry},
};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, interval_at};
use uuid::Uuid;

use crate::{
    api::{Client, Payment, PaymentStatus},
    bench::{Cpu, Options, Stand, Table, make_drivers, make_riders, percentile},
    harness::Drives,
};

/// The sandbox's latency in milliseconds, and how many riders pay at once.
const LOADS: [(u32, usize); 4] = [(0, 32), (0, 4), (100, 32), (100, 4)];
/// More than can be paid here.
const TRIPS_A_SECOND: u64 = 1_500;
const WARM_UP: Duration = Duration::from_secs(3);
const CURRENCY: &str = "USD";
const FARE: (i64, i64) = (1_000, 80);
/// Connections that settle, and how many payments each a second: what waits for the machine says nothing of what is added.
const SETTLING_AT_ONCE: usize = 8;
const SETTLED_A_SECOND: u32 = 25;
const COLUMNS: [&str; 8] =
    ["", "settled/s", "ms CPU/payment", "region-node", "Postgres", "global-sync", "POST p50, ms", "p99, ms"];
const SETTLING_COLUMNS: [&str; 4] = ["", "p50, ms", "p99, ms", "µs of Postgres' CPU"];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new("Payments of driven trips by card", &COLUMNS);
    for latency in [0, 100] {
        let settings = |builder: Builder| {
            let builder = builder.node_env("REGION_NODE_PSP__SANDBOX__LATENCY", &format!("{latency}ms"));
            builder.node_env("REGION_NODE_LIMITS__REQUESTS_PER_SECOND", "10000")
        };
        let stand = Stand::start_with(1, settings).await?;
        let payers = Payer::many(&stand).await?;
        pay(&stand, &payers, WARM_UP).await?;
        sqlx::query("VACUUM ANALYZE").execute(&stand.database).await?;
        for (_, at_once) in LOADS.into_iter().filter(|(of, _)| *of == latency) {
            let mut runs = Vec::new();
            for _ in 0..options.runs() {
                runs.push(measure(&stand, &payers[..at_once], options.duration()).await?);
            }
            table.row(format!("sandbox PSP at {latency} ms, {at_once} riders at once"), &runs);
        }
    }
    table.notes.push(
        "Each: intent, charge, answer, settlement with its ledger entry and fact; the client is answered last.".into(),
    );
    Ok(vec![table, settling(options).await?])
}

/// Somebody with trips to pay.
struct Payer {
    id: Uuid,
    driver: Uuid,
    client: Client,
}

impl Payer {
    async fn many(stand: &Stand) -> anyhow::Result<Vec<Self>> {
        let most = LOADS.iter().map(|(_, at_once)| *at_once).max().unwrap_or_default();
        let (riders, drivers) = (make_riders(stand, most).await?, make_drivers(stand, most).await?);
        let mut payers = Vec::new();
        for (rider, driver) in riders.iter().zip(&drivers) {
            payers.push(Self { id: rider.id, driver: driver.id, client: stand.client(rider).await });
        }
        Ok(payers)
    }

    fn drives<'a>(&self, tenant: &'a str) -> Drives<'a> {
        Drives { tenant, currency: CURRENCY, rider: self.id, driver: self.driver }
    }
}

async fn measure(stand: &Stand, payers: &[Payer], duration: Duration) -> anyhow::Result<Vec<Option<f64>>> {
    let Paid { mut waits, seconds, cpu } = pay(stand, payers, duration).await?;
    let settled = waits.len() as f64;
    let each = |us: f64| Some(us / 1_000.0 / settled);
    Ok(vec![
        Some(settled / seconds),
        each(cpu.total_us()),
        each(cpu.node_us),
        each(cpu.postgres_us),
        each(cpu.sync_us),
        percentile(&mut waits, 0.5),
        percentile(&mut waits, 0.99),
    ])
}

/// What paying for a while took.
struct Paid {
    /// How long each rider waited for each answer, ms; all of them settled.
    waits: Vec<f64>,
    seconds: f64,
    cpu: Cpu,
}

async fn pay(stand: &Stand, payers: &[Payer], duration: Duration) -> anyhow::Result<Paid> {
    let each = TRIPS_A_SECOND * duration.as_secs() / payers.len() as u64;
    let mut conn = stand.database.acquire().await?;
    let mut driven = Vec::new();
    for payer in payers {
        let trips = payer.drives(&stand.tenant).driven(&mut conn, &vec![FARE; usize::try_from(each)?]).await?;
        driven.push((payer.client.clone(), trips));
    }
    drop(conn);
    let (meter, begun) = (stand.meter()?, Instant::now());
    let paying = driven.into_iter().map(|(client, trips)| async move {
        let mut waits = Vec::new();
        for trip in trips {
            if begun.elapsed() >= duration {
                return Ok(waits);
            }
            let asked = Instant::now();
            let body = json!({"trip_id": trip, "method": {"type": "card", "token": "tok_visa"}});
            let payment: Payment = client.post("/v1/payments", &body).await?;
            waits.push(asked.elapsed().as_secs_f64() * 1_000.0);
            ensure!(payment.status == PaymentStatus::Settled, "payment {} is {:?}", payment.id, payment.status);
        }
        Err(anyhow!("more was paid than had been driven"))
    });
    let waits = try_join_all(paying.map(|paying| stand.tasks.spawn(paying))).await?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), meter.used()?);
    let waits: Vec<Vec<f64>> = waits.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(Paid { waits: waits.concat(), seconds, cpu })
}

/// What the ledger and the outbox add, in transactions as region-node's `payments/steps` settles with, on the same tables under
/// the same role.
async fn settling(options: &Options) -> anyhow::Result<Table> {
    let stand = Arc::new(Stand::start(1).await?);
    let payers = Payer::many(&stand).await?;
    pay(&stand, &payers[..1], Duration::from_secs(1)).await?;
    let payer = payers.first().context("nobody pays")?;
    let mut runs: [Vec<Vec<Option<f64>>>; 2] = Default::default();
    // The first round is there to warm up; the others take turns, so that what changes on the machine meets both.
    for round in 0..=options.runs() {
        for (adds, runs) in [false, true].into_iter().zip(&mut runs) {
            let run = settle(&stand, payer, adds, options.duration()).await?;
            if round == 0 {
                sqlx::query("VACUUM ANALYZE").execute(&stand.database).await?;
            } else {
                runs.push(run);
            }
        }
    }
    let mut table = Table::new("What settling a payment costs Postgres", &SETTLING_COLUMNS);
    for (name, runs) in ["the payment's row alone", "with its ledger entry and fact"].iter().zip(&runs) {
        table.row(*name, runs);
    }
    let added = |cell: usize| {
        let of = |row: usize| table.rows.get(row).and_then(|row| row.cells.get(cell).copied().flatten());
        Some((of(1)? / of(0)? - 1.0) * 100.0)
    };
    if let (Some(p50), Some(p99), Some(cpu)) = (added(0), added(1), added(2)) {
        table.notes.push(format!("Ledger and outbox add {p50:.0} % at p50, {p99:.0} % at p99, {cpu:.0} % of CPU."));
    }
    table.notes.push(format!(
        "{SETTLING_AT_ONCE} connections, each {SETTLED_A_SECOND} transactions a second, each committed to disk. CPU holds what \
         global-sync asks to number the facts."
    ));
    Ok(table)
}

/// Settles payments the PSP has agreed to, for a while.
async fn settle(stand: &Stand, payer: &Payer, adds: bool, duration: Duration) -> anyhow::Result<Vec<Option<f64>>> {
    let each = usize::try_from(u64::from(SETTLED_A_SECOND) * duration.as_secs())?;
    let agreed = SETTLING_AT_ONCE * each;
    let mut conn = stand.database.acquire().await?;
    let trips = payer.drives(&stand.tenant).driven(&mut conn, &vec![FARE; agreed]).await?;
    let payments: Vec<Uuid> = trips.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query(AGREED).bind(&payments).bind(&trips).execute(&mut *conn).await?;
    let url = stand.cluster.postgres_url_as(stand.region(), "gocomet_app");
    let mut conns = Vec::new();
    for _ in 0..SETTLING_AT_ONCE {
        conns.push(PgConnection::connect(&url).await?);
    }
    let (meter, begun) = (stand.meter()?, Instant::now());
    let pause = Duration::from_secs(1) / SETTLED_A_SECOND;
    let lanes = payments.chunks(each).zip(trips.chunks(each)).zip(conns).zip(0_u32..);
    let settling = lanes.map(|(((payments, trips), mut conn), lane)| async move {
        let mut due = interval_at(begun + pause * lane / u32::try_from(SETTLING_AT_ONCE)?, pause);
        let mut waits = Vec::new();
        for (payment, trip) in payments.iter().zip(trips) {
            due.tick().await;
            let began = Instant::now();
            let mut tx = conn.begin().await?;
            sqlx::query(BY_TENANT).bind(&stand.tenant).execute(&mut *tx).await?;
            sqlx::query(HOLD).bind(payment).execute(&mut *tx).await?;
            if adds {
                book(&mut tx, stand, payer, *payment, *trip).await?;
            } else {
                sqlx::query(SETTLE).bind(payment).execute(&mut *tx).await?;
            }
            tx.commit().await?;
            waits.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
        anyhow::Ok(waits)
    });
    let mut waits: Vec<f64> = try_join_all(settling).await?.concat();
    let cpu = meter.used()?.postgres_us / waits.len() as f64;
    Ok(vec![percentile(&mut waits, 0.5), percentile(&mut waits, 0.99), Some(cpu)])
}

/// The payment's row, the entry of its settlement, the postings of that and its fact, by one statement.
async fn book(conn: &mut PgConnection, stand: &Stand, payer: &Payer, payment: Uuid, trip: Uuid) -> anyhow::Result<()> {
    let entry = Uuid::new_v4();
    let (total, tax) = FARE;
    let fact = Fact::Settlement(LedgerEntry {
        fact_id: entry,
        payment_id: payment,
        trip_id: trip,
        tenant: stand.tenant.clone(),
        amount: total,
        currency: CURRENCY.to_owned(),
        settled_at: Clock::system().now(),
    });
    let driver = format!("driver:{}", payer.driver);
    let (accounts, commission) = (["psp:sandbox", &driver, "tenant:revenue", "tenant:tax"], 200);
    let amounts = [-total, total - tax - commission, commission, tax];
    let booking = sqlx::query(BOOK).bind(entry).bind(&stand.tenant).bind(payment).bind(CURRENCY);
    let booking = booking.bind(accounts).bind(amounts);
    let booking = booking.bind(Uuid::now_v7()).bind(fact.stream().as_str()).bind(fact.kind()).bind(fact.to_body());
    booking.execute(&mut *conn).await?;
    Ok(())
}

/// Payments like one that was made, the PSP's answer recorded and nothing settled yet; nobody goes on with them by himself.
const AGREED: &str = "INSERT INTO payments
    SELECT made.* FROM payments p, unnest($1::uuid[], $2::uuid[]) AS n (id, trip_id) JOIN trips t ON t.id = n.trip_id,
        jsonb_populate_record(p, jsonb_build_object('id', n.id, 'trip_id', n.trip_id, 'ride_id', t.ride_id,
            'status', 'authorized', 'settled_at', null, 'idempotency_key', null)) AS made
    WHERE p.id = (SELECT id FROM payments WHERE status = 'settled' ORDER BY id LIMIT 1)";
const BY_TENANT: &str = "SELECT set_config('app.tenant_id', $1, true)";
const HOLD: &str = "SELECT * FROM payments WHERE id = $1 FOR UPDATE";
const SETTLE: &str =
    "UPDATE payments SET status = 'settled', next_attempt_at = NULL, last_error = NULL, settled_at = now(),
    updated_at = now() WHERE id = $1";
const BOOK: &str = "WITH entry AS (
        INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at)
        VALUES ($1, $2, 'settlement', $3, $4, now())
    ), settled AS (
        UPDATE payments SET status = 'settled', next_attempt_at = NULL, last_error = NULL, settled_at = now(), updated_at = now()
        WHERE id = $3
    ), told AS (
        INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body)
        VALUES ($7, $8, $9, $2, 1, 1, $10)
    )
    INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
    SELECT $1, line, $2, account, amount
    FROM unnest($5::text[], $6::bigint[]) WITH ORDINALITY AS posting (account, amount, line)";
