//! Who takes which ride: pure functions of the requests of one window and the drivers near them.
//!
//! Requests and drivers are numbered from zero by the caller. A [`Matching`] names, for each request, the candidates
//! that may take it and what each would cost; a [`Policy`] answers with at most one driver per request and at most one
//! request per driver. Serving a request always beats leaving it, whatever it costs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use pathfinding::prelude::{Matrix, kuhn_munkres};
use shared::tenant_config::DispatchMode;
use time::Duration;

/// One driver one request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The driver's number.
    pub driver: usize,
    /// Seconds to the pick-up.
    pub eta_s: u32,
    /// How long the driver has been without work.
    pub idle: Duration,
}

/// The candidates of each request, in the order the requests came in.
#[derive(Clone, Debug, Default)]
pub(super) struct Matching {
    /// By request.
    pub candidates: Vec<Vec<Candidate>>,
}

/// A way to match.
pub(super) trait Policy: Send + Sync {
    /// For each request the index of the chosen one of its candidates.
    fn assign(&self, matching: &Matching) -> Vec<Option<usize>>;
}

/// The policy a tenant chose.
pub(super) fn policy(mode: DispatchMode) -> &'static dyn Policy {
    match mode {
        DispatchMode::Batched => &Batched,
        DispatchMode::Nearest => &Nearest,
    }
}

/// All requests together at the least total cost.
pub(super) struct Batched;

/// Each request, in order of arrival, takes the nearest driver left.
pub(super) struct Nearest;

/// A minute of pick-up weighs as much as half an hour of waiting for work, and no more than that.
const IDLE_S_PER_ETA_S: i64 = 30;
const MOST_IDLE_BONUS_S: i64 = 60;

/// Above this many requests that compete for each other's drivers the cubic solver would take too long; the rest of
/// such a crowd is matched cheapest pair first.
const MOST_REQUESTS_SOLVED: usize = 250;

/// More than any sum of costs, so that a request served always weighs more than all that can be saved.
const SERVED: i64 = 1 << 40;

/// What a candidate costs, in seconds: the time to the pick-up less a bonus for having waited for work.
pub(super) fn cost_s(candidate: &Candidate) -> i64 {
    let bonus = (candidate.idle.whole_seconds() / IDLE_S_PER_ETA_S).clamp(0, MOST_IDLE_BONUS_S);
    i64::from(candidate.eta_s) - bonus
}

impl Policy for Nearest {
    fn assign(&self, matching: &Matching) -> Vec<Option<usize>> {
        let mut taken = std::collections::BTreeSet::new();
        let mut nearest = |candidates: &Vec<Candidate>| {
            let free = candidates.iter().enumerate().filter(|(_, candidate)| !taken.contains(&candidate.driver));
            let (index, chosen) = free.min_by_key(|(_, candidate)| (candidate.eta_s, candidate.driver))?;
            taken.insert(chosen.driver);
            Some(index)
        };
        matching.candidates.iter().map(&mut nearest).collect()
    }
}

impl Policy for Batched {
    fn assign(&self, matching: &Matching) -> Vec<Option<usize>> {
        let mut chosen = vec![None; matching.candidates.len()];
        for requests in groups(matching) {
            if requests.len() > MOST_REQUESTS_SOLVED {
                cheapest_pair_first(matching, &requests, &mut chosen);
            } else {
                solve(matching, &requests, &mut chosen);
            }
        }
        chosen
    }
}

/// Requests that share a candidate, directly or through others, must be solved together; the others need not, and an
/// assignment costs the cube of its size.
fn groups(matching: &Matching) -> Vec<Vec<usize>> {
    let mut leader: Vec<usize> = (0..matching.candidates.len()).collect();
    fn find(leader: &mut [usize], mut of: usize) -> usize {
        while leader[of] != of {
            leader[of] = leader[leader[of]];
            of = leader[of];
        }
        of
    }
    let mut first_with: BTreeMap<usize, usize> = BTreeMap::new();
    for (request, candidates) in matching.candidates.iter().enumerate() {
        for candidate in candidates {
            let other = *first_with.entry(candidate.driver).or_insert(request);
            let (a, b) = (find(&mut leader, request), find(&mut leader, other));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for request in 0..matching.candidates.len() {
        if !matching.candidates[request].is_empty() {
            groups.entry(find(&mut leader, request)).or_default().push(request);
        }
    }
    groups.into_values().collect()
}

fn solve(matching: &Matching, requests: &[usize], chosen: &mut [Option<usize>]) {
    if let [request] = requests {
        let candidates = matching.candidates[*request].iter().enumerate();
        chosen[*request] = candidates.min_by_key(|(_, c)| (cost_s(c), c.eta_s, c.driver)).map(|(index, _)| index);
        return;
    }
    let mut columns: Vec<usize> =
        requests.iter().flat_map(|request| &matching.candidates[*request]).map(|candidate| candidate.driver).collect();
    columns.sort_unstable();
    columns.dedup();
    // The solver wants no more rows than columns: surplus columns stand for "nobody", worth nothing to anyone.
    let width = columns.len().max(requests.len());
    let mut weights = Matrix::new(requests.len(), width, 0_i64);
    for (row, request) in requests.iter().enumerate() {
        for candidate in &matching.candidates[*request] {
            let column = columns.binary_search(&candidate.driver).expect("collected from the same candidates");
            weights[(row, column)] = SERVED - cost_s(candidate);
        }
    }
    let (_, columns_of_rows) = kuhn_munkres(&weights);
    for (row, column) in columns_of_rows.into_iter().enumerate() {
        let Some(driver) = columns.get(column) else { continue };
        chosen[requests[row]] = matching.candidates[requests[row]].iter().position(|c| c.driver == *driver);
    }
}

fn cheapest_pair_first(matching: &Matching, requests: &[usize], chosen: &mut [Option<usize>]) {
    let mut taken = std::collections::BTreeSet::new();
    let mut pairs: BinaryHeap<_> = requests
        .iter()
        .flat_map(|request| {
            let candidates = matching.candidates[*request].iter().enumerate();
            candidates.map(move |(index, c)| Reverse((cost_s(c), *request, index, c.driver)))
        })
        .collect();
    while let Some(Reverse((_, request, index, driver))) = pairs.pop() {
        if chosen[request].is_none() && taken.insert(driver) {
            chosen[request] = Some(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn candidate(driver: usize, eta_s: u32) -> Candidate {
        Candidate { driver, eta_s, idle: Duration::ZERO }
    }

    fn drivers(policy: &dyn Policy, matching: &Matching) -> Vec<Option<usize>> {
        let chosen = policy.assign(matching);
        assert_eq!(chosen.len(), matching.candidates.len());
        let drivers: Vec<_> =
            chosen.iter().zip(&matching.candidates).map(|(index, of)| index.map(|index| of[index].driver)).collect();
        let taken: Vec<_> = drivers.iter().flatten().collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "a driver was given twice");
        drivers
    }

    #[test]
    fn batched_gives_up_a_nearest_driver_where_that_saves_more() {
        let matching = Matching {
            candidates: vec![vec![candidate(0, 60), candidate(1, 70)], vec![candidate(0, 65), candidate(1, 600)]],
        };
        assert_eq!(drivers(&Batched, &matching), [Some(1), Some(0)]);
        assert_eq!(drivers(&Nearest, &matching), [Some(0), Some(1)]);
    }

    #[test]
    fn more_requests_than_drivers_leave_the_dearest_unserved() {
        let matching = Matching {
            candidates: vec![vec![candidate(0, 90)], vec![candidate(0, 30)], vec![], vec![candidate(0, 60)]],
        };
        assert_eq!(drivers(&Batched, &matching), [None, Some(0), None, None]);
    }

    #[test]
    fn two_rides_are_served_even_if_one_of_them_alone_would_be_cheaper() {
        let matching =
            Matching { candidates: vec![vec![candidate(0, 10), candidate(1, 3_000)], vec![candidate(0, 2_000)]] };
        assert_eq!(drivers(&Batched, &matching), [Some(1), Some(0)]);
    }

    #[test]
    fn of_two_drivers_as_near_the_one_who_waited_longer_drives() {
        let waited = Candidate { driver: 1, eta_s: 125, idle: Duration::minutes(20) };
        let matching = Matching { candidates: vec![vec![candidate(0, 120), waited]] };
        assert_eq!(drivers(&Batched, &matching), [Some(1)]);
        assert_eq!(drivers(&Nearest, &matching), [Some(0)]);
    }

    #[test]
    fn a_crowd_too_large_to_solve_is_still_matched() {
        let everybody: Vec<_> = (0..300).map(|driver| candidate(driver, 60 + driver as u32)).collect();
        let matching = Matching { candidates: vec![everybody; 280] };
        assert!(drivers(&Batched, &matching).iter().all(Option::is_some));
    }

    fn matchings() -> impl Strategy<Value = Matching> {
        let candidates = prop::collection::btree_map(0..5_usize, 0..1_000_u32, 0..5);
        prop::collection::vec(candidates, 0..5).prop_map(|requests| Matching {
            candidates: requests
                .into_iter()
                .map(|of| of.into_iter().map(|(driver, eta_s)| candidate(driver, eta_s)).collect())
                .collect(),
        })
    }

    /// The most requests served, and the least cost of serving so many, by trying everything.
    fn best(matching: &Matching, request: usize, taken: &mut BTreeSet<usize>) -> (usize, Reverse<i64>) {
        let Some(candidates) = matching.candidates.get(request) else { return (0, Reverse(0)) };
        let mut best_of_all = best(matching, request + 1, taken);
        for candidate in candidates {
            if taken.insert(candidate.driver) {
                let (served, Reverse(cost)) = best(matching, request + 1, taken);
                best_of_all = best_of_all.max((served + 1, Reverse(cost + cost_s(candidate))));
                taken.remove(&candidate.driver);
            }
        }
        best_of_all
    }

    proptest! {
        #[test]
        fn batched_serves_the_most_at_the_least_cost(matching in matchings()) {
            let chosen = Batched.assign(&matching);
            drivers(&Batched, &matching);
            let served = chosen.iter().flatten().count();
            let cost: i64 = chosen
                .iter()
                .zip(&matching.candidates)
                .filter_map(|(index, of)| index.map(|index| cost_s(&of[index])))
                .sum();
            prop_assert_eq!((served, Reverse(cost)), best(&matching, 0, &mut BTreeSet::new()));
        }

        #[test]
        fn nearest_never_leaves_a_request_that_has_a_free_candidate(matching in matchings()) {
            let chosen = drivers(&Nearest, &matching);
            let taken: BTreeSet<_> = chosen.iter().flatten().collect();
            for (driver, candidates) in chosen.iter().zip(&matching.candidates) {
                prop_assert!(driver.is_some() || candidates.iter().all(|c| taken.contains(&c.driver)));
            }
        }
    }
}
