use super::*;

fn scenario(mode: DispatchMode) -> Scenario {
    let evening = Scenario::new_york_evening(mode, 150, 1);
    Scenario { to_s: evening.from_s + 300.0, warm_up_s: 300.0, ..evening }
}

#[tokio::test]
async fn the_same_evening_happens_twice_in_the_same_way_and_another_seed_s_differs() {
    let town = Town::manhattan().unwrap();
    let once = simulate(&town, &scenario(DispatchMode::Batched)).await;
    assert_eq!(once, simulate(&town, &scenario(DispatchMode::Batched)).await);
    let other = simulate(&town, &Scenario { seed: 2, ..scenario(DispatchMode::Batched) }).await;
    assert_ne!(once, other);
}

#[tokio::test]
async fn everybody_who_asks_is_picked_up_gives_up_or_calls_off_and_nobody_is_lost() {
    let town = Town::manhattan().unwrap();
    for mode in [DispatchMode::Batched, DispatchMode::Nearest] {
        let scenario = scenario(mode);
        let outcome = simulate(&town, &scenario).await;
        let asked = town.rides.iter().filter(|ride| (scenario.from_s..scenario.to_s).contains(&ride.at_s)).count();
        assert!(asked > 200, "{asked}");
        assert_eq!(outcome.waits.len() + outcome.unserved + outcome.called_off, asked, "{mode:?}");
        assert!(
            outcome
                .waits
                .iter()
                .all(|wait| 0.0 < wait.accepted_after_s && wait.accepted_after_s < wait.picked_up_after_s)
        );
        assert!(outcome.gini() > 0.0 && outcome.gini() < 0.9, "{}", outcome.gini());
    }
}
