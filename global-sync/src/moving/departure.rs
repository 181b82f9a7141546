//! The old home: copies, pauses, hands over, erases.

use std::{pin::pin, time::Duration};

use futures::TryStreamExt as _;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Answer, Ask, Move, MoveError, connect,
    tables::{self, Remains, Shape, Tally},
};
use crate::{
    store::{Fence, Store},
    transport::MoveLink,
};

/// Bytes of rows in one frame, about.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes of a table's rows that the other side writes with one statement, about: it takes nothing meanwhile, and what is sent
/// waits, which must not take for ever.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Changes are copied again until a round is as short as this: the one in the pause, while nothing else is written, is no longer.
const SHORT: Duration = Duration::from_millis(1_500);
/// A tenant that changes faster than it can be copied does not move.
const MAX_ROUNDS: usize = 30;
/// Writes do not pause for longer: they go on, and it is tried once more.
const PAUSE_AT_MOST: Duration = Duration::from_secs(2);
/// So often writes pause in vain: commands took longer than a hand-over may wait, or the pause was too short.
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
        _ => false,
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
    let erased = erase(store, fence, &moving.tenant).await?;
    store.complete_move(fence, moving).await?;
    tracing::info!(tenant = moving.tenant, erased, "the move of {} to {} is over", moving.tenant, moving.to);
    Ok(())
}

/// Erases what a tenant has left here, some rows at a time; how many. Whoever stood still since the hand-over may go on when
/// another leads and the tenant is back, so each time it is made sure that neither is so. Rows are looked for outside of the
/// transaction that does, since whoever takes the lease or brings the tenant back has to wait for that.
async fn erase(store: &Store, fence: &Fence, tenant: &str) -> Result<u64, MoveError> {
    let mut connection = connect(store, tenant).await?;
    let (mut erased, mut remains) = (0, Remains::of(&mut connection, tenant).await?);
    while let Some(found) = remains.find_some(&mut connection).await? {
        let Some(mut tx) = store.begin_erasing(fence, tenant).await? else {
            tracing::warn!(tenant, erased, "{tenant} comes back, or is back: what is here of it stays");
            return Ok(erased);
        };
        erased += found.erase(&mut tx).await?;
        tx.commit().await?;
    }
    connection.close().await?;
    Ok(erased)
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
        let mut since = self.round(None, false).await?.moment;
        let (mut is_verified, mut pauses) = (false, 0);
        let mut took_before = Duration::MAX;
        for _ in 0..MAX_ROUNDS {
            let round = self.round(Some(since), false).await?;
            since = round.moment;
            let is_near = is_near(round.took, took_before);
            took_before = round.took;
            if !is_near {
                continue;
            }
            if !is_verified {
                since = self.round(Some(since), true).await?.moment;
                is_verified = true;
                took_before = Duration::MAX;
                continue;
            }
            match self.hand_over(since).await? {
                Paused::HandedOver(moment) => return Ok(moment),
                Paused::TooShort(moment) => since = moment,
                Paused::CommandsGoOn => {}
            }
            pauses += 1;
            tracing::info!(
                tenant = self.moving.tenant,
                pauses,
                "writes could not pause for long enough; it is tried again"
            );
            if pauses == MAX_PAUSES {
                break;
            }
        }
        let (took, pause) = (took_before.as_millis(), PAUSE_AT_MOST.as_millis());
        let why = format!(
            "it changes faster than it can be copied: what has changed takes {took} ms, and writes pause for {pause} ms at most"
        );
        Err(MoveError::TooSlow(why))
    }

    /// Pauses writes, sends what is left, and hands the home over. Where that would take too long writes go on, and what is left
    /// is sent all the same.
    async fn hand_over(&mut self, since: i64) -> Result<Paused, MoveError> {
        let (store, fence, moving) = (self.store, self.fence, self.moving);
        let paused = Instant::now();
        let handed_over = async {
            store.pause_home(fence, moving).await?;
            let mut round = pin!(self.round(Some(since), false));
            let moment = match timeout(PAUSE_AT_MOST.saturating_sub(paused.elapsed()), &mut round).await {
                Ok(round) => round?.moment,
                Err(_) => {
                    store.resume_home(fence, moving).await?;
                    return Ok(Paused::TooShort(round.await?.moment));
                }
            };
            store.hand_home_over(fence, moving, paused).await?;
            Ok(Paused::HandedOver(moment))
        };
        match handed_over.await {
            Ok(outcome) => {
                if matches!(outcome, Paused::HandedOver(_)) {
                    metrics::histogram!("global_sync_move_pause_seconds").record(paused.elapsed().as_secs_f64());
                }
                Ok(outcome)
            }
            Err(error) => {
                store.resume_home(fence, moving).await?;
                match error {
                    MoveError::Store(error) if error.is_lock_timeout() => Ok(Paused::CommandsGoOn),
                    error => Err(error),
                }
            }
        }
    }

    /// Sends what has changed since a moment, or all, and sees to it that the other side has the same then. Digests cover every
    /// row, which takes longer.
    async fn round(&mut self, since: Option<i64>, with_digests: bool) -> Result<Round, MoveError> {
        let begun = Instant::now();
        let tenant = &self.moving.tenant;
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let moment = moment(&mut self.connection).await?;
        // A change may take the place in an index that another leaves; of all there is at one moment none does.
        let in_parts = since.is_none();
        for shape in &self.shapes {
            if in_parts {
                // It takes long: whoever cancels it, or leads meanwhile, need not wait for its end.
                self.store.note_rows(self.fence, self.moving.id, 0).await?;
            }
            let ask = Ask::Table { name: shape.table.name.to_owned() };
            send(&mut self.connection, self.link, Some(&ask), in_parts, shape.copy_out(tenant, since)).await?;
        }
        // Both sides count at the same time.
        self.link.say(&Ask::Count { with_digests }).await?;
        let here = tables::tally(&mut self.connection, &self.shapes, tenant, with_digests).await?;
        let mut surplus = self.surplus(&here).await?;
        if !surplus.is_empty() {
            for shape in self.shapes.iter().rev().filter(|shape| surplus.contains(&shape.table.name)) {
                self.link.say(&Ask::Keys { name: shape.table.name.to_owned() }).await?;
                send(&mut self.connection, self.link, None, false, shape.copy_keys(tenant)).await?;
            }
            self.link.say(&Ask::Count { with_digests }).await?;
            surplus = self.surplus(&here).await?;
        }
        self.connection.execute("COMMIT").await?;
        match surplus.first() {
            None => Ok(Round { moment, took: begun.elapsed() }),
            Some(name) => Err(MoveError::Differs(format!("{name} has rows there that are not here"))),
        }
    }

    /// The tables of which the other side has more rows than there are here; it may not have fewer, nor other ones.
    async fn surplus(&mut self, here: &[Tally]) -> Result<Vec<&'static str>, MoveError> {
        let there = match self.link.hear().await? {
            Answer::Counted { written, tables } => {
                self.store.note_rows(self.fence, self.moving.id, written).await?;
                tables
            }
            other => return Err(not_that(self.moving, other)),
        };
        if there.len() != here.len() {
            return Err(MoveError::Differs("other tables move there".to_owned()));
        }
        let mut surplus = Vec::new();
        for ((shape, here), there) in self.shapes.iter().zip(here).zip(there) {
            let name = shape.table.name;
            if there.rows > here.rows {
                surplus.push(name);
            } else if there.rows < here.rows || there.digest != here.digest {
                let (there, here) = (there.rows.unwrap_or_default(), here.rows.unwrap_or_default());
                return Err(MoveError::Differs(format!(
                    "{name} has {there} rows there and {here} here, or other ones"
                )));
            }
        }
        Ok(surplus)
    }
}

/// What one round came to.
struct Round {
    /// Later changes were not copied.
    moment: i64,
    took: Duration,
}

/// How a pause of writes has ended.
enum Paused {
    /// The home is the other's; this is the moment of the last round.
    HandedOver(i64),
    /// Commands were under way for too long, and nothing was sent.
    CommandsGoOn,
    /// Writes went on before all was sent, as of this moment.
    TooShort(i64),
}

/// Whether writes may pause for what is left: that is little, or as little as it gets while the tenant goes on, and then the pause
/// itself, in which nobody else is busy, will show.
fn is_near(took: Duration, took_before: Duration) -> bool {
    let shrinks = took < took_before / 4 * 3;
    took <= SHORT || took <= 2 * PAUSE_AT_MOST && !shrinks
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
    let frames = send(&mut connection, link, None, false, tail.copy_out(&moving.tenant, since)).await?;
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

/// What `COPY` says before the first row, with no flags and nothing added.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it says after the last.
const TRAILER: &[u8] = &[0xff, 0xff];

/// Sends what a statement copies out, after `first` if there are rows, or at any rate where there is no `first`; how many frames
/// that was. In parts, each begins with `first`.
async fn send(
    connection: &mut PgConnection,
    link: &mut MoveLink,
    first: Option<&Ask>,
    in_parts: bool,
    copy: String,
) -> Result<usize, MoveError> {
    let mut rows = connection.copy_out_raw(&copy).await?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let (mut frames, mut part_bytes) = (0, 0);
    loop {
        // A message from Postgres is one row, or the trailer.
        let row = rows.try_next().await?;
        let is_over = row.is_none();
        let row = row.unwrap_or_default();
        piece.extend_from_slice(&row);
        if !is_over && piece.len() < PIECE_BYTES {
            continue;
        }
        part_bytes += piece.len();
        let next_part = first.filter(|_| in_parts && !is_over && row != TRAILER && part_bytes >= PART_BYTES);
        if next_part.is_some() {
            piece.extend_from_slice(TRAILER);
        }
        if let Some(first) = first.filter(|_| frames == 0) {
            if piece.len() <= HEADER.len() + TRAILER.len() {
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
        if let Some(next_part) = next_part {
            link.say(next_part).await?;
            piece.extend_from_slice(HEADER);
            part_bytes = 0;
        }
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
