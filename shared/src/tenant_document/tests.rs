use proptest::prelude::*;
use serde_json::json;

use super::*;

fn actor(region: &str) -> DocumentActor {
    DocumentActor::of(region, 1)
}

fn document() -> TenantDocument {
    TenantDocument::create("porto-taxis", 0)
}

fn edit(doc: &mut TenantDocument, region: &str, patch: &Value) -> Vec<u8> {
    doc.apply_merge_patch(None, patch, &actor(region)).unwrap().expect("the patch changes something")
}

fn copy(doc: &mut TenantDocument) -> TenantDocument {
    TenantDocument::load(&doc.save()).unwrap()
}

#[test]
fn every_region_makes_the_same_first_document() {
    assert_eq!(document().heads(), document().heads());
    assert_eq!(document().save(), document().save());
    assert_ne!(document().heads(), TenantDocument::create("porto-taxis", 1).heads());
    assert_ne!(document().heads(), TenantDocument::create("manhattan-cabs", 0).heads());
    insta::assert_snapshot!(
        document().heads().join(" "),
        @"864494eccf037aeb30bf38a47583ba922c56989298058463d7caf90f5bd9f72c"
    );
}

#[test]
fn a_patch_reads_back_and_null_removes() {
    let mut doc = document();
    edit(
        &mut doc,
        "eu-west",
        &json!({"name": "Porto", "currency": "EUR", "labels": {"a": 1, "b": {"deep": true}},
                "tariffs": {"standard": {"base": 250, "per_km": 90}}, "vehicle_classes": ["standard", "xl"]}),
    );
    edit(&mut doc, "eu-west", &json!({"labels": {"a": null}, "tariffs": {"standard": {"per_km": 95}}}));
    assert_eq!(
        doc.to_json(),
        json!({"name": "Porto", "currency": "EUR", "labels": {"b": {"deep": true}},
               "tariffs": {"standard": {"base": 250, "per_km": 95}}, "vehicle_classes": ["standard", "xl"]})
    );
    edit(&mut doc, "eu-west", &json!({"labels": null, "name": null}));
    assert_eq!(doc.to_json().get("labels"), None);
    assert_eq!(doc.to_json().get("name"), None);
    assert_eq!(copy(&mut doc).to_json(), doc.to_json());
}

#[test]
fn a_patch_that_changes_nothing_makes_no_change() {
    let mut doc = document();
    edit(&mut doc, "eu-west", &json!({"currency": "EUR"}));
    let heads = doc.heads();
    let patch = json!({"currency": "EUR", "labels": {"absent": null}, "flags": {}});
    assert!(doc.apply_merge_patch(None, &patch, &actor("eu-west")).unwrap().is_none());
    assert_eq!(doc.heads(), heads);
}

#[test]
fn a_container_cannot_be_replaced_by_something_else() {
    let mut doc = document();
    for patch in [json!({"labels": 3}), json!({"auth": {"clients": []}}), json!([1])] {
        let error = doc.apply_merge_patch(None, &patch, &actor("eu-west")).unwrap_err();
        assert!(matches!(error, DocumentError::NotAnObject(_)), "{error}");
    }
}

#[test]
fn concurrent_edits_of_one_tariff_are_never_mixed_and_show_as_a_conflict() {
    let mut here = document();
    edit(&mut here, "eu-west", &json!({"tariffs": {"standard": {"base": 250, "per_km": 90}}}));
    let mut there = copy(&mut here);
    let a = edit(&mut here, "eu-west", &json!({"tariffs": {"standard": {"base": 300}}}));
    let b = edit(&mut there, "us-east", &json!({"tariffs": {"standard": {"per_km": 120}}}));
    here.apply_changes(&[b]).unwrap();
    there.apply_changes(&[a]).unwrap();

    let one = json!({"base": 300, "per_km": 90});
    let other = json!({"base": 250, "per_km": 120});
    let merged = here.to_json()["tariffs"]["standard"].clone();
    assert!(merged == one || merged == other, "{merged}");
    assert_eq!(here.to_json(), there.to_json());
    assert_eq!(here.heads(), there.heads());
    assert_eq!(here.conflicts(), there.conflicts());
    let conflicts = here.conflicts();
    let [conflict] = conflicts.as_slice() else { panic!("one conflict") };
    assert_eq!(conflict.path, "/tariffs/standard");
    assert_eq!(conflict.winner, merged);
    assert!(conflict.values.contains(&one) && conflict.values.contains(&other));

    edit(&mut here, "eu-west", &json!({"tariffs": {"standard": merged}}));
    assert_eq!(here.conflicts(), [], "writing the value again settles it");
}

#[test]
fn equal_values_written_twice_are_no_conflict() {
    let mut here = document();
    let mut there = document();
    edit(&mut here, "eu-west", &json!({"currency": "EUR"}));
    let change = edit(&mut there, "us-east", &json!({"currency": "EUR"}));
    here.apply_changes(&[change]).unwrap();
    assert_eq!(here.conflicts(), []);
}

#[test]
fn a_patch_on_stale_heads_merges_instead_of_reverting() {
    let mut doc = document();
    edit(&mut doc, "eu-west", &json!({"currency": "EUR", "labels": {"tier": "silver"}}));
    let read_at = doc.heads();
    edit(&mut doc, "eu-west", &json!({"labels": {"tier": "gold"}}));
    for note in ["x", "y"] {
        let patch = json!({"timezone": "Europe/Lisbon", "labels": {"note": note, "tier": "silver"}});
        doc.apply_merge_patch(Some(&read_at), &patch, &actor("eu-west")).unwrap();
    }
    let merged = doc.to_json();
    assert_eq!(merged["labels"]["tier"], "gold", "silver was what the author saw, not what they changed");
    assert_eq!(merged["timezone"], "Europe/Lisbon");
    assert!(doc.conflicts().iter().any(|conflict| conflict.path == "/labels/note"));
    assert_eq!(copy(&mut doc).to_json(), merged, "stale edits of one actor still save and load");
}

#[test]
fn heads_nobody_knows_are_refused() {
    let mut doc = document();
    for heads in [vec![], vec!["zz".to_owned()], vec!["00".repeat(32)]] {
        let error = doc.apply_merge_patch(Some(&heads), &json!({"a": 1}), &actor("eu-west")).unwrap_err();
        assert!(matches!(error, DocumentError::UnknownHeads));
    }
}

#[test]
fn an_orphan_is_left_out_until_what_it_builds_on_arrives() {
    let mut author = document();
    let changes: Vec<_> = (0..5).map(|n| edit(&mut author, "us-east", &json!({"labels": {"n": n}}))).collect();
    let mut doc = document();
    let outcome = doc.apply_changes(&changes[2..]).unwrap();
    assert_eq!(outcome, AppliedChanges { fresh: 0, waiting: vec![0, 1, 2] });
    assert_eq!(doc.heads(), document().heads());

    let mut backwards = changes.clone();
    backwards.reverse();
    assert_eq!(doc.apply_changes(&backwards).unwrap(), AppliedChanges { fresh: 5, waiting: vec![] });
    assert_eq!(doc.apply_changes(&changes).unwrap(), AppliedChanges::default(), "twice is once");
    assert_eq!(doc.heads(), author.heads());
    assert_eq!(change_dependencies(&changes[0]).unwrap(), document().heads());
}

#[test]
fn a_change_of_another_tenants_document_never_enters() {
    let change = edit(&mut TenantDocument::create("manhattan-cabs", 0), "us-east", &json!({"currency": "USD"}));
    let mut doc = document();
    assert_eq!(doc.apply_changes(&[change]).unwrap().waiting, [0]);
    assert_eq!(doc.to_json(), json!({}));
}

#[test]
fn a_change_with_any_bit_flipped_is_rejected() {
    let mut author = document();
    let small = edit(&mut author, "us-east", &json!({"currency": "EUR"}));
    let large = edit(&mut author, "us-east", &json!({"labels": {"long": "ab ".repeat(100)}}));
    for change in [small, large] {
        for bit in 0..change.len() * 8 {
            let mut damaged = change.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(change_dependencies(&damaged).is_err(), "bit {bit} of {}", change.len());
        }
    }
}

#[test]
fn a_compressed_change_is_refused_before_it_is_unpacked() {
    let mut author = document();
    edit(&mut author, "us-east", &json!({"labels": {"long": "ab ".repeat(400)}}));
    let compressed = author.doc.get_last_local_change().unwrap().bytes().into_owned();
    assert_eq!(compressed[8], 2);
    assert!(matches!(change_dependencies(&compressed), Err(DocumentError::InvalidChange(_))));
}

#[test]
fn oversized_edits_are_refused() {
    let mut doc = document();
    let patch = json!({"labels": {"long": "x".repeat(MAX_CHANGE_BYTES)}});
    assert!(matches!(doc.apply_merge_patch(None, &patch, &actor("eu-west")), Err(DocumentError::TooLarge(_))));
    assert!(doc.apply_changes(&[vec![0; MAX_CHANGE_BYTES + 1]]).is_err());
}

#[test]
fn damaged_documents_do_not_load() {
    let mut doc = document();
    let saved = doc.save();
    assert!(TenantDocument::load(&saved[..saved.len() - 3]).is_err());
    assert!(TenantDocument::load(b"").is_err());
}

fn any_patch() -> impl Strategy<Value = Value> {
    let number = 0..4i64;
    prop_oneof![
        (0..3u8, number.clone()).prop_map(|(key, n)| json!({"labels": {format!("l{key}"): n}})),
        (0..3u8).prop_map(|key| json!({"labels": {format!("l{key}"): null}})),
        (number.clone(), number.clone())
            .prop_map(|(a, b)| json!({"tariffs": {"xl": {"base": a, "sum": a + b, "per_km": b}}})),
        number.clone().prop_map(|n| json!({"commission_percent": n})),
        number.prop_map(|n| json!({"surge": {"enabled": n > 1, "cap": n}, "flags": {"surge": n > 1}})),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Edit(usize, Value),
    EditAsOfStart(usize, Value),
    Deliver(usize, usize),
    Reload(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, any_patch()).prop_map(|(at, patch)| Step::Edit(at, patch)),
        1 => (0..3usize, any_patch()).prop_map(|(at, patch)| Step::EditAsOfStart(at, patch)),
        3 => (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Deliver(from, to)),
        1 => (0..3usize).prop_map(Step::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Three regions edit as they like, on fresh and on old heads, and hear of each other in any order; once each has
    /// every change they show the same draft, and no tariff was mixed from two edits.
    #[test]
    fn three_actors_converge(steps in prop::collection::vec(any_step(), 1..40), backwards: bool) {
        let regions = ["us-east", "eu-west", "ap-south"];
        let mut docs: Vec<_> = regions.iter().map(|_| document()).collect();
        let mut written: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
        for step in steps {
            match step {
                Step::Edit(at, patch) => {
                    written[at].extend(docs[at].apply_merge_patch(None, &patch, &actor(regions[at])).unwrap());
                }
                Step::EditAsOfStart(at, patch) => {
                    let start = document().heads();
                    let change = docs[at].apply_merge_patch(Some(&start), &patch, &actor(regions[at])).unwrap();
                    written[at].extend(change);
                }
                Step::Deliver(from, to) => {
                    docs[to].apply_changes(&written[from]).unwrap();
                }
                Step::Reload(at) => docs[at] = copy(&mut docs[at]),
            }
        }
        let mut all: Vec<_> = written.concat();
        if backwards {
            all.reverse();
        }
        for doc in &mut docs {
            prop_assert!(doc.apply_changes(&all).unwrap().waiting.is_empty());
        }
        let (first, others) = docs.split_first_mut().unwrap();
        for doc in others {
            prop_assert_eq!(doc.heads(), first.heads());
            prop_assert_eq!(doc.to_json(), first.to_json());
            prop_assert_eq!(doc.conflicts(), first.conflicts());
        }
        if let Some(tariff) = first.to_json()["tariffs"].get("xl") {
            let part = |name: &str| tariff[name].as_i64().unwrap();
            prop_assert_eq!(part("sum"), part("base") + part("per_km"));
        }
    }
}

#[test]
fn an_edit_is_made_only_if_every_region_can_take_it() {
    let mut refused = 0;
    for labels in (6_800..8_000).step_by(200) {
        // Small values: what a change says of each weighs more than they do.
        let patch: Map<_, _> = (0..labels).map(|n| (n.to_string(), json!(n))).collect();
        let (mut here, mut there) = (document(), document());
        match here.apply_merge_patch(None, &json!({"labels": patch}), &actor("eu-west")) {
            Ok(change) => assert_eq!(there.apply_changes(&[change.unwrap()]).unwrap().fresh, 1, "{labels} labels"),
            Err(DocumentError::TooLarge(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((1..6).contains(&refused), "{refused} of 6");
}

#[test]
fn a_thousand_edits_stay_small_over_generations_and_say_the_same() {
    let (mut plain, mut doc, mut generation, mut largest) = (document(), document(), 0, 0);
    for n in 0..1000 {
        let patch = json!({"labels": {(format!("l{}", n % 40)): format!("value {n}, which nobody has seen before")}});
        edit(&mut plain, "eu-west", &patch);
        edit(&mut doc, "eu-west", &patch);
        if doc.is_grown() {
            largest = largest.max(doc.save().len());
            generation += 1;
            doc = TenantDocument::compact("porto-taxis", generation, &doc.to_json()).unwrap();
        }
    }
    assert_eq!(doc.to_json(), plain.to_json());
    let small = TenantDocument::compact("porto-taxis", 9, &doc.to_json()).unwrap().save().len();
    assert_eq!(generation, 2, "one after every five hundred");
    assert!(small <= 1024 && largest <= 4 * 1024, "{small} bytes compacted, {largest} bytes at most");
}

#[test]
fn every_region_compacts_to_the_same_document() {
    let content =
        json!({"name": "Porto", "labels": {"b": 2, "a": [1, {"z": 1, "y": 2}]}, "tariffs": {"standard": {"base": 1}}});
    let mut one = TenantDocument::compact("porto-taxis", 1, &content).unwrap();
    assert_eq!(one.to_json(), content);
    insta::assert_snapshot!(
        one.heads().join(" "),
        @"f55332d78890759e1011726c1d3b46a191323236e557248bdb101a3e692353b4"
    );
    let mut empty = TenantDocument::compact("porto-taxis", 1, &json!({})).unwrap();
    assert_eq!(empty.heads(), TenantDocument::create("porto-taxis", 1).heads());
}

/// The next generation of `home`, with what `late` has beyond it, taken over in one go.
fn next_generation(home: &mut TenantDocument, late: &mut TenantDocument) -> TenantDocument {
    let mut next = TenantDocument::compact("porto-taxis", 1, &home.to_json()).unwrap();
    next.carry_over(late, &home.heads()).unwrap();
    next
}

#[test]
fn edits_of_the_older_generation_are_carried_over() {
    let mut home = document();
    edit(&mut home, "us-east", &json!({"name": "Porto", "labels": {"a": 1, "b": 1}}));
    let mut far = copy(&mut home);
    edit(&mut home, "us-east", &json!({"labels": {"c": 1}}));
    // One after the other, by two regions.
    edit(&mut far, "eu-west", &json!({"labels": {"a": 2}, "tariffs": {"standard": {"base": 300}}}));
    edit(&mut far, "eu-west", &json!({"labels": {"a": 3, "b": null}}));
    edit(&mut far, "ap-south", &json!({"labels": {"d": 4}}));
    let mut merged = copy(&mut home);
    merged.merge(&mut far).unwrap();
    let mut next = next_generation(&mut home, &mut merged);
    assert_eq!(next.to_json(), merged.to_json());
    assert!(next.conflicts().is_empty(), "{:?}", next.conflicts());
    assert_eq!(next.carry_over(&mut merged, &home.heads()).unwrap(), 0, "once");
    assert_eq!(copy(&mut next).carry_over(&mut merged, &home.heads()).unwrap(), 0, "also after it was stored");
}

#[test]
fn what_is_carried_over_stands_beside_what_was_written_meanwhile_and_shows_as_a_conflict() {
    let mut home = document();
    edit(&mut home, "us-east", &json!({"labels": {"a": 1}}));
    let mut far = copy(&mut home);
    edit(&mut far, "eu-west", &json!({"labels": {"a": "late"}}));
    let mut next = TenantDocument::compact("porto-taxis", 1, &home.to_json()).unwrap();
    edit(&mut next, "us-east", &json!({"labels": {"a": "new"}}));
    next.carry_over(&mut far, &home.heads()).unwrap();
    assert_eq!(next.conflicts()[0].values, [json!("late"), json!("new")]);
}

proptest! {
    /// Whenever a region hears of late edits and of edits made on the new generation, it ends with the same document.
    #[test]
    fn late_edits_end_in_the_same_document_in_every_order(order in Just((0..6_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut home = document();
        edit(&mut home, "us-east", &json!({"labels": {"a": 1}}));
        let (mut west, mut south) = (copy(&mut home), copy(&mut home));
        let late: Vec<Vec<u8>> = vec![
            edit(&mut west, "eu-west", &json!({"labels": {"a": 2}})),
            edit(&mut west, "eu-west", &json!({"labels": {"b": 2}})),
            edit(&mut south, "ap-south", &json!({"labels": {"a": 3}})),
            edit(&mut south, "ap-south", &json!({"labels": {"a": null}})),
        ];
        let base = home.heads();
        let mut author = TenantDocument::compact("porto-taxis", 1, &home.to_json()).unwrap();
        let new = [
            edit(&mut author, "us-east", &json!({"labels": {"a": 5}})),
            edit(&mut author, "us-east", &json!({"labels": {"c": 5}})),
        ];
        let mut expected = author;
        let mut all = copy(&mut home);
        all.apply_changes(&late).unwrap();
        expected.carry_over(&mut all, &base).unwrap();

        let mut previous = copy(&mut home);
        let mut next = TenantDocument::compact("porto-taxis", 1, &home.to_json()).unwrap();
        let mut waiting = order;
        while !waiting.is_empty() {
            waiting.retain(|at| match at {
                0..4 => {
                    let waits = !previous.apply_changes(&late[*at..=*at]).unwrap().waiting.is_empty();
                    next.carry_over(&mut previous, &base).unwrap();
                    waits
                }
                at => !next.apply_changes(&new[at - 4..=at - 4]).unwrap().waiting.is_empty(),
            });
        }
        prop_assert_eq!(next.heads(), expected.heads());
        prop_assert_eq!(next.to_json(), expected.to_json());
    }
}
