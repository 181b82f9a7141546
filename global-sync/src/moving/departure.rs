//! The old home: copies, pauses, hands over, erases.

use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Answer, Ask, Move, MoveError, connect,
    tables::{self, Shape},
};
use crate::{
    store::{Fence, Store},
    transport::MoveLink,
};

/// Bytes of rows in one frame, about.
const PIECE_BYTES: usize = 256 * 1024;
/// Changes are copied again until a round is as short as this; then writes may pause for one.
const SHORT: Duration = Duration::from_millis(750);
/// A tenant that changes faster than it can be copied does not move.
const MAX_ROUNDS: usize = 30;
/// Writes do not pause for longer: rather it is tried once more.
const PAUSE_AT_MOST: Duration = Duration::from_secs(3);
/// Commands that take longer than a hand-over may wait are tried to be waited for so often.
const MAX_PAUSES: usize = 5;
/// Positions that nodes here have yet to write when they hear of the hand-over.
const TAIL_AFTER: Duration = Duration::from_secs(3);

/// Goes on with a move from where its row says it is, to its end.
pub(crate) async fn go_on(
    store: &Store,
    fence: &Fence,
    moving: &Move,
    link: impl Future<Output = anyhow::Result<MoveLink>>,
) -> Result<(), MoveError> {
    let unreachable = |error: anyhow::Error| MoveError::Unreachable(moving.to.clone(), error.to_string());
    let is_over = match moving.state.as_str() {
        "erasing" => true,
        "handed_over" => false,
        _ if moving.is_cancelled => return Err(MoveError::Cancelled),
        _ => {
            // Whoever was here before may have died in the pause.
            store.resume_home(fence, moving).await?;
            false
        }
    };
    if !is_over {
        let mut link = link.await.map_err(unreachable)?;
        let since = match moving.state.as_str() {
            "handed_over" => None,
            _ => Some(Departure::begin(store, fence, moving, &mut link).await?.run().await?),
        };
        let tail = see_home_taken(store, moving, &mut link, since).await?;
        tracing::info!(tenant = moving.tenant, tail, "{} is at home in {} now", moving.tenant, moving.to);
        store.note_move(fence, moving.id, "erasing").await?;
    }
    let mut connection = connect(store, &moving.tenant).await?;
    let erased = tables::erase(&mut connection, &moving.tenant).await?;
    connection.close().await?;
    store.complete_move(fence, moving).await?;
    tracing::info!(tenant = moving.tenant, erased, "nothing of {} is here any more", moving.tenant);
    Ok(())
}

/// A copy under way.
struct Departure<'a> {
    store: &'a Store,
    fence: &'a Fence,
    moving: &'a Move,
    link: &'a mut MoveLink,
    connection: PgConnection,
    shapes: Vec<Shape>,
}

impl<'a> Departure<'a> {
    async fn begin(
        store: &'a Store,
        fence: &'a Fence,
        moving: &'a Move,
        link: &'a mut MoveLink,
    ) -> Result<Self, MoveError> {
        let mut connection = connect(store, &moving.tenant).await?;
        let shapes = tables::shapes(&mut connection).await?;
        let ask = Ask::Begin {
            tenant: moving.tenant.clone(),
            move_id: moving.id,
            term: moving.term,
            n: moving.n,
            wrapped_key: moving.wrapped_key.clone(),
            fingerprint: tables::fingerprint(&shapes),
        };
        link.say(&ask).await?;
        match link.hear().await? {
            Answer::Ready => {}
            Answer::Refused { reason } => {
                store.refuse_move(fence, moving, &format!("{} refuses: {reason}", moving.to)).await?;
                return Err(MoveError::Refused(reason));
            }
            other => return Err(not_that(moving, other)),
        }
        store.note_move(fence, moving.id, "copying").await?;
        Ok(Self { store, fence, moving, link, connection, shapes })
    }

    /// Copies until the home can be handed over, and hands it over; changes after the moment that is returned were not copied.
    async fn run(mut self) -> Result<i64, MoveError> {
        let mut since = self.round(None, false).await?.0;
        let mut is_verified = false;
        let mut pauses = 0;
        for _ in 0..MAX_ROUNDS {
            let (moment, took) = self.round(Some(since), false).await?;
            since = moment;
            if took > SHORT {
                continue;
            }
            if !is_verified {
                since = self.round(Some(since), true).await?.0;
                is_verified = true;
                continue;
            }
            match self.hand_over(since).await {
                Ok(since) => return Ok(since),
                // Commands were still under way, and nothing was sent yet.
                Err(MoveError::Store(error)) if error.is_lock_timeout() && pauses < MAX_PAUSES => {
                    tracing::info!(tenant = self.moving.tenant, "writes could not be paused; it is tried again");
                    pauses += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Err(MoveError::TooSlow("it changes faster than it can be copied"))
    }

    /// Pauses writes, sends what is left, and hands the home over.
    async fn hand_over(&mut self, since: i64) -> Result<i64, MoveError> {
        let paused = Instant::now();
        let copied = async {
            self.store.pause_home(self.fence, self.moving).await?;
            let left = PAUSE_AT_MOST.saturating_sub(paused.elapsed());
            match timeout(left, self.round(Some(since), false)).await {
                Ok(round) => round,
                Err(_) => Err(MoveError::TooSlow("the pause was not long enough for what was left")),
            }
        };
        let handed_over = match copied.await {
            Ok((moment, _)) => self.store.hand_home_over(self.fence, self.moving, paused).await.map(|()| moment),
            Err(error) => Err(error),
        };
        match handed_over {
            Ok(moment) => {
                metrics::histogram!("global_sync_move_pause_seconds").record(paused.elapsed().as_secs_f64());
                Ok(moment)
            }
            Err(error) => {
                self.store.resume_home(self.fence, self.moving).await?;
                Err(error)
            }
        }
    }

    /// Sends what has changed since a moment, or all, and sees to it that the other side has the same then; the moment this was
    /// true of, and how long it took. Digests cover every row, which takes longer.
    async fn round(&mut self, since: Option<i64>, with_digests: bool) -> Result<(i64, Duration), MoveError> {
        let begun = Instant::now();
        let tenant = &self.moving.tenant;
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let moment = moment(&mut self.connection).await?;
        for shape in &self.shapes {
            let ask = Ask::Table { name: shape.table.name.to_owned() };
            send(&mut self.connection, self.link, Some(&ask), shape.copy_out(tenant, since)).await?;
        }
        let sql = tables::counts(&self.shapes, tenant, with_digests);
        let counts = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut self.connection).await?;
        let mut surplus = self.compare(&counts).await?;
        if !surplus.is_empty() {
            for shape in self.shapes.iter().rev().filter(|shape| surplus.iter().any(|name| name == shape.table.name)) {
                self.link.say(&Ask::Keys { name: shape.table.name.to_owned() }).await?;
                send(&mut self.connection, self.link, None, shape.copy_keys(tenant)).await?;
            }
            surplus = self.compare(&counts).await?;
        }
        self.connection.execute("COMMIT").await?;
        match surplus.first() {
            None => Ok((moment, begun.elapsed())),
            Some(name) => Err(MoveError::Differs(format!("{name} has rows there that are not here"))),
        }
    }

    async fn compare(&mut self, counts: &[(i64, Option<String>)]) -> Result<Vec<String>, MoveError> {
        self.link.say(&Ask::Counts { tables: counts.to_vec() }).await?;
        match self.link.hear().await? {
            Answer::Counted { rows, surplus } => {
                self.store.note_rows(self.fence, self.moving.id, rows).await?;
                Ok(surplus)
            }
            other => Err(not_that(self.moving, other)),
        }
    }
}

/// Tells the new home, until it says that it is; then sends it what nodes here have written late. How many frames that was.
async fn see_home_taken(
    store: &Store,
    moving: &Move,
    link: &mut MoveLink,
    since: Option<i64>,
) -> Result<usize, MoveError> {
    let told = Ask::HandedOver {
        tenant: moving.tenant.clone(),
        from: store.own_region().await?,
        term: moving.term,
        n: moving.n + 1,
    };
    link.say(&told).await?;
    match link.hear().await? {
        Answer::Home => {}
        other => return Err(not_that(moving, other)),
    }
    sleep(TAIL_AFTER).await;
    let mut connection = connect(store, &moving.tenant).await?;
    let shapes = tables::shapes(&mut connection).await?;
    let tail = shapes.iter().find(|shape| shape.table.name == tables::TAIL).expect("what may come late is a table");
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    link.say(&Ask::Tail).await?;
    let frames = send(&mut connection, link, None, tail.copy_out(&moving.tenant, since)).await?;
    connection.execute("COMMIT").await?;
    connection.close().await?;
    // The end of the rows is whatever is said next.
    link.say(&told).await?;
    for _ in 0..2 {
        match link.hear().await? {
            Answer::Taken | Answer::Home => {}
            other => return Err(not_that(moving, other)),
        }
    }
    Ok(frames)
}

/// Where the transaction's view of the rows ends: the lowest number of a transaction it may not see whole.
async fn moment(connection: &mut PgConnection) -> Result<i64, MoveError> {
    let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint & 4294967295";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// What `COPY` says where there are no rows: a header and an end.
const NO_ROWS_BYTES: usize = 21;

/// Sends what a statement copies out, after `first` if there are rows, or at any rate where there is no `first`; how many frames
/// that was.
async fn send(
    connection: &mut PgConnection,
    link: &mut MoveLink,
    first: Option<&Ask>,
    copy: String,
) -> Result<usize, MoveError> {
    let mut rows = connection.copy_out_raw(&copy).await?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut frames = 0;
    loop {
        let row = rows.try_next().await?;
        let is_over = row.is_none();
        piece.extend_from_slice(&row.unwrap_or_default());
        if !is_over && piece.len() < PIECE_BYTES {
            continue;
        }
        if let Some(first) = first.filter(|_| frames == 0) {
            if piece.len() <= NO_ROWS_BYTES {
                return Ok(0);
            }
            link.say(first).await?;
        }
        let bytes = link.send_rows(&piece).await?;
        metrics::counter!("global_sync_move_sent_bytes_total").increment(bytes as u64);
        frames += 1;
        if is_over {
            return Ok(frames);
        }
        piece.clear();
    }
}

/// What to make of an answer that does not fit.
fn not_that(moving: &Move, answer: Answer) -> MoveError {
    match answer {
        Answer::Refused { reason } => MoveError::Refused(reason),
        Answer::Failed { reason } => MoveError::Failed(moving.to.clone(), reason),
        Answer::Ready
        | Answer::Counted { .. }
        | Answer::Home
        | Answer::Taken
        | Answer::Agreed { .. }
        | Answer::Outbid { .. }
        | Answer::Confirmed { .. } => {
            MoveError::Failed(moving.to.clone(), "it answered something else than was asked".to_owned())
        }
    }
}
