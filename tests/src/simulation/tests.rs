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
        let empty_km_per_ride = outcome.empty_km() / outcome.waits.len() as f64;
        assert!((0.05..5.0).contains(&empty_km_per_ride), "{empty_km_per_ride}");
        assert!(outcome.gini() > 0.0 && outcome.gini() < 0.9, "{}", outcome.gini());
    }
}

#[tokio::test]
async fn where_drivers_are_scarce_riders_wait_far_shorter_if_requests_are_matched_together_than_if_in_turn() {
    let town = Town::manhattan().unwrap();
    let of = async |mode| {
        let evening = Scenario::new_york_evening(mode, 300, 1);
        simulate(&town, &Scenario { to_s: evening.from_s + 900.0, warm_up_s: 600.0, ..evening }).await
    };
    let (in_turn, together) = (of(DispatchMode::Nearest).await, of(DispatchMode::Batched).await);
    let (before, after) = (in_turn.pickup_wait(), together.pickup_wait());
    // In turn, drivers cross the town to whoever asked first: there is room for less than half of that wait.
    assert!(after.mean < 0.6 * before.mean, "{before:?} and {after:?}");
    assert!(after.p95 <= before.p95, "{before:?} and {after:?}");
    assert!(together.waits.len() > in_turn.waits.len(), "{} and {}", in_turn.waits.len(), together.waits.len());
}

#[tokio::test]
async fn a_dispatcher_that_knows_who_refuses_is_refused_less_often() {
    let town = Town::manhattan().unwrap();
    let of = async |refusal_cost_cap_s| {
        let evening = scenario(DispatchMode::Batched);
        let policy = DispatchPolicy { refusal_cost_cap_s, ..evening.policy.clone() };
        // With few drivers there is no choice.
        simulate(&town, &Scenario { policy, drivers: 800, ..evening }).await
    };
    let (blind, knowing) = (of(0).await, of(60).await);
    assert!(knowing.refused < blind.refused, "{} and {}", knowing.refused, blind.refused);
}

#[tokio::test]
async fn of_a_ride_offered_to_several_at_once_nobody_is_lost_and_somebody_accepts_sooner() {
    let town = Town::manhattan().unwrap();
    let of = async |group_size| {
        let evening = scenario(DispatchMode::Batched);
        let policy = DispatchPolicy { group_size, ..evening.policy.clone() };
        // More drivers than rides, or there is nobody else to ask.
        simulate(&town, &Scenario { policy, drivers: 1_500, ..evening }).await
    };
    let (one, three) = (of(1).await, of(3).await);
    let asked = |outcome: &Outcome| outcome.waits.len() + outcome.unserved + outcome.called_off;
    assert_eq!(asked(&one), asked(&three));
    let until_accepted_s = |outcome: &Outcome| {
        outcome.waits.iter().map(|wait| wait.accepted_after_s).sum::<f64>() / outcome.waits.len() as f64
    };
    assert!(
        until_accepted_s(&three) < until_accepted_s(&one),
        "{} {}",
        until_accepted_s(&three),
        until_accepted_s(&one)
    );
}

#[tokio::test]
async fn nobody_who_has_waited_half_an_hour_is_passed_over_for_a_newcomer_to_a_ride_five_minutes_away() {
    let town = Town::manhattan().unwrap();
    // Few enough to be needed, and enough that some wait.
    let of = async |idle_bonus_s| {
        let evening = Scenario::new_york_evening(DispatchMode::Batched, 900, 1);
        let policy = DispatchPolicy { idle_bonus_s, ..evening.policy.clone() };
        simulate(&town, &Scenario { policy, ..evening }).await
    };
    assert_eq!(of(DispatchPolicy::default().idle_bonus_s).await.starved(), 0);
    assert!(of(0).await.starved() > 0);
}
