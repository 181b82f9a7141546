//! Who takes which ride: pure functions of the requests of one window and the drivers near them.
//!
//! Requests and drivers are numbered from zero by the caller. A [`Matching`] names, for each request, the candidates
//! that may take it and what each would cost; a [`Policy`] answers with at most one driver per request and at most one
//! request per driver. Serving a request always beats leaving it, whatever it costs. Where some must be left, it is those
//! whose service costs most, less what their waiting is worth: nobody is passed over for ever.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use pathfinding::prelude::{Matrix, kuhn_munkres};
use shared::tenant_config::DispatchMode;
use time::Duration;

/// One driver one request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The driver's number.
    pub driver: usize,
    /// Seconds to the pick-up.
    pub eta_s: u32,
    /// What asking the driver costs, in seconds ([`super::cost`]).
    pub cost_s: i64,
}

/// A request and who may take it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How long the rider has waited.
    pub waited: Duration,
    /// In any order.
    pub candidates: Vec<Candidate>,
}

/// Requests in the order they came in.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    /// By number.
    pub requests: Vec<Request>,
}

/// A way to match.
pub(super) trait Policy: Send + Sync {
    /// For each request the index of the chosen one of its candidates.
    fn assign(&self, matching: &Matching) -> Vec<Option<usize>>;
}

/// Matches by the policy a tenant chose. What may compute for longer does so on a thread that serves nobody.
pub async fn assign(mode: DispatchMode, matching: Matching) -> (Matching, Vec<Option<usize>>) {
    let policy: &'static dyn Policy = match mode {
        DispatchMode::Batched => &Batched,
        DispatchMode::Nearest => &Nearest,
    };
    let size: usize = matching.requests.iter().map(|request| request.candidates.len()).sum();
    if size <= SOLVED_AT_ONCE {
        let chosen = policy.assign(&matching);
        return (matching, chosen);
    }
    let solving = tokio::task::spawn_blocking(move || {
        let chosen = policy.assign(&matching);
        (matching, chosen)
    });
    match solving.await {
        Ok(solved) => solved,
        // Only a bug in the solver or the end of the node gets here: nobody is asked, and the rides are looked at again.
        Err(error) => {
            tracing::error!(%error, "a matching could not be solved");
            (Matching::default(), Vec::new())
        }
    }
}

/// All requests together at the least total cost.
pub(super) struct Batched;

/// Each request, in order of arrival, takes the nearest driver left.
pub(super) struct Nearest;

/// A rider who has waited so many seconds longer is worth a second more of driving.
const WAITED_S_PER_ETA_S: i64 = 2;

/// Candidates matched in less than a millisecond or so.
const SOLVED_AT_ONCE: usize = 500;
/// The solver takes at most the square of the smaller side times the larger one: 15 ms for 1,000 requests and 3,000 drivers
/// spread over a city, 3 s when all requests are in one corner of it. A crowd above that is matched cheapest pair first.
const MOST_STEPS_SOLVED: usize = 1_000 * 1_000 * 3_000;

/// More than any sum of costs, so that a request served always weighs more than all that can be saved.
const SERVED: i64 = 1 << 40;

/// What is gained by serving a request, in seconds: more the longer it waits.
fn worth_s(request: &Request) -> i64 {
    request.waited.whole_seconds().max(0) / WAITED_S_PER_ETA_S
}

impl Policy for Nearest {
    fn assign(&self, matching: &Matching) -> Vec<Option<usize>> {
        let mut taken = BTreeSet::new();
        let mut nearest = |request: &Request| {
            let free =
                request.candidates.iter().enumerate().filter(|(_, candidate)| !taken.contains(&candidate.driver));
            let (index, chosen) = free.min_by_key(|(_, candidate)| (candidate.eta_s, candidate.driver))?;
            taken.insert(chosen.driver);
            Some(index)
        };
        matching.requests.iter().map(&mut nearest).collect()
    }
}

impl Policy for Batched {
    fn assign(&self, matching: &Matching) -> Vec<Option<usize>> {
        let mut chosen = vec![None; matching.requests.len()];
        for group in groups(matching) {
            group.assign(matching, &mut chosen);
        }
        chosen
    }
}

/// Requests that compete for each other's drivers, directly or through others, and those drivers; both in order.
struct Group {
    requests: Vec<usize>,
    drivers: Vec<usize>,
}

/// The groups that can be solved apart, since an assignment costs more than the sum of its parts.
fn groups(matching: &Matching) -> Vec<Group> {
    let mut leader: Vec<usize> = (0..matching.requests.len()).collect();
    fn find(leader: &mut [usize], mut of: usize) -> usize {
        while leader[of] != of {
            leader[of] = leader[leader[of]];
            of = leader[of];
        }
        of
    }
    let mut first_with: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, request) in matching.requests.iter().enumerate() {
        for candidate in &request.candidates {
            let other = *first_with.entry(candidate.driver).or_insert(number);
            let (a, b) = (find(&mut leader, number), find(&mut leader, other));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (number, request) in matching.requests.iter().enumerate() {
        if !request.candidates.is_empty() {
            let of = find(&mut leader, number);
            groups.entry(of).or_insert(Group { requests: Vec::new(), drivers: Vec::new() }).requests.push(number);
        }
    }
    for (driver, request) in first_with {
        let group = groups.get_mut(&find(&mut leader, request)).expect("whoever has a candidate is in a group");
        group.drivers.push(driver);
    }
    groups.into_values().collect()
}

impl Group {
    fn assign(&self, matching: &Matching, chosen: &mut [Option<usize>]) {
        let (few, many) = (self.requests.len().min(self.drivers.len()), self.requests.len().max(self.drivers.len()));
        if let [request] = self.requests[..] {
            let candidates = matching.requests[request].candidates.iter().enumerate();
            chosen[request] = candidates.min_by_key(|(_, c)| (c.cost_s, c.eta_s, c.driver)).map(|(index, _)| index);
        } else if few * few * many > MOST_STEPS_SOLVED {
            self.cheapest_pair_first(matching, chosen);
        } else {
            self.solve(matching, chosen);
        }
    }

    /// The Hungarian algorithm; the smaller side is its rows.
    fn solve(&self, matching: &Matching, chosen: &mut [Option<usize>]) {
        let requests_are_rows = self.requests.len() <= self.drivers.len();
        let (rows, columns) = match requests_are_rows {
            true => (self.requests.len(), self.drivers.len()),
            false => (self.drivers.len(), self.requests.len()),
        };
        let mut weights = Matrix::new(rows, columns, 0_i64);
        for (place, request) in self.requests.iter().enumerate() {
            let request = &matching.requests[*request];
            for candidate in &request.candidates {
                let driver = self.drivers.binary_search(&candidate.driver).expect("all candidates are in the group");
                let at = if requests_are_rows { (place, driver) } else { (driver, place) };
                weights[at] = SERVED + worth_s(request) - candidate.cost_s;
            }
        }
        let (_, columns_of_rows) = kuhn_munkres(&weights);
        for (row, column) in columns_of_rows.into_iter().enumerate() {
            let (place, driver) = if requests_are_rows { (row, column) } else { (column, row) };
            let request = self.requests[place];
            // A pair that is none has no weight, and means nobody.
            let is_pair = |candidate: &Candidate| candidate.driver == self.drivers[driver];
            chosen[request] = matching.requests[request].candidates.iter().position(is_pair);
        }
    }

    fn cheapest_pair_first(&self, matching: &Matching, chosen: &mut [Option<usize>]) {
        let mut taken = BTreeSet::new();
        let pairs = self.requests.iter().flat_map(|number| {
            let request = &matching.requests[*number];
            let candidates = request.candidates.iter().enumerate();
            candidates.map(move |(index, c)| Reverse((c.cost_s - worth_s(request), *number, index, c.driver)))
        });
        let mut pairs: BinaryHeap<_> = pairs.collect();
        // Most pairs are of somebody who has one already: nobody need look at them once all of a side have.
        let most = self.requests.len().min(self.drivers.len());
        while taken.len() < most
            && let Some(Reverse((_, request, index, driver))) = pairs.pop()
        {
            if chosen[request].is_none() && taken.insert(driver) {
                chosen[request] = Some(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(driver: usize, eta_s: u32) -> Candidate {
        Candidate { driver, eta_s, cost_s: eta_s.into() }
    }

    /// Requests that have just come in.
    fn matching(candidates: Vec<Vec<Candidate>>) -> Matching {
        let request = |candidates| Request { waited: Duration::ZERO, candidates };
        Matching { requests: candidates.into_iter().map(request).collect() }
    }

    fn drivers(policy: &dyn Policy, matching: &Matching) -> Vec<Option<usize>> {
        let chosen = policy.assign(matching);
        assert_eq!(chosen.len(), matching.requests.len());
        let driver = |(index, of): (&Option<usize>, &Request)| index.map(|index| of.candidates[index].driver);
        let drivers: Vec<_> = chosen.iter().zip(&matching.requests).map(driver).collect();
        let taken: Vec<_> = drivers.iter().flatten().collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "a driver was given twice");
        drivers
    }

    #[test]
    fn batched_gives_up_a_nearest_driver_where_that_saves_more() {
        let matching =
            matching(vec![vec![candidate(0, 60), candidate(1, 70)], vec![candidate(0, 65), candidate(1, 600)]]);
        assert_eq!(drivers(&Batched, &matching), [Some(1), Some(0)]);
        assert_eq!(drivers(&Nearest, &matching), [Some(0), Some(1)]);
    }

    #[test]
    fn more_requests_than_drivers_leave_the_dearest_unserved() {
        let matching = matching(vec![vec![candidate(0, 90)], vec![candidate(0, 30)], vec![], vec![candidate(0, 60)]]);
        assert_eq!(drivers(&Batched, &matching), [None, Some(0), None, None]);
    }

    #[test]
    fn who_has_waited_long_enough_is_not_passed_over_for_who_is_nearer() {
        let mut matching = matching(vec![vec![candidate(0, 300)], vec![candidate(0, 60)]]);
        assert_eq!(drivers(&Batched, &matching), [None, Some(0)]);
        matching.requests[0].waited = Duration::minutes(10);
        assert_eq!(drivers(&Batched, &matching), [Some(0), None]);
    }

    #[test]
    fn two_rides_are_served_even_if_one_of_them_alone_would_be_cheaper() {
        let matching = matching(vec![vec![candidate(0, 10), candidate(1, 3_000)], vec![candidate(0, 2_000)]]);
        assert_eq!(drivers(&Batched, &matching), [Some(1), Some(0)]);
    }

    #[test]
    fn batched_asks_who_costs_least_and_nearest_who_is_nearest() {
        let preferred = Candidate { driver: 1, eta_s: 125, cost_s: 85 };
        let matching = matching(vec![vec![candidate(0, 120), preferred]]);
        assert_eq!(drivers(&Batched, &matching), [Some(1)]);
        assert_eq!(drivers(&Nearest, &matching), [Some(0)]);
    }

    #[test]
    fn a_crowd_too_large_to_solve_is_still_matched() {
        let everybody: Vec<_> = (0..1_500).map(|driver| candidate(driver, 60 + driver as u32)).collect();
        let matching = matching(vec![everybody; 1_450]);
        assert!(drivers(&Batched, &matching).iter().all(Option::is_some));
    }

    /// A crowd of so many who all compete, and one driver more than that: the first two are served best by giving up the pair
    /// that is cheapest of all.
    fn crowd(requests: usize) -> Matching {
        let mut of: Vec<_> = (0..requests).map(|n| vec![candidate(n, 100), candidate(n + 1, 2_000)]).collect();
        of[0] = vec![candidate(0, 60), candidate(1, 70)];
        of[1] = vec![candidate(0, 65), candidate(1, 600), candidate(2, 3_000)];
        matching(of)
    }

    #[test]
    fn a_crowd_is_solved_as_far_as_the_steps_allow_and_a_larger_one_is_matched_cheapest_pair_first() {
        // By one request below the steps for 1,000 requests and 3,000 drivers, and by one above.
        assert_eq!(drivers(&Batched, &crowd(1_441))[..2], [Some(1), Some(0)]);
        assert_eq!(drivers(&Batched, &crowd(1_442))[..2], [Some(0), Some(1)]);
    }

    fn matchings() -> impl Strategy<Value = Matching> {
        let candidates = prop::collection::btree_map(0..5_usize, (0..1_000_u32, -240..300_i64), 0..5);
        let one = |(driver, (eta_s, more_s)): (usize, (u32, i64))| Candidate {
            driver,
            eta_s,
            cost_s: i64::from(eta_s) + more_s,
        };
        let request = (candidates, 0..3_000_i64).prop_map(move |(of, waited_s)| Request {
            waited: Duration::seconds(waited_s),
            candidates: of.into_iter().map(one).collect(),
        });
        prop::collection::vec(request, 0..6).prop_map(|requests| Matching { requests })
    }

    /// The most requests served, and the least cost of serving so many, by trying everything.
    fn best(matching: &Matching, number: usize, taken: &mut BTreeSet<usize>) -> (usize, Reverse<i64>) {
        let Some(request) = matching.requests.get(number) else { return (0, Reverse(0)) };
        let mut best_of_all = best(matching, number + 1, taken);
        for candidate in &request.candidates {
            if taken.insert(candidate.driver) {
                let (served, Reverse(cost)) = best(matching, number + 1, taken);
                let cost = cost + candidate.cost_s - worth_s(request);
                best_of_all = best_of_all.max((served + 1, Reverse(cost)));
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
                .zip(&matching.requests)
                .filter_map(|(index, of)| index.map(|index| of.candidates[index].cost_s - worth_s(of)))
                .sum();
            prop_assert_eq!((served, Reverse(cost)), best(&matching, 0, &mut BTreeSet::new()));
        }

        #[test]
        fn nearest_never_leaves_a_request_that_has_a_free_candidate(matching in matchings()) {
            let chosen = drivers(&Nearest, &matching);
            let taken: BTreeSet<_> = chosen.iter().flatten().collect();
            for (driver, request) in chosen.iter().zip(&matching.requests) {
                prop_assert!(driver.is_some() || request.candidates.iter().all(|c| taken.contains(&c.driver)));
            }
        }
    }
}
