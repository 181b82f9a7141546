//! Offering one ride to several drivers at once: whom else to ask besides the one who was chosen.

use std::{cmp::Reverse, collections::BTreeSet};

use shared::tenant_config::DispatchMode;

use super::policy::{Candidate, Matching};

/// For each request the indexes of the candidates to ask: the chosen one first, then the best of those nobody else is to
/// ask, at most as many as `most` says. Requests take turns, so that none is left with few because another came first; and
/// a request for which nobody was chosen asks nobody.
pub(super) fn groups(
    mode: DispatchMode,
    matching: &Matching,
    chosen: &[Option<usize>],
    most: &[usize],
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = chosen.iter().map(|index| index.iter().copied().collect()).collect();
    let driver = |request: usize, index: usize| matching.requests[request].candidates[index].driver;
    let mut taken: BTreeSet<usize> =
        chosen.iter().enumerate().filter_map(|(request, index)| index.map(|index| driver(request, index))).collect();
    // The best last.
    let ranked = |request: usize| {
        let candidates = &matching.requests[request].candidates;
        let mut indexes: Vec<usize> = (0..candidates.len()).collect();
        indexes.sort_by_key(|index| Reverse(rank(mode, &candidates[*index])));
        indexes
    };
    let is_growing = |group: &Vec<usize>, most: usize| !group.is_empty() && group.len() < most;
    let mut left: Vec<Vec<usize>> = (0..groups.len())
        .map(|request| if is_growing(&groups[request], most[request]) { ranked(request) } else { Vec::new() })
        .collect();
    while left.iter().any(|left| !left.is_empty()) {
        for (request, left) in left.iter_mut().enumerate() {
            while let Some(index) = left.pop() {
                if taken.insert(driver(request, index)) {
                    groups[request].push(index);
                    break;
                }
            }
            if groups[request].len() >= most[request] {
                left.clear();
            }
        }
    }
    groups
}

/// Whom a policy prefers: the least.
fn rank(mode: DispatchMode, candidate: &Candidate) -> (i64, u32, usize) {
    match mode {
        DispatchMode::Batched => (candidate.cost_s, candidate.eta_s, candidate.driver),
        DispatchMode::Nearest => (i64::from(candidate.eta_s), candidate.eta_s, candidate.driver),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;

    use super::{super::policy::Request, *};

    fn matching(etas: &[&[(usize, u32)]]) -> Matching {
        let candidate =
            |(driver, eta_s): &(usize, u32)| Candidate { driver: *driver, eta_s: *eta_s, cost_s: (*eta_s).into() };
        let request = |etas: &&[(usize, u32)]| Request {
            waited: Duration::ZERO,
            candidates: etas.iter().map(candidate).collect(),
        };
        Matching { requests: etas.iter().map(request).collect() }
    }

    #[test]
    fn the_best_of_those_left_are_asked_too_and_requests_take_turns() {
        let everybody: &[(usize, u32)] = &[(0, 10), (1, 20), (2, 30), (3, 40), (4, 50)];
        let matching = matching(&[everybody, everybody, &[]]);
        let groups = groups(DispatchMode::Batched, &matching, &[Some(0), Some(1), None], &[3, 3, 3]);
        assert_eq!(groups, [vec![0, 2, 4], vec![1, 3], vec![]]);
    }

    proptest! {
        #[test]
        fn nobody_is_asked_twice_and_the_chosen_one_is_always_asked_first(
            etas in prop::collection::vec(prop::collection::btree_map(0..8_usize, 0..1_000_u32, 0..8), 0..5), most in 1..6_usize,
        ) {
            let etas: Vec<Vec<(usize, u32)>> = etas.into_iter().map(|of| of.into_iter().collect()).collect();
            let matching = matching(&etas.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let mut first = BTreeSet::new();
            let chosen: Vec<Option<usize>> = matching
                .requests
                .iter()
                .map(|request| request.candidates.iter().position(|candidate| first.insert(candidate.driver)))
                .collect();
            let groups = groups(DispatchMode::Nearest, &matching, &chosen, &vec![most; chosen.len()]);
            let mut asked = BTreeSet::new();
            for ((group, chosen), request) in groups.iter().zip(&chosen).zip(&matching.requests) {
                prop_assert_eq!(group.first(), chosen.as_ref());
                prop_assert!(group.len() <= most);
                prop_assert!(group.iter().all(|index| asked.insert(request.candidates[*index].driver)));
            }
        }
    }
}
