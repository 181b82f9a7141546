//! How likely a driver is to take a ride, and what it costs a rider to ask somebody who may not.

use crate::drivers::Record;

/// What is believed of a driver before anything is known, as if he had taken 4.5 offers of 5: a few answers matter, one does
/// not. As answers fade, belief returns here, so that nobody is written off for ever.
const PRIOR_ACCEPTED: f64 = 4.5;
const PRIOR_REFUSED: f64 = 0.5;

/// The mean of a Beta distribution begun at the prior and fed with what counts of the driver's answers: between 0 and 1, and
/// neither.
pub(super) fn probability(record: &Record) -> f64 {
    let accepted = PRIOR_ACCEPTED + record.accepted;
    accepted / (accepted + PRIOR_REFUSED + record.refused)
}

/// Seconds a rider is expected to lose to refusals: whoever is asked next being as likely to refuse, there are `(1-p)/p` of
/// them before somebody accepts, and each takes as long as an offer lives.
pub(super) fn expected_wait_s(probability: f64, offer_ttl_s: u32) -> f64 {
    (1.0 - probability) / probability * f64::from(offer_ttl_s)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::drivers::Addition;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn answers(accepted: f64, refused: f64) -> Record {
        Record { accepted, refused, ..Record::NONE }
    }

    #[test]
    fn one_answer_says_little_many_say_what_they_say_and_in_time_all_is_forgotten() {
        assert_eq!(probability(&Record::NONE), 0.9);
        assert!(probability(&Record::NONE.plus(Addition::REFUSED, START)) > 0.7);
        let refuser = answers(25.0, 75.0);
        assert!((probability(&refuser) - 0.25).abs() < 0.05);
        assert!((probability(&refuser.at(START + Duration::weeks(20))) - 0.9).abs() < 0.01);
    }

    #[test]
    fn a_refusal_costs_the_time_until_the_next_is_asked() {
        assert_eq!(expected_wait_s(1.0, 15), 0.0);
        assert_eq!(expected_wait_s(0.5, 15), 15.0);
        assert_eq!(expected_wait_s(0.25, 15), 45.0);
    }

    proptest! {
        #[test]
        fn who_accepts_more_or_refuses_less_never_costs_more(
            accepted in 0.0..1e4_f64, refused in 0.0..1e4_f64, more in 0.0..100.0_f64,
        ) {
            let p = probability(&answers(accepted, refused));
            prop_assert!(p > 0.0 && p < 1.0);
            prop_assert!(probability(&answers(accepted + more, refused)) >= p);
            prop_assert!(probability(&answers(accepted, refused + more)) <= p);
            prop_assert!(expected_wait_s(p, 15) >= expected_wait_s(probability(&answers(accepted + more, refused)), 15));
        }
    }
}
