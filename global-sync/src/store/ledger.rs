//! The ledger: a set of facts, and sums over it that tell in an instant whether two regions hold the same set.

use std::collections::BTreeMap;

use shared::fact::LedgerEntry;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{StoreError, hash, to_sql};
use crate::protocol::{Hash, HomeEpoch, Origin, hash_of};

/// A ledger fact on its way into the table.
#[derive(Clone, Debug)]
pub(super) struct NewFact {
    pub(super) seq: u64,
    pub(super) kind: &'static str,
    pub(super) entry: LedgerEntry,
    pub(super) epoch: HomeEpoch,
    /// Identifies the fact's content, see [`fact_hash`].
    pub(super) hash: Hash,
}

/// The same for the same kind and body, in every region.
pub(super) fn fact_hash(kind: &str, json: &[u8]) -> Hash {
    hash_of(&[kind.as_bytes(), &[0], json].concat())
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
    let column = |get: fn(&NewFact) -> Uuid| facts.iter().map(get).collect::<Vec<_>>();
    let numbers = |get: fn(&NewFact) -> i64| facts.iter().map(get).collect::<Vec<_>>();
    let texts = |get: fn(&NewFact) -> String| facts.iter().map(get).collect::<Vec<_>>();
    let settled: Vec<OffsetDateTime> = facts.iter().map(|fact| fact.entry.settled_at).collect();
    let hashes: Vec<Vec<u8>> = facts.iter().map(|fact| fact.hash.to_vec()).collect();
    let inserted = sqlx::query!(
        r#"INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
                                     origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash, late)
           SELECT f.fact_id, f.payment_id, f.trip_id, f.tenant_id, f.kind, f.amount, f.currency, $1, $2, f.seq,
                  f.home_term, f.home_n, f.settled_at, f.body_hash, COALESCE(h.term > f.home_term, false)
           FROM UNNEST($3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bigint[], $9::text[],
                       $10::bigint[], $11::bigint[], $12::bigint[], $13::timestamptz[], $14::bytea[])
                WITH ORDINALITY
                AS f (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, seq, home_term, home_n,
                      settled_at, body_hash, nr)
           LEFT JOIN tenant_homes h ON h.tenant_id = f.tenant_id
           ORDER BY f.nr
           ON CONFLICT (fact_id) DO NOTHING
           RETURNING fact_id, body_hash"#,
        origin.region.as_str(),
        to_sql(origin.incarnation),
        &column(|fact| fact.entry.fact_id),
        &column(|fact| fact.entry.payment_id),
        &column(|fact| fact.entry.trip_id),
        &texts(|fact| fact.entry.tenant.clone()),
        &texts(|fact| fact.kind.to_owned()),
        &numbers(|fact| fact.entry.amount),
        &texts(|fact| fact.entry.currency.clone()),
        &numbers(|fact| to_sql(fact.seq)),
        &numbers(|fact| to_sql(fact.epoch.term)),
        &numbers(|fact| to_sql(fact.epoch.n)),
        &settled,
        &hashes,
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in &inserted {
        sums.add(&hash(&row.body_hash)?);
    }
    sums.save(connection).await?;
    if inserted.len() == facts.len() {
        return Ok(Vec::new());
    }
    let known = sqlx::query!(
        "SELECT fact_id, body_hash FROM ledger_facts WHERE fact_id = ANY($1)",
        &column(|fact| fact.entry.fact_id)
    )
    .fetch_all(connection)
    .await?;
    let known: BTreeMap<Uuid, Vec<u8>> = known.into_iter().map(|row| (row.fact_id, row.body_hash)).collect();
    let contradicts = |fact: &&NewFact| known.get(&fact.entry.fact_id).is_none_or(|hash| *hash != fact.hash);
    Ok(facts.iter().filter(contradicts).map(|fact| fact.seq).collect())
}

/// Wrapping 256-bit sums by the first nibble of a fact's hash: the order facts came in leaves no mark.
pub(super) struct Sums {
    buckets: BTreeMap<i16, (i64, [u64; 4])>,
    changed: bool,
}

async fn lock_sums(connection: &mut PgConnection) -> Result<Sums, StoreError> {
    let rows = sqlx::query!("SELECT bucket, facts, sum FROM repl_ledger_digest ORDER BY bucket FOR UPDATE")
        .fetch_all(connection)
        .await?;
    let buckets = rows
        .into_iter()
        .map(|row| Ok((row.bucket, (row.facts, words(&hash(&row.sum)?)))))
        .collect::<Result<_, StoreError>>()?;
    Ok(Sums { buckets, changed: false })
}

impl Sums {
    fn add(&mut self, fact: &Hash) {
        let (facts, sum) = self.buckets.entry(i16::from(fact[0] >> 4)).or_default();
        *facts += 1;
        let mut carry = false;
        for (word, addend) in sum.iter_mut().zip(words(fact)).rev() {
            let (with_addend, over) = word.overflowing_add(addend);
            let (with_carry, over_again) = with_addend.overflowing_add(u64::from(carry));
            *word = with_carry;
            carry = over || over_again;
        }
        self.changed = true;
    }

    async fn save(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if !self.changed {
            return Ok(());
        }
        let buckets: Vec<i16> = self.buckets.keys().copied().collect();
        let facts: Vec<i64> = self.buckets.values().map(|(facts, _)| *facts).collect();
        let sums: Vec<Vec<u8>> =
            self.buckets.values().map(|(_, sum)| sum.iter().flat_map(|word| word.to_be_bytes()).collect()).collect();
        sqlx::query!(
            "UPDATE repl_ledger_digest d SET facts = n.facts, sum = n.sum
             FROM UNNEST($1::smallint[], $2::bigint[], $3::bytea[]) AS n (bucket, facts, sum)
             WHERE d.bucket = n.bucket AND d.facts <> n.facts",
            &buckets,
            &facts,
            &sums
        )
        .execute(connection)
        .await?;
        Ok(())
    }
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
                let mut sums = Sums { buckets: BTreeMap::new(), changed: false };
                facts.for_each(|fact| sums.add(fact));
                sums.buckets
            };
            prop_assert_eq!(sum(&mut facts.iter()), sum(&mut facts.iter().rev()));
        }
    }

    #[test]
    fn carries_pass_from_word_to_word() {
        let mut sums = Sums { buckets: BTreeMap::new(), changed: false };
        let mut one = [0; 32];
        one[31] = 1;
        let mut low = [0xff; 32];
        low[..8].fill(0);
        sums.add(&low);
        sums.add(&one);
        assert_eq!(sums.buckets[&0], (2, [1, 0, 0, 0]));
    }
}
