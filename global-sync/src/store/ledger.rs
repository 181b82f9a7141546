//! The ledger: a set of facts, and sums over it that tell in an instant whether two regions hold the same set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use shared::fact::{Fact, LedgerEntry, PayoutMade, WalletMoved};
use sqlx::PgConnection;
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use super::{Fence, Store, StoreError, from_sql, hash, retold, to_sql};
use crate::protocol::{Hash, HomeEpoch, Origin, hash_of};

/// What the ledger's row of a fact says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LedgerRow {
    pub(super) fact_id: Uuid,
    /// What was paid, and for which trip; of money that moved for a rider.
    pub(super) payment_id: Option<Uuid>,
    pub(super) trip_id: Option<Uuid>,
    /// By what, and who was paid; of a payout.
    pub(super) payout_id: Option<Uuid>,
    pub(super) driver_id: Option<Uuid>,
    /// By which entry, and whose; of a wallet that moved.
    pub(super) entry_id: Option<Uuid>,
    pub(super) rider_id: Option<Uuid>,
    pub(super) tenant: String,
    /// Minor units.
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) settled_at: OffsetDateTime,
}

impl LedgerRow {
    /// Of a fact that is one of the ledger's.
    pub(super) fn of(fact: Fact) -> Option<Self> {
        match fact {
            Fact::Settlement(entry) | Fact::Refund(entry) | Fact::Adjustment(entry) => {
                let LedgerEntry { fact_id, payment_id, trip_id, tenant, amount, currency, settled_at } = entry;
                let (payment_id, trip_id) = (Some(payment_id), Some(trip_id));
                Some(Self { payment_id, trip_id, ..Self::of_nothing(fact_id, tenant, amount, currency, settled_at) })
            }
            Fact::Payout(made) => {
                let PayoutMade { fact_id, payout_id, driver_id, tenant, amount, currency, paid_at } = made;
                let (payout_id, driver_id) = (Some(payout_id), Some(driver_id));
                Some(Self { payout_id, driver_id, ..Self::of_nothing(fact_id, tenant, amount, currency, paid_at) })
            }
            Fact::Wallet(moved) => {
                let WalletMoved { fact_id, entry_id, payment_id, rider_id, tenant, amount, currency, moved_at } = moved;
                let (entry_id, rider_id) = (Some(entry_id), Some(rider_id));
                let nothing = Self::of_nothing(fact_id, tenant, amount, currency, moved_at);
                Some(Self { payment_id, entry_id, rider_id, ..nothing })
            }
            Fact::RegionAnnounced(_)
            | Fact::TenantCreated(_)
            | Fact::TenantMoved(_)
            | Fact::ConfigChanged(_)
            | Fact::ConfigCompacted(_)
            | Fact::ConfigAdopted(_)
            | Fact::ConfigPublished(_)
            | Fact::ConfigRollout(_)
            | Fact::RegionState(_) => None,
        }
    }

    /// That money moved, without what it is about.
    fn of_nothing(fact_id: Uuid, tenant: String, amount: i64, currency: String, settled_at: OffsetDateTime) -> Self {
        let (payment_id, trip_id, payout_id, driver_id, entry_id, rider_id) = (None, None, None, None, None, None);
        Self {
            fact_id,
            payment_id,
            trip_id,
            payout_id,
            driver_id,
            entry_id,
            rider_id,
            tenant,
            amount,
            currency,
            settled_at,
        }
    }
}

/// A ledger fact on its way into the table.
#[derive(Clone, Debug)]
pub(super) struct NewFact {
    pub(super) seq: u64,
    pub(super) kind: &'static str,
    pub(super) row: LedgerRow,
    pub(super) epoch: HomeEpoch,
    /// Identifies the fact's content, see [`fact_hash`].
    pub(super) hash: Hash,
}

/// The database counts microseconds from here, and what is finer is cut off towards it.
const POSTGRES_EPOCH: OffsetDateTime = datetime!(2000-01-01 0:00 UTC);

impl NewFact {
    /// What the schema's `ledger_fact_hash` computes from the row this fact becomes.
    fn row_hash(&self) -> Hash {
        let LedgerRow { fact_id, payment_id, trip_id, payout_id, driver_id, entry_id, rider_id, .. } = self.row;
        let mut text = String::with_capacity(384);
        for id in [Some(fact_id), payment_id, trip_id, payout_id, driver_id, entry_id, rider_id].into_iter().flatten() {
            let mut spelled = Uuid::encode_buffer();
            text.push_str(id.hyphenated().encode_lower(&mut spelled));
            text.push(' ');
        }
        let LedgerRow { tenant, amount, currency, settled_at, .. } = &self.row;
        let micros = (*settled_at - POSTGRES_EPOCH).whole_microseconds()
            + i128::from(POSTGRES_EPOCH.unix_timestamp()) * 1_000_000;
        let sign = if micros < 0 { "-" } else { "" };
        let (seconds, fraction) = (micros.abs() / 1_000_000, micros.abs() % 1_000_000);
        let body_hash = hex::encode(self.hash);
        write!(text, "{tenant} {} {amount} {currency} {sign}{seconds}.{fraction:06} {body_hash}", self.kind)
            .expect("a string takes all");
        hash_of(text.as_bytes())
    }
}

/// The same for the same kind and body, in every region.
pub(super) fn fact_hash(kind: &str, json: &[u8]) -> Hash {
    hash_of(&[kind.as_bytes(), &[0], json].concat())
}

/// One text for what differs in its end only; a function cannot be given a query that is checked when it is built.
macro_rules! insert_rows {
    ($end:literal, $origin:expr, $facts:expr) => {{
        let column = |get: fn(&LedgerRow) -> Option<Uuid>| $facts.iter().map(|fact| get(&fact.row)).collect::<Vec<_>>();
        let numbers = |get: fn(&NewFact) -> u64| $facts.iter().map(get).map(to_sql).collect::<Result<Vec<_>, _>>();
        let (tenants, currencies): (Vec<&str>, Vec<&str>) =
            $facts.iter().map(|fact| (fact.row.tenant.as_str(), fact.row.currency.as_str())).unzip();
        sqlx::query!(
            "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
                                       origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash, payout_id,
                                       driver_id, entry_id, rider_id)
             SELECT f.fact_id, f.payment_id, f.trip_id, f.tenant_id, f.kind, f.amount, f.currency, $1, $2, f.seq,
                    f.home_term, f.home_n, f.settled_at, f.body_hash, f.payout_id, f.driver_id, f.entry_id, f.rider_id
             FROM UNNEST($3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bigint[], $9::text[],
                         $10::bigint[], $11::bigint[], $12::bigint[], $13::timestamptz[], $14::bytea[], $15::uuid[],
                         $16::uuid[], $17::uuid[], $18::uuid[])
                  WITH ORDINALITY
                  AS f (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, seq, home_term, home_n,
                        settled_at, body_hash, payout_id, driver_id, entry_id, rider_id, nr)
             ORDER BY f.nr" + $end,
            $origin.region.as_str(),
            to_sql($origin.incarnation)?,
            &$facts.iter().map(|fact| fact.row.fact_id).collect::<Vec<_>>(),
            &column(|row| row.payment_id) as &[Option<Uuid>],
            &column(|row| row.trip_id) as &[Option<Uuid>],
            &tenants as &[&str],
            &$facts.iter().map(|fact| fact.kind).collect::<Vec<_>>() as &[&str],
            &$facts.iter().map(|fact| fact.row.amount).collect::<Vec<_>>(),
            &currencies as &[&str],
            &numbers(|fact| fact.seq)?,
            &numbers(|fact| fact.epoch.term)?,
            &numbers(|fact| fact.epoch.n)?,
            &$facts.iter().map(|fact| fact.row.settled_at).collect::<Vec<_>>(),
            &$facts.iter().map(|fact| fact.hash.as_slice()).collect::<Vec<_>>() as &[&[u8]],
            &column(|row| row.payout_id) as &[Option<Uuid>],
            &column(|row| row.driver_id) as &[Option<Uuid>],
            &column(|row| row.entry_id) as &[Option<Uuid>],
            &column(|row| row.rider_id) as &[Option<Uuid>],
        )
    }};
}

/// Inserts facts of one origin; returns the numbers of those that contradict a fact that was here first.
///
/// The digest rows are locked before the insert: that serialises all writers of the ledger, so that `position` follows
/// the order of commits and a reader who remembers the last one misses nothing.
pub(super) async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    facts: &[NewFact],
) -> Result<Vec<u64>, StoreError> {
    if facts.is_empty() {
        return Ok(Vec::new());
    }
    let mut sums = lock_sums(connection).await?;
    let inserted = insert_rows!(" ON CONFLICT (fact_id) DO NOTHING RETURNING origin_seq", origin, facts)
        .fetch_all(&mut *connection)
        .await?;
    let inserted: BTreeSet<u64> = inserted.into_iter().map(|row| from_sql(row.origin_seq)).collect();
    for fact in facts.iter().filter(|fact| inserted.contains(&fact.seq)) {
        sums.add(&fact.row_hash());
    }
    sums.save(&mut *connection).await?;
    if inserted.len() == facts.len() {
        return Ok(Vec::new());
    }
    retold::keep_first(connection, origin, facts).await?;
    let ids: Vec<Uuid> = facts.iter().map(|fact| fact.row.fact_id).collect();
    let known = sqlx::query!("SELECT fact_id, body_hash FROM ledger_facts WHERE fact_id = ANY($1)", &ids)
        .fetch_all(connection)
        .await?;
    let known: BTreeMap<Uuid, Vec<u8>> = known.into_iter().map(|row| (row.fact_id, row.body_hash)).collect();
    let contradicts = |fact: &&NewFact| known.get(&fact.row.fact_id).is_none_or(|hash| *hash != fact.hash);
    Ok(facts.iter().filter(contradicts).map(|fact| fact.seq).collect())
}

/// Inserts facts of one origin none of which is here, at three quarters of what [`insert`] costs; an error about the data if one is.
pub(super) async fn insert_new(
    connection: &mut PgConnection,
    origin: &Origin,
    facts: &[NewFact],
) -> Result<(), StoreError> {
    let mut sums = lock_sums(connection).await?;
    insert_rows!("", origin, facts).execute(&mut *connection).await?;
    for fact in facts {
        sums.add(&fact.row_hash());
    }
    sums.save(connection).await
}

/// Has the row of a fact say what its entry does: altered, put in, or taken from under another name; whether it said anything
/// else before. The sums follow with the next look at the rows.
pub(super) async fn restore(
    connection: &mut PgConnection,
    origin: &Origin,
    fact: &NewFact,
) -> Result<bool, StoreError> {
    let NewFact { seq, kind, row, epoch, hash } = fact;
    let altered = sqlx::query!(
        "UPDATE ledger_facts f
         SET fact_id = $1, payment_id = $2, trip_id = $3, payout_id = $4, driver_id = $5, entry_id = $6, rider_id = $7,
             tenant_id = $8, kind = $9, amount = $10, currency = $11, settled_at = $12, body_hash = $13,
             origin_region = $14, origin_incarnation = $15, origin_seq = $16, home_term = $17, home_n = $18
         WHERE (fact_id = $1 OR (origin_region, origin_incarnation, origin_seq) = ($14, $15, $16))
           AND (fact_id, payment_id, trip_id, payout_id, driver_id, entry_id, rider_id, tenant_id, kind, amount, currency,
                settled_at, body_hash, origin_region, origin_incarnation, origin_seq, home_term, home_n)
               IS DISTINCT FROM ($1::uuid, $2::uuid, $3::uuid, $4::uuid, $5::uuid, $6::uuid, $7::uuid, $8::text, $9::text,
                                 $10::bigint, $11::text, $12::timestamptz, $13::bytea, $14::text, $15::bigint, $16::bigint,
                                 $17::bigint, $18::bigint)",
        row.fact_id,
        row.payment_id,
        row.trip_id,
        row.payout_id,
        row.driver_id,
        row.entry_id,
        row.rider_id,
        row.tenant,
        *kind,
        row.amount,
        row.currency,
        row.settled_at,
        hash.as_slice(),
        origin.region.as_str(),
        to_sql(origin.incarnation)?,
        to_sql(*seq)?,
        to_sql(epoch.term)?,
        to_sql(epoch.n)?
    )
    .execute(&mut *connection)
    .await?;
    if altered.rows_affected() > 0 {
        return Ok(true);
    }
    let is_there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM ledger_facts WHERE fact_id = $1) AS "is_there!""#,
        row.fact_id
    );
    if is_there.fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    insert(connection, origin, std::slice::from_ref(fact)).await?;
    Ok(true)
}

/// Takes in the facts of a snapshot that are not here; returns how many. They are in the table `incoming_fact` already.
pub(super) async fn take_facts(connection: &mut PgConnection, own: &Origin) -> Result<u64, StoreError> {
    let mut sums = lock_sums(connection).await?;
    let newest: i64 =
        sqlx::query_scalar("SELECT COALESCE(max(position), 0) FROM ledger_facts").fetch_one(&mut *connection).await?;
    let taken = sqlx::query(
        "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
                                   origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash,
                                   payout_id, driver_id, entry_id, rider_id)
         SELECT fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region, origin_incarnation,
                origin_seq, home_term, home_n, settled_at, body_hash, payout_id, driver_id,
                entry_id, rider_id
         FROM incoming_fact ON CONFLICT (fact_id) DO NOTHING",
    )
    .execute(&mut *connection)
    .await?;
    // Of what an earlier life of ours has settled another region has just shown that it is durable there.
    sqlx::query(
        "INSERT INTO repl_remote_durable (origin_region, origin_incarnation, seq)
         SELECT origin_region, origin_incarnation, max(origin_seq) FROM incoming_fact WHERE origin_region = $1
         GROUP BY 1, 2 ON CONFLICT DO NOTHING",
    )
    .bind(own.region.as_str())
    .execute(&mut *connection)
    .await?;
    for (bucket, sum) in sum_rows(connection, newest).await?.buckets {
        sums.add_sum(bucket, sum);
    }
    sums.save(connection).await?;
    Ok(taken.rows_affected())
}

/// Wrapping 256-bit sums by the first nibble of a fact's hash, which the schema's `ledger_fact_hash` computes from the
/// row itself: the order facts came in leaves no mark.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    buckets: BTreeMap<i16, Sum>,
    changed: bool,
}

/// How many facts, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    facts: i64,
    hashes: [u64; 4],
}

impl Sum {
    fn plus(self, other: Self) -> Self {
        let mut hashes = self.hashes;
        let mut carry = false;
        for (word, addend) in hashes.iter_mut().zip(other.hashes).rev() {
            let (with_addend, over) = word.overflowing_add(addend);
            let (with_carry, over_again) = with_addend.overflowing_add(u64::from(carry));
            *word = with_carry;
            carry = over || over_again;
        }
        Self { facts: self.facts + other.facts, hashes }
    }

    fn minus(self, other: Self) -> Self {
        let complement = Self { facts: -other.facts, hashes: other.hashes.map(|word| !word) };
        self.plus(complement).plus(Self { facts: 0, hashes: [0, 0, 0, 1] })
    }
}

async fn lock_sums(connection: &mut PgConnection) -> Result<Sums, StoreError> {
    let rows = sqlx::query!("SELECT bucket, facts, sum FROM repl_ledger_digest ORDER BY bucket FOR UPDATE")
        .fetch_all(connection)
        .await?;
    let buckets = rows
        .into_iter()
        .map(|row| Ok((row.bucket, Sum { facts: row.facts, hashes: words(&hash(&row.sum)?) })))
        .collect::<Result<_, StoreError>>()?;
    Ok(Sums { buckets, changed: false })
}

impl Sums {
    fn add(&mut self, fact: &Hash) {
        self.add_sum(i16::from(fact[0] >> 4), Sum { facts: 1, hashes: words(fact) });
    }

    fn add_sum(&mut self, bucket: i16, sum: Sum) {
        let known = self.buckets.entry(bucket).or_default();
        *known = known.plus(sum);
        self.changed = true;
    }

    async fn save(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if !self.changed {
            return Ok(());
        }
        let buckets: Vec<i16> = self.buckets.keys().copied().collect();
        let facts: Vec<i64> = self.buckets.values().map(|sum| sum.facts).collect();
        let sums: Vec<Vec<u8>> =
            self.buckets.values().map(|sum| sum.hashes.iter().flat_map(|word| word.to_be_bytes()).collect()).collect();
        sqlx::query!(
            "UPDATE repl_ledger_digest d SET facts = n.facts, sum = n.sum
             FROM UNNEST($1::smallint[], $2::bigint[], $3::bytea[]) AS n (bucket, facts, sum)
             WHERE d.bucket = n.bucket AND (d.facts, d.sum) IS DISTINCT FROM (n.facts, n.sum)",
            &buckets,
            &facts,
            &sums
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Compares the sums with the rows they are sums of. Where a row was altered, removed or added behind our back the sums
    /// follow the rows, so that the digest shows what is there; returns the buckets that differed.
    pub async fn check_ledger(&self, fence: &Fence) -> Result<Vec<i16>, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        let mut look = Look::begin(&mut tx).await?;
        while look.goes_on(&mut tx).await? {}
        tx.rollback().await?;
        let corrections = look.corrections();
        if !corrections.is_empty() {
            // Facts have come in meanwhile; they are in the sums, and so is what was wrong with them.
            let mut tx = self.begin_fenced(fence).await?;
            let mut sums = lock_sums(&mut tx).await?;
            for (bucket, correction) in &corrections {
                sums.add_sum(*bucket, *correction);
            }
            sums.save(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(corrections.into_iter().map(|(bucket, _)| bucket).collect())
    }
}

/// A look at the ledger's rows, slice by slice, for those that are not what was put there.
pub(super) struct Look {
    said: Sums,
    found: Sums,
    after: i64,
    newest: i64,
}

impl Look {
    /// Begins one, of what a transaction sees.
    pub(super) async fn begin(connection: &mut PgConnection) -> Result<Self, StoreError> {
        let mut said = Sums::default();
        for row in sqlx::query!("SELECT bucket, facts, sum FROM repl_ledger_digest").fetch_all(&mut *connection).await?
        {
            said.add_sum(row.bucket, Sum { facts: row.facts, hashes: words(&hash(&row.sum)?) });
        }
        Ok(Self { said, found: Sums::default(), after: 0, newest: newest(connection).await? })
    }

    /// Looks on; false once all is seen.
    pub(super) async fn goes_on(&mut self, connection: &mut PgConnection) -> Result<bool, StoreError> {
        if self.after >= self.newest {
            return Ok(false);
        }
        sum_slice(connection, self.after, &mut self.found).await?;
        self.after += SLICE;
        Ok(true)
    }

    /// Whether the rows seen are what was put there.
    pub(super) fn is_whole(&self) -> bool {
        self.corrections().is_empty()
    }

    /// The buckets whose sums are not those of their rows, and what the sums lack.
    fn corrections(&self) -> Vec<(i16, Sum)> {
        let sum = |sums: &Sums, bucket| sums.buckets.get(&bucket).copied().unwrap_or_default();
        let differs = |bucket| {
            let (said, found) = (sum(&self.said, bucket), sum(&self.found, bucket));
            (said != found).then(|| (bucket, found.minus(said)))
        };
        (0..16).filter_map(differs).collect()
    }
}

/// Rows summed by one statement.
const SLICE: i64 = 100_000;

async fn newest(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let sql = sqlx::query_scalar!(r#"SELECT COALESCE(max(position), 0) AS "newest!" FROM ledger_facts"#);
    Ok(sql.fetch_one(connection).await?)
}

/// Sums of the rows that came after a position.
async fn sum_rows(connection: &mut PgConnection, mut after: i64) -> Result<Sums, StoreError> {
    let mut sums = Sums::default();
    let newest = newest(connection).await?;
    while after < newest {
        sum_slice(connection, after, &mut sums).await?;
        after += SLICE;
    }
    Ok(sums)
}

/// Adds the rows of one slice, those after a position.
async fn sum_slice(connection: &mut PgConnection, after: i64, sums: &mut Sums) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT (get_byte(h, 0) >> 4)::smallint AS "bucket!", count(*) AS "facts!",
                      ARRAY[sum(('x' || substr(x, 1, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 9, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 17, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 25, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 33, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 41, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 49, 8))::bit(32)::bigint)::bigint,
                            sum(('x' || substr(x, 57, 8))::bit(32)::bigint)::bigint] AS "words!"
               FROM (SELECT h, encode(h, 'hex') AS x
                     FROM (SELECT ledger_fact_hash(f) AS h FROM ledger_facts f
                           WHERE position > $1 AND position <= $1 + $2) hashed) spelled
               GROUP BY 1"#,
        after,
        SLICE
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        sums.add_sum(row.bucket, Sum { facts: row.facts, hashes: from_halves(&row.words) });
    }
    Ok(())
}

/// A 256-bit number from sums of its eight 32-bit parts, the greatest first.
fn from_halves(halves: &[i64]) -> [u64; 4] {
    let mut words = [0; 4];
    let mut carry = 0_u128;
    for (index, half) in halves.iter().enumerate().rev() {
        let sum = carry + u128::from(half.unsigned_abs());
        carry = sum >> 32;
        let part = u64::try_from(sum & 0xffff_ffff).expect("32 bits");
        words[index / 2] |= if index % 2 == 1 { part } else { part << 32 };
    }
    words
}

fn words(hash: &Hash) -> [u64; 4] {
    let (chunks, _) = hash.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_be_bytes(chunks[index]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_do_not_depend_on_the_order(facts in prop::collection::vec(any::<[u8; 32]>(), 0..40)) {
            let sum = |facts: &mut dyn Iterator<Item = &Hash>| {
                let mut sums = Sums::default();
                facts.for_each(|fact| sums.add(fact));
                sums.buckets
            };
            prop_assert_eq!(sum(&mut facts.iter()), sum(&mut facts.iter().rev()));
        }

        #[test]
        fn what_was_added_can_be_taken_away(a in any::<[u64; 4]>(), b in any::<[u64; 4]>()) {
            let (a, b) = (Sum { facts: 3, hashes: a }, Sum { facts: 2, hashes: b });
            prop_assert_eq!(a.plus(b).minus(b), a);
        }

        #[test]
        fn sums_of_parts_are_parts_of_the_sum(hashes in prop::collection::vec(any::<[u8; 32]>(), 0..20)) {
            let whole = hashes.iter().fold(Sum::default(), |sum, hash| sum.plus(Sum { facts: 1, hashes: words(hash) }));
            let mut halves = [0; 8];
            for hash in &hashes {
                let (parts, _) = hash.as_chunks::<4>();
                for (half, part) in halves.iter_mut().zip(parts) {
                    *half += i64::from(u32::from_be_bytes(*part));
                }
            }
            prop_assert_eq!(from_halves(&halves), whole.hashes);
        }
    }

    #[test]
    fn carries_pass_from_word_to_word() {
        let mut sums = Sums::default();
        let mut one = [0; 32];
        one[31] = 1;
        let mut low = [0xff; 32];
        low[..8].fill(0);
        sums.add(&low);
        sums.add(&one);
        assert_eq!(sums.buckets[&0], Sum { facts: 2, hashes: [1, 0, 0, 0] });
    }
}
