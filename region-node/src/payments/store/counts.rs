use crate::db::SystemTx;

/// What waits, of all tenants.
pub(in crate::payments) struct Waiting {
    /// Payments whose outcome is not known, those given up included.
    pub(in crate::payments) unknown: i64,
    pub(in crate::payments) payments_given_up: i64,
    pub(in crate::payments) refunds_given_up: i64,
    /// By their banks, after they were settled.
    pub(in crate::payments) refunds_sent_back: i64,
    pub(in crate::payments) stray_disputes: i64,
}

pub(in crate::payments) async fn count_waiting(tx: &mut SystemTx) -> sqlx::Result<Waiting> {
    let sql = sqlx::query_as!(
        Waiting,
        r#"SELECT (SELECT count(*) FROM payments WHERE status = 'unknown') AS "unknown!",
               (SELECT count(*) FROM payments
                WHERE status IN ('pending', 'authorized', 'unknown') AND next_attempt_at IS NULL) AS "payments_given_up!",
               (SELECT count(*) FROM refunds
                WHERE status IN ('pending', 'authorized', 'unknown') AND next_attempt_at IS NULL) AS "refunds_given_up!",
               (SELECT count(*) FROM refunds
                WHERE status = 'failed' AND settled_at IS NOT NULL AND attended_at IS NULL) AS "refunds_sent_back!",
               (SELECT count(*) FROM stray_disputes WHERE attended_at IS NULL) AS "stray_disputes!""#
    );
    sql.fetch_one(tx.conn()).await
}
