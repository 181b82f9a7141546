use sqlx::PgPool;

use crate::{
    protocol::{Head, LogId, Origin},
    store::tests::{Home, batch, log, settlement, taken},
};
use shared::fact::FactStream;

/// Where each fact's row says it is from, and whether it is late.
const SAID: &str = "SELECT string_agg(concat_ws(' ', origin_region, origin_incarnation, origin_seq, is_late(f)), ', '
                                      ORDER BY fact_id) FROM ledger_facts f";

fn life(incarnation: u64) -> LogId {
    let LogId { origin, stream } = log("eu-west", FactStream::Ledger);
    LogId { origin: Origin { incarnation, ..origin }, stream }
}

/// The home that was taken from eu-west had heard of its first life alone.
async fn us_after_a_takeover(pool: &PgPool) -> Home {
    let us = Home::new(pool, "us-east").await;
    let control = log("ap-south", FactStream::Control);
    us.store.receive(&batch(&control, Head::EMPTY, &[taken("ap-south", "porto-taxis", 9)])).await.unwrap();
    us.apply_all().await;
    us
}

/// A life that began on an old copy may settle again what the one before had, and reach a region sooner.
#[sqlx::test(migrations = "../migrations")]
async fn a_fact_told_in_two_lives_is_late_or_not_whichever_of_them_a_region_hears_of_first(pool: PgPool) {
    let us = us_after_a_takeover(&pool).await;
    let first = batch(&life(1), Head::EMPTY, &[settlement(1)]);
    let then = batch(&life(1), first.checkpoint.head, &[settlement(2)]);
    let last = batch(&life(1), then.checkpoint.head, &[settlement(3)]);
    let again = batch(&life(2), Head::EMPTY, &[settlement(1), settlement(2), settlement(3), settlement(2)]);
    for told in [&first, &again] {
        us.store.receive(told).await.unwrap();
        assert_eq!(us.apply_all().await, 0);
    }
    let before = us.store.digest().await.unwrap();
    assert_eq!(us.scalar::<String>(SAID).await, "eu-west 1 1 f, eu-west 2 2 t, eu-west 2 3 t");
    us.store.receive(&then).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(us.scalar::<String>(SAID).await, "eu-west 1 1 f, eu-west 1 2 f, eu-west 2 3 t");
    let received = us.store.receive_all(Some(&us.fence), &[last]).await.unwrap();
    assert_eq!(received.applied, 0, "it is here already, which wants a closer look");
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(us.scalar::<String>(SAID).await, "eu-west 1 1 f, eu-west 1 2 f, eu-west 1 3 f");
    assert_ne!(us.store.digest().await.unwrap(), before, "the logs are longer");
    assert_eq!(us.store.check_ledger(&us.fence).await.unwrap(), Vec::<i16>::new(), "and the facts are the same");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fact_that_two_regions_have_told_is_from_the_same_one_everywhere_and_another_body_from_neither(pool: PgPool) {
    let us = us_after_a_takeover(&pool).await;
    let us_west = log("us-west", FactStream::Ledger);
    us.store.receive(&batch(&us_west, Head::EMPTY, &[settlement(1), settlement(2)])).await.unwrap();
    us.apply_all().await;
    us.commit(&settlement(1)).await;
    us.number().await;
    assert_eq!(us.scalar::<String>(SAID).await, "us-east 1 1 t, us-west 1 2 t");
    let shared::fact::Fact::Settlement(entry) = settlement(2) else { unreachable!() };
    let other = shared::fact::Fact::Settlement(shared::fact::LedgerEntry { amount: 9, ..entry });
    us.store.receive(&batch(&life(1), Head::EMPTY, &[other])).await.unwrap();
    assert_eq!(us.apply_all().await, 1, "set aside");
    assert_eq!(us.scalar::<String>(SAID).await, "us-east 1 1 t, us-west 1 2 t");
}
