use std::collections::BTreeMap;

use shared::fact::FactStream;
use sqlx::{Executor as _, PgPool};

use super::*;
use crate::{
    protocol::{Head, LogId, LogState},
    store::tests::{CLUSTER, HashSigner, Home, batch, created, log, settlement},
};

fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

async fn meet(us: &Home, name: &str) {
    let origin = Origin { region: region(name), incarnation: 1 };
    us.store.save_member(&origin, MemberState::Active, 0, &[]).await.unwrap();
}

/// A peer says how far it is with a log.
async fn hear(us: &Home, peer: &str, of: LogId, seq: u64) {
    let state = LogState { head: Head { seq, hash: [0; 32] }, applied: seq, truncated: 0 };
    us.store.save_acks(&us.origin, &BTreeMap::from([((region(peer), of), Some(state))])).await.unwrap();
}

async fn join(us: &Home, configured: &[&str]) -> Joining {
    let configured: Vec<_> = configured.iter().map(|name| region(name)).collect();
    us.store.join_mesh(&us.fence, &us.origin, &configured).await.unwrap()
}

fn said(region: &str, incarnation: u64, state: MemberState) -> Fact {
    Fact::RegionState(RegionState { region: region.to_owned(), incarnation, state })
}

async fn stands(us: &Home, name: &str) -> Option<MemberState> {
    us.store.membership().await.unwrap().states.get(&region(name)).copied()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_joins_until_every_other_one_has_applied_that_it_does_and_it_has_what_they_have(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let own = log("us-east", FactStream::Control);
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Said(MemberState::Joining));
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Waits, "it is not numbered yet");
    us.number().await;
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Waits, "eu-west was never met");
    meet(&us, "eu-west").await;
    meet(&us, "ap-south").await;
    hear(&us, "eu-west", own.clone(), 1).await;
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Waits, "ap-south was met, and may not know of us");
    hear(&us, "ap-south", own.clone(), 0).await;
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Waits, "ap-south has not applied it");
    hear(&us, "ap-south", own, 1).await;
    let eu = log("eu-west", FactStream::Control);
    hear(&us, "ap-south", eu.clone(), 1).await;
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Waits, "others know more of the directory");
    us.store.receive(&batch(&eu, Head::EMPTY, &[created("eu-west", 1, 0)])).await.unwrap();
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Waits, "what is stored is not applied yet");
    us.apply_all().await;
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Said(MemberState::Active));
    us.number().await;
    assert_eq!(join(&us, &["eu-west"]).await, Joining::Over);
    assert_eq!(stands(&us, "us-east").await, Some(MemberState::Active));
    assert_eq!(us.store.logs().await.unwrap()[&log("us-east", FactStream::Control)].head.seq, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_is_alone_is_a_member_at_once_and_nobody_waits_for_one_that_is_gone(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    assert_eq!(join(&us, &[]).await, Joining::Said(MemberState::Joining));
    us.number().await;
    let eu = log("eu-west", FactStream::Control);
    let gone = said("ap-south", 1, MemberState::Retired);
    us.store.receive(&batch(&eu, Head::EMPTY, &[gone])).await.unwrap();
    us.apply_all().await;
    assert_eq!(join(&us, &["ap-south"]).await, Joining::Said(MemberState::Active));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_began_with_a_snapshot_joins_once_it_was_found_to_hold(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    join(&us, &[]).await;
    us.number().await;
    us.superuser.execute("UPDATE repl_self SET snapshot_of = 'eu-west'").await.unwrap();
    assert_eq!(us.store.membership().await.unwrap().unchecked, Some(region("eu-west")));
    assert_eq!(join(&us, &[]).await, Joining::Waits);
    us.store.confirm_snapshot(&us.fence).await.unwrap();
    assert_eq!(us.store.membership().await.unwrap().unchecked, None);
    assert_eq!(join(&us, &[]).await, Joining::Said(MemberState::Active));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_leaves_once_no_tenant_is_at_home_there_and_the_others_have_all_it_wrote(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    join(&us, &[]).await;
    meet(&us, "eu-west").await;
    let leave = async || {
        let had = us.store.logs().await.unwrap();
        us.store.leave(&us.fence, &us.origin, Some(&had)).await.unwrap()
    };
    assert!(matches!(leave().await, Leaving::Refused(why) if why.contains("drain")));
    us.store.drain(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().unwrap();
    assert!(us.store.drain(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().is_err(), "it drains already");

    let at_home =
        "INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ('cabs', 'Cabs', 'us-east', 1, 0)";
    sqlx::query(at_home).execute(&us.superuser).await.unwrap();
    assert!(matches!(leave().await, Leaving::Refused(why) if why.contains("cabs")));
    sqlx::query("UPDATE tenant_homes SET region = 'eu-west'").execute(&us.superuser).await.unwrap();

    us.commit(&settlement(1)).await;
    assert_eq!(leave().await, Leaving::Waits("3 facts are not numbered yet".to_owned()));
    us.number().await;
    let (control, ledger) = (log("us-east", FactStream::Control), log("us-east", FactStream::Ledger));
    hear(&us, "eu-west", control.clone(), 2).await;
    assert_eq!(leave().await, Leaving::Waits("eu-west has not stored 1 entries of this region".to_owned()));
    hear(&us, "eu-west", ledger, 1).await;
    assert_eq!(leave().await, Leaving::Waits("others have not heard that it has left".to_owned()));
    assert_eq!(stands(&us, "us-east").await, Some(MemberState::Retired));
    us.number().await;
    assert!(matches!(leave().await, Leaving::Waits(_)));
    hear(&us, "eu-west", control, 3).await;
    assert_eq!(leave().await, Leaving::Left);
}

/// Whoever wrote it may be gone, or may have come back with an older database.
#[sqlx::test(migrations = "../migrations")]
async fn a_region_leaves_once_the_others_have_what_it_had_of_any_region(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    join(&us, &[]).await;
    let eu = log("eu-west", FactStream::Control);
    us.store.receive(&batch(&eu, Head::EMPTY, &[created("eu-west", 1, 0)])).await.unwrap();
    us.store.drain(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().unwrap();
    us.number().await;
    for peer in ["eu-west", "ap-south"] {
        meet(&us, peer).await;
        hear(&us, peer, log("us-east", FactStream::Control), 2).await;
    }
    hear(&us, "eu-west", eu.clone(), 1).await;
    let leave = async |had: Option<&BTreeMap<_, _>>| us.store.leave(&us.fence, &us.origin, had).await.unwrap();
    assert_eq!(leave(None).await, Leaving::Waits("not every other region is connected".to_owned()));
    let had = us.store.logs().await.unwrap();
    assert_eq!(leave(Some(&had)).await, Leaving::Waits("ap-south has not stored 1 entries that are here".to_owned()));
    hear(&us, "ap-south", eu, 1).await;
    assert_eq!(leave(Some(&had)).await, Leaving::Waits("others have not heard that it has left".to_owned()));
    assert_eq!(stands(&us, "us-east").await, Some(MemberState::Retired));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_left_comes_back_as_a_new_life_on_which_others_count_before_it_is_a_member(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    join(&us, &[]).await;
    assert!(us.store.join_again(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().is_err(), "it has not left");
    meet(&us, "eu-west").await;
    us.store.drain(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().unwrap();
    us.number().await;
    hear(&us, "eu-west", log("us-east", FactStream::Control), 2).await;
    us.store.leave(&us.fence, &us.origin, Some(&BTreeMap::new())).await.unwrap();

    us.store.join_again(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().unwrap();
    let over = us.store.number(&us.fence, CLUSTER, &us.origin, &HashSigner).await;
    assert!(matches!(over, Err(StoreError::NotLeading)), "the life that left numbers nothing any more");
    let us = Home::new(&pool, "us-east").await;
    assert_eq!(us.origin.incarnation, 2);
    assert_eq!(stands(&us, "us-east").await, Some(MemberState::Joining), "a new life begins anew");
    assert!(us.store.join_again(&us.fence, Uuid::now_v7(), &us.origin).await.unwrap().is_err(), "it has come back");
    us.number().await;
    assert_eq!(join(&us, &[]).await, Joining::Waits, "eu-west does not know");
    hear(&us, "eu-west", LogId { origin: us.origin.clone(), stream: FactStream::Control }, 2).await;
    assert_eq!(join(&us, &[]).await, Joining::Said(MemberState::Active));
}

#[sqlx::test(migrations = "../migrations")]
async fn any_region_may_say_of_another_that_it_is_gone_and_nothing_else(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Control);
    let ap = log("ap-south", FactStream::Control);
    let facts = [
        said("ap-south", 1, MemberState::Draining),
        said("eu-west", 1, MemberState::Active),
        said("eu-west", 1, MemberState::Joining),
    ];
    us.store.receive(&batch(&eu, Head::EMPTY, &facts)).await.unwrap();
    assert_eq!(us.apply_all().await, 1, "eu-west does not speak for ap-south");
    assert_eq!(stands(&us, "eu-west").await, Some(MemberState::Active), "what comes later in a life stays");
    let gone = batch(&ap, Head::EMPTY, &[said("eu-west", 1, MemberState::Retired)]);
    us.store.receive(&gone).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(stands(&us, "eu-west").await, Some(MemberState::Retired));
    assert_eq!(us.store.members().await.unwrap(), vec![]);

    // It comes back; what is said late of the life before does not matter.
    let back = [said("eu-west", 2, MemberState::Joining), said("eu-west", 1, MemberState::Retired)];
    us.store.receive(&batch(&ap, gone.checkpoint.head, &back[1..])).await.unwrap();
    let head = us.store.logs().await.unwrap()[&eu].head;
    us.store.receive(&batch(&eu, head, &back[..1])).await.unwrap();
    us.apply_all().await;
    assert_eq!(stands(&us, "eu-west").await, Some(MemberState::Joining));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_where_tenants_are_at_home_is_not_given_up(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let retire = async |name: &str| us.store.retire(&us.fence, Uuid::now_v7(), &region(name)).await.unwrap();
    assert!(retire("mars-1").await.is_err(), "nobody knows it");
    meet(&us, "eu-west").await;
    let at_home =
        "INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ('cabs', 'Cabs', 'eu-west', 1, 0)";
    sqlx::query(at_home).execute(&us.superuser).await.unwrap();
    assert!(retire("eu-west").await.is_err_and(|why| why.contains("cabs")));
    sqlx::query("UPDATE tenant_homes SET region = 'us-east'").execute(&us.superuser).await.unwrap();
    retire("eu-west").await.unwrap();
    assert_eq!(stands(&us, "eu-west").await, Some(MemberState::Retired));
    assert_eq!(us.store.log_lags().await.unwrap(), vec![], "nobody waits for it");
}
