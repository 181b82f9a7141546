//! Generations of a draft, as their facts arrive here in whatever order.

use serde_json::{Value, json};
use shared::{
    fact::{ConfigAdopted, ConfigChanged, ConfigCompacted, Fact, FactStream},
    tenant_document::{DocumentActor, TenantDocument},
};
use sqlx::PgPool;

use crate::{
    protocol::Head,
    store::tests::{Home, batch, log},
};

const TENANT: &str = "porto-taxis";

fn edit(doc: &mut TenantDocument, region: &str, generation: u32, patch: Value) -> Fact {
    let change = doc.apply_merge_patch(None, &patch, &DocumentActor::of(region, 1)).unwrap().unwrap();
    Fact::ConfigChanged(ConfigChanged { tenant: TENANT.to_owned(), generation, changes: vec![change] })
}

fn copy(doc: &mut TenantDocument) -> TenantDocument {
    TenantDocument::load(&doc.save()).unwrap()
}

/// What three regions wrote around a new generation, each into its own log, and the document it comes to.
struct Story {
    home: Vec<Fact>,
    west: Vec<Fact>,
    expected: TenantDocument,
}

/// ap-south is the home; eu-west edits the older generation while the new one is on its way.
fn story() -> Story {
    let mut first = TenantDocument::create(TENANT, 0);
    let mut home = vec![edit(&mut first, "ap-south", 0, json!({"currency": "INR", "labels": {"a": 1}}))];
    let mut west_doc = copy(&mut first);
    let mut west = vec![edit(&mut west_doc, "eu-west", 0, json!({"labels": {"b": "before"}}))];
    // The home has this one; what comes after it, it has not.
    first.merge(&mut west_doc).unwrap();
    let base = first.heads();
    west.push(edit(&mut west_doc, "eu-west", 0, json!({"labels": {"c": "late"}})));
    west.push(edit(&mut west_doc, "eu-west", 0, json!({"labels": {"c": "later", "a": null}})));
    let draft = first.to_json();
    let mut next = TenantDocument::compact(TENANT, 1, &draft).unwrap();
    let compacted = ConfigCompacted { tenant: TENANT.to_owned(), generation: 1, base: base.clone(), draft };
    home.push(Fact::ConfigCompacted(compacted));
    home.push(edit(&mut next, "ap-south", 1, json!({"labels": {"d": "new"}})));
    let mut all = copy(&mut west_doc);
    all.merge(&mut first).unwrap();
    let mut carried = copy(&mut next);
    carried.carry_over(&mut all, &base).unwrap();
    west.push(Fact::ConfigAdopted(ConfigAdopted { tenant: TENANT.to_owned(), generation: 1 }));
    west.push(edit(&mut carried, "eu-west", 1, json!({"labels": {"e": "after"}})));
    Story { home, west, expected: carried }
}

/// Lets facts of both logs arrive, the next of the one or the other as `turns` says.
async fn arrive(us: &Home, story: &Story, turns: &[bool]) {
    let (home, west) = (log("ap-south", FactStream::Config), log("eu-west", FactStream::Config));
    let mut heads = [Head::EMPTY, Head::EMPTY];
    let (mut from_home, mut from_west) = (story.home.iter(), story.west.iter());
    for turn in turns.iter().copied().chain([true; 8]).chain([false; 8]) {
        let (log, facts, head) =
            if turn { (&home, &mut from_home, &mut heads[0]) } else { (&west, &mut from_west, &mut heads[1]) };
        let Some(fact) = facts.next() else { continue };
        let batch = batch(log, *head, std::slice::from_ref(fact));
        *head = batch.checkpoint.head;
        us.store.receive(&batch).await.unwrap();
        us.apply_all().await;
    }
}

async fn assert_told(us: &Home, story: &mut Story) {
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_quarantine").await, 0, "nothing waits or is refused");
    assert_eq!(us.scalar::<Vec<String>>("SELECT heads FROM tenant_documents").await, story.expected.heads());
    assert_eq!(us.scalar::<Value>("SELECT draft FROM tenant_documents").await, story.expected.to_json());
    let labels = json!({"b": "before", "c": "later", "d": "new", "e": "after"});
    assert_eq!(story.expected.to_json()["labels"], labels, "nobody's edit is lost");
    assert_eq!(
        us.scalar::<Value>("SELECT adopted FROM tenant_documents").await,
        json!({"us-east": 1, "eu-west": 1, "ap-south": 1})
    );
    assert_eq!(
        us.scalar::<i64>("SELECT count(*) FROM repl_outbox WHERE kind = 'config.adopted'").await,
        1,
        "told once"
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn late_edits_arrive_after_the_generation_that_replaced_theirs(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let mut story = story();
    arrive(&us, &story, &[true, true, true, false, false, false]).await;
    assert_told(&us, &mut story).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn late_edits_arrive_before_the_generation_that_replaces_theirs(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let mut story = story();
    arrive(&us, &story, &[true, false, false, false, true, true]).await;
    assert_told(&us, &mut story).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_generation_waits_for_all_it_was_made_of_and_its_edits_for_it(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let mut story = story();
    arrive(&us, &story, &[false, false, false, false, false, true, true, true]).await;
    assert_told(&us, &mut story).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_homes_that_made_a_generation_the_later_one_s_stays(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let made = |draft: Value| ConfigCompacted {
        tenant: TENANT.to_owned(),
        generation: 1,
        base: TenantDocument::create(TENANT, 0).heads(),
        draft,
    };
    let (early, late) = (made(json!({"name": "Early"})), made(json!({"name": "Late"})));
    for order in [[(&early, 1), (&late, 2)], [(&late, 2), (&early, 1)]] {
        let mut connection = us.store.pool().acquire().await.unwrap();
        let mut draft = super::Draft::lock(&mut connection, TENANT).await.unwrap();
        for (fact, term) in order {
            assert_eq!(draft.take_generation(fact, crate::protocol::HomeEpoch { term, n: 0 }), None);
        }
        assert_eq!(draft.document.to_json(), json!({"name": "Late"}));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_lives_of_a_home_that_made_a_generation_one_s_stays_whichever_came_first(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let mut before = TenantDocument::create(TENANT, 0);
    let mut edited_by = |run: u32, name: &str| {
        let patch = json!({"name": name});
        let change = copy(&mut before).apply_merge_patch(None, &patch, &DocumentActor::of("ap-south", run));
        vec![change.unwrap().unwrap()]
    };
    let lives = [edited_by(1, "Forgotten"), edited_by(2, "Since")];
    let mut made = Vec::new();
    for changes in &lives {
        let mut document = TenantDocument::create(TENANT, 0);
        document.apply_changes(changes).unwrap();
        made.push(ConfigCompacted {
            tenant: TENANT.to_owned(),
            generation: 1,
            base: document.heads(),
            draft: document.to_json(),
        });
    }
    let mut drafts = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let mut connection = us.store.pool().acquire().await.unwrap();
        let mut draft = super::Draft::lock(&mut connection, TENANT).await.unwrap();
        for changes in &lives {
            draft.document.apply_changes(changes).unwrap();
        }
        for life in order {
            assert_eq!(draft.take_generation(&made[life], crate::protocol::HomeEpoch { term: 1, n: 0 }), None);
        }
        drafts.push(draft.document.to_json());
    }
    assert_eq!(drafts[0], drafts[1]);
}
