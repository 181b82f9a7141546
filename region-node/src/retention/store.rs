//! All SQL of retention.
//!
//! What is swept is found by its own keys, which begin with a ride or a trip and so with the time that one was made: a sweep goes
//! from one to the next through the index that is there anyway, and no writer pays for another.

use shared::ids::RegionName;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{RIDES, ROWS, Table};
use crate::db::SystemTx;

/// How far a table's sweep is.
pub(super) struct Sweep {
    pub(super) begun_at: OffsetDateTime,
    /// None: the next one begins.
    pub(super) upto: Option<Uuid>,
}

/// Holds a table's sweep, if one is under way or the last began before `since`; none while another node does. One that begins after
/// `now` is from before a clock was put back.
pub(super) async fn hold(
    tx: &mut SystemTx,
    table: Table,
    since: OffsetDateTime,
    now: OffsetDateTime,
) -> sqlx::Result<Option<Sweep>> {
    let sweep = sqlx::query_as!(
        Sweep,
        "SELECT begun_at, upto FROM sweeps
         WHERE swept = $1 AND (upto IS NOT NULL OR begun_at NOT BETWEEN $2 AND $3) FOR UPDATE SKIP LOCKED",
        table.name(),
        since,
        now
    );
    sweep.fetch_optional(tx.conn()).await
}

/// Notes how far a sweep is that is held.
pub(super) async fn save(
    tx: &mut SystemTx,
    table: Table,
    begun_at: OffsetDateTime,
    upto: Option<Uuid>,
) -> sqlx::Result<()> {
    sqlx::query!("UPDATE sweeps SET begun_at = $2, upto = $3 WHERE swept = $1", table.name(), begun_at, upto)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// What a turn came to.
pub(super) struct Swept {
    /// Gone.
    pub(super) rows: i64,
    /// Rides or trips looked at, and the last of them.
    pub(super) rides: i64,
    pub(super) last: Option<Uuid>,
}

/// Sweeps rows of `$table`, each of which names by its `$key` what it is about, one of `$of`; that one's trip is `$trip`. It asks for
/// the home in the statement that deletes, as all background work does, and waits for nobody who deletes the same rows.
macro_rules! sweep {
    ($tx:expr, $turn:expr, $table:tt, $key:tt, $of:tt, $trip:tt) => {{
        let (after, before, region): (Uuid, OffsetDateTime, &RegionName) = $turn;
        let sql = sqlx::query_as!(
            Swept,
            r#"WITH RECURSIVE looked_at (id, n) AS (
                   (SELECT "# + $key + r#", 1 FROM "# + $table + r#"
                    WHERE "# + $key + r#" > $1 AND "# + $key + r#" < $2 ORDER BY "# + $key + r#" LIMIT 1)
                   UNION ALL
                   SELECT later.id, l.n + 1 FROM looked_at l CROSS JOIN LATERAL (
                       SELECT "# + $key + r#" AS id FROM "# + $table + r#"
                       WHERE "# + $key + r#" > l.id AND "# + $key + r#" < $2 ORDER BY "# + $key + r#" LIMIT 1
                   ) later WHERE l.n < $5
               ), due AS (
                   SELECT o.id FROM looked_at l JOIN "# + $of + r#" o ON o.id = l.id
                   WHERE o.ended_at < $3
                     AND EXISTS (SELECT FROM tenant_homes h WHERE h.tenant_id = o.tenant_id AND h.region = $4 AND h.state = 'active')
                     AND NOT EXISTS (SELECT FROM tenant_moves m WHERE m.tenant_id = o.tenant_id AND m.ended_at IS NULL)
                     AND NOT EXISTS (
                         SELECT FROM payments p WHERE p.tenant_id = o.tenant_id AND p.trip_id = "# + $trip + r#"
                           AND (p.status IN ('pending', 'authorized', 'unknown')
                                OR EXISTS (SELECT FROM refunds r WHERE r.payment_id = p.id
                                             AND r.status IN ('pending', 'authorized', 'unknown'))
                                OR EXISTS (SELECT FROM disputes d WHERE d.payment_id = p.id AND d.status = 'open')))
               ), gone AS (
                   DELETE FROM "# + $table + r#" WHERE ctid = ANY(ARRAY(
                       SELECT own.ctid FROM due CROSS JOIN LATERAL (
                           SELECT ctid FROM "# + $table + r#" WHERE "# + $key + r#" = due.id FOR UPDATE SKIP LOCKED
                       ) own LIMIT $6
                   )) RETURNING 1
               )
               SELECT (SELECT count(*) FROM gone) AS "rows!", (SELECT count(*) FROM looked_at) AS "rides!",
                      (SELECT id FROM looked_at ORDER BY n DESC LIMIT 1) AS last"#,
            after,
            first_id_at(before),
            before,
            region.as_str(),
            RIDES,
            ROWS
        );
        sql.fetch_one($tx.conn()).await
    }};
}

/// Looks at what comes after `after` in a table, and deletes the rows of what had ended by `before`.
pub(super) async fn sweep(
    tx: &mut SystemTx,
    table: Table,
    after: Uuid,
    before: OffsetDateTime,
    region: &RegionName,
) -> sqlx::Result<Swept> {
    let turn = (after, before, region);
    match table {
        Table::Candidates => sweep!(tx, turn, "dispatch_candidates", "ride_id", "rides", "o.trip_id"),
        Table::Offers => sweep!(tx, turn, "offers", "ride_id", "rides", "o.trip_id"),
        Table::Traces => sweep!(tx, turn, "breadcrumbs", "trip_id", "trips", "o.id"),
    }
}

/// What was made earlier has a smaller id: what ended before a moment was made before it, too.
fn first_id_at(moment: OffsetDateTime) -> Uuid {
    let unix_ms = u128::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Uuid::from_u128(unix_ms << 80)
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn what_was_made_before_a_moment_has_a_smaller_id() {
        let id = Uuid::now_v7();
        let (s, ns) = id.get_timestamp().unwrap().to_unix();
        let made = OffsetDateTime::UNIX_EPOCH + Duration::new(s.cast_signed(), ns.cast_signed());
        assert!(first_id_at(made) <= id && id < first_id_at(made + Duration::milliseconds(1)));
    }
}
