//! The sequence every movement of money goes through, a payment's as a refund's. Pure: no clock, no database, no PSP.
//!
//! ```text
//!   pending ──approved──► authorized ──settle──► settled
//!      │ ▲                    ▲
//!      │ └── asked again ──┐  │ approved
//!      ├──no answer──► unknown┤
//!      │                      │ declined
//!      └──declined────────────┴──────► failed ◄──sent back── settled, of a refund
//! ```
//!
//! A step that is not the last carries the time at which any node may go on with it: whoever works on it holds it until
//! then, and after a crash another takes over. Only the PSP's answer ends `pending` and `unknown`; no answer never does.

use time::{Duration, OffsetDateTime};

/// How far a movement of money is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Intended; the PSP may or may not have been asked.
    Pending,
    /// Asked, and not answered.
    Unknown,
    /// Agreed to; the ledger is next.
    Authorized,
    /// In the ledger.
    Settled,
    /// Refused.
    Failed,
}

/// What a PSP says to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The money moves; the PSP calls it so.
    Approved {
        /// The PSP's own name for the operation.
        provider_ref: String,
    },
    /// It does not, and will not.
    Declined {
        /// Why, in the PSP's words.
        code: String,
    },
    /// The PSP has taken the order and does not know yet; a refund may wait for days.
    Underway,
}

/// The PSP may or may not have done what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the PSP gave no answer: {why}")]
pub(super) struct NoAnswer {
    /// What happened instead.
    pub(super) why: String,
    /// The PSP does not want to be asked again before so long.
    pub(super) wait: Option<Duration>,
}

impl NoAnswer {
    /// For a reason, from a PSP that said nothing of when to ask again.
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), wait: None }
    }
}

/// Where a movement of money stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    /// How far it is.
    pub(super) step: Step,
    /// Somebody has begun to work on it so many times.
    pub(super) attempts: i32,
    /// When any node may go on with it. None: it has ended, or was given up and waits for an operator.
    pub(super) next_attempt_at: Option<OffsetDateTime>,
    /// The PSP's name for it.
    pub(super) provider_ref: Option<String>,
    /// Why the PSP refused.
    pub(super) failure_code: Option<String>,
    /// Why the last attempt came to nothing.
    pub(super) last_error: Option<String>,
    /// Who had it tried again after it was given up.
    pub(super) retried: Option<Retried>,
}

/// Somebody of the back office who took care of what was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Retried {
    pub(super) by: String,
    pub(super) at: OffsetDateTime,
}

/// After so many attempts that came to nothing, some two hours where the PSP is silent, an operator has to look.
pub(super) const MAX_ATTEMPTS: i32 = 20;
/// Who settles has this long before another node tries.
const SETTLE_WITHIN: Duration = Duration::seconds(5);
/// Of a reason, so much is kept.
const LONGEST_ERROR: usize = 500;
const FIRST_RETRY: Duration = Duration::seconds(5);
const LONGEST_RETRY: Duration = Duration::minutes(10);
/// A PSP is waited for so long at most, whatever it wishes.
const LONGEST_WAIT: Duration = Duration::hours(1);
/// What is under way at the PSP is asked about so often.
const LOOK_AGAIN: Duration = Duration::hours(1);

impl Sequence {
    /// Begun by somebody who holds it until `held_until`.
    pub(super) fn begun(held_until: OffsetDateTime) -> Self {
        Self {
            step: Step::Pending,
            attempts: 1,
            next_attempt_at: Some(held_until),
            provider_ref: None,
            failure_code: None,
            last_error: None,
            retried: None,
        }
    }

    /// Left for any node to begin at `due`.
    pub(super) fn left_for(due: OffsetDateTime) -> Self {
        Self { attempts: 0, ..Self::begun(due) }
    }

    /// Needs no PSP: cash, or nothing to pay.
    pub(super) fn without_psp() -> Self {
        Self {
            step: Step::Authorized,
            attempts: 1,
            next_attempt_at: None,
            provider_ref: None,
            failure_code: None,
            last_error: None,
            retried: None,
        }
    }

    /// Cannot even be tried, for the reason that is said.
    pub(super) fn refused(code: &str, why: impl std::fmt::Display) -> Self {
        Self {
            step: Step::Failed,
            failure_code: Some(code.to_owned()),
            last_error: Some(why.to_string()),
            ..Self::without_psp()
        }
    }

    /// Agreed to without anybody being asked.
    pub(super) fn agreed(self) -> Self {
        Self { step: Step::Authorized, last_error: None, ..self }
    }

    /// Whether only the PSP knows how this ends.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(self.step, Step::Pending | Step::Unknown)
    }

    /// Whether nobody goes on with it any more, though it has not ended.
    pub(super) fn is_given_up(&self) -> bool {
        !matches!(self.step, Step::Settled | Step::Failed) && self.next_attempt_at.is_none()
    }

    /// Whether somebody may still be working on it.
    pub(super) fn is_held(&self, now: OffsetDateTime) -> bool {
        self.step == Step::Pending && self.next_attempt_at.is_some_and(|at| at > now)
    }

    /// Taken over by somebody who holds it until `held_until`.
    pub(super) fn taken(self, held_until: OffsetDateTime) -> Self {
        Self { attempts: self.attempts.saturating_add(1), next_attempt_at: Some(held_until), ..self }
    }

    /// Put off without having tried.
    pub(super) fn put_off(self, until: OffsetDateTime) -> Self {
        Self { attempts: self.attempts.saturating_sub(1), next_attempt_at: Some(until), ..self }
    }

    /// An attempt came to nothing: the next one is later, or never. `jitter`, 0 to 1, spreads the attempts of many movements
    /// that were hindered together.
    pub(super) fn hindered(self, why: &str, now: OffsetDateTime, jitter: f64) -> Self {
        if matches!(self.step, Step::Settled | Step::Failed) {
            return self;
        }
        let is_last = self.attempts >= MAX_ATTEMPTS;
        let next_attempt_at = (!is_last).then(|| now + retry_after(self.attempts, jitter));
        Self { next_attempt_at, last_error: Some(why.chars().take(LONGEST_ERROR).collect()), ..self }
    }

    /// Taken by somebody of the back office, with all attempts before it again. None unless it was given up.
    pub(super) fn retried(self, by: String, now: OffsetDateTime, held_until: OffsetDateTime) -> Option<Self> {
        let retried = Some(Retried { by, at: now });
        self.is_given_up().then(|| Self { attempts: 0, retried, ..self }.taken(held_until))
    }

    /// What the PSP said, or that it said nothing. An answer that comes after another one changes nothing.
    pub(super) fn answered(self, answer: &Result<Answer, NoAnswer>, now: OffsetDateTime, jitter: f64) -> Self {
        if !self.awaits_answer() {
            return self;
        }
        match answer {
            Ok(Answer::Approved { provider_ref }) => Self {
                step: Step::Authorized,
                next_attempt_at: Some(now + SETTLE_WITHIN),
                provider_ref: Some(provider_ref.clone()),
                last_error: None,
                ..self
            },
            Ok(Answer::Declined { code }) => {
                let failure_code = Some(code.clone());
                Self { step: Step::Failed, next_attempt_at: None, failure_code, last_error: None, ..self }
            }
            // It does answer, so this uses up no attempt. A webhook will have it asked earlier.
            Ok(Answer::Underway) => Self {
                step: Step::Unknown,
                attempts: self.attempts.saturating_sub(1),
                next_attempt_at: Some(now + LOOK_AGAIN),
                last_error: None,
                ..self
            },
            Err(NoAnswer { why, wait }) => {
                let hindered = Self { step: Step::Unknown, ..self }.hindered(why, now, jitter);
                let not_before = wait.map(|wait| now + wait.clamp(Duration::ZERO, LONGEST_WAIT));
                Self {
                    next_attempt_at: hindered.next_attempt_at.map(|at| not_before.map_or(at, |late| at.max(late))),
                    ..hindered
                }
            }
        }
    }

    /// The ledger has it. None unless the PSP has agreed and the ledger does not have it yet.
    pub(super) fn settled(self) -> Option<Self> {
        let is_next = self.step == Step::Authorized;
        is_next.then_some(Self { step: Step::Settled, next_attempt_at: None, last_error: None, ..self })
    }

    /// What was settled has come to nothing after all, by `code`. None unless it was settled.
    pub(super) fn sent_back(self, code: String) -> Option<Self> {
        let is_settled = self.step == Step::Settled;
        is_settled.then_some(Self { step: Step::Failed, failure_code: Some(code), ..self })
    }
}

/// Doubles with each attempt up to a limit; the later half of the wait is left to chance.
pub(super) fn retry_after(attempts: i32, jitter: f64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(20);
    let wait = (FIRST_RETRY * 2_u32.pow(doublings)).min(LONGEST_RETRY);
    wait / 2 + (wait / 2) * jitter.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn any_answer() -> impl Strategy<Value = Result<Answer, NoAnswer>> {
        prop_oneof![
            Just(Ok(Answer::Approved { provider_ref: "ch_1".into() })),
            Just(Ok(Answer::Declined { code: "card_declined".into() })),
            Just(Ok(Answer::Underway)),
            Just(Err(NoAnswer::new("time-out"))),
        ]
    }

    #[test]
    fn no_answer_is_unknown_and_is_asked_again_ever_later_until_given_up() {
        let (mut sequence, mut waits) = (Sequence::begun(NOW), Vec::new());
        loop {
            sequence = sequence.answered(&Err(NoAnswer::new("time-out")), NOW, 0.5);
            assert_eq!(sequence.step, Step::Unknown);
            let Some(at) = sequence.next_attempt_at else { break };
            waits.push(at - NOW);
            sequence = sequence.taken(NOW);
        }
        assert_eq!(sequence.attempts, MAX_ATTEMPTS);
        assert_eq!((sequence.is_given_up(), sequence.last_error.as_deref()), (true, Some("time-out")));
        assert!(waits.is_sorted());
        assert!(waits.iter().sum::<Duration>() > Duration::hours(1), "outlives an outage of an hour: {waits:?}");
    }

    #[test]
    fn a_psp_that_wants_to_be_left_alone_is_not_asked_before_but_for_an_hour_at_most() {
        let waits = |wait| {
            let answer = Err(NoAnswer { wait: Some(wait), ..NoAnswer::new("too fast") });
            Sequence::begun(NOW).answered(&answer, NOW, 1.0).next_attempt_at.unwrap() - NOW
        };
        assert_eq!(waits(Duration::seconds(1)), FIRST_RETRY);
        assert_eq!(waits(Duration::seconds(90)), Duration::seconds(90));
        assert_eq!(waits(Duration::days(365)), LONGEST_WAIT);
        let last = Sequence { attempts: MAX_ATTEMPTS, ..Sequence::begun(NOW) };
        let answer = Err(NoAnswer { wait: Some(Duration::MINUTE), ..NoAnswer::new("too fast") });
        assert!(last.answered(&answer, NOW, 0.0).is_given_up());
    }

    #[test]
    fn what_is_under_way_at_the_psp_is_asked_about_for_as_long_as_it_takes() {
        let mut sequence = Sequence::begun(NOW);
        for _ in 0..MAX_ATTEMPTS * 2 {
            sequence = sequence.answered(&Ok(Answer::Underway), NOW, 0.5);
            assert_eq!((sequence.step, sequence.next_attempt_at), (Step::Unknown, Some(NOW + LOOK_AGAIN)));
            sequence = sequence.taken(NOW);
        }
        let approved = Answer::Approved { provider_ref: "re_1".into() };
        assert_eq!(sequence.answered(&Ok(approved), NOW, 0.5).step, Step::Authorized);
    }

    #[test]
    fn what_is_given_up_begins_anew_in_the_name_of_who_retries_it_and_nothing_else_does() {
        let held_until = NOW + Duration::seconds(16);
        assert_eq!(Sequence::begun(NOW).retried("me".into(), NOW, held_until), None);
        let given_up = Sequence { attempts: MAX_ATTEMPTS, ..Sequence::begun(NOW) }.hindered("no", NOW, 0.0);
        let retried = given_up.retried("me".into(), NOW, held_until).unwrap();
        assert_eq!((retried.step, retried.attempts, retried.next_attempt_at), (Step::Pending, 1, Some(held_until)));
        assert_eq!(retried.retried, Some(Retried { by: "me".into(), at: NOW }));
        let ended = retried.answered(&Ok(Answer::Declined { code: "no".into() }), NOW, 0.0);
        assert_eq!(ended.clone().hindered("late", NOW, 0.0), ended, "what has ended stays so");
        assert_eq!(ended.retried("me".into(), NOW, held_until), None);
    }

    #[test]
    fn what_is_begun_is_held_until_its_time_and_then_anybody_s() {
        let sequence = Sequence::begun(NOW + Duration::seconds(30));
        assert!(sequence.is_held(NOW));
        assert!(!sequence.is_held(NOW + Duration::seconds(30)));
        assert!(!Sequence::left_for(NOW).is_held(NOW));
    }

    proptest! {
        #[test]
        fn only_the_psp_s_first_answer_decides(answers in prop::collection::vec(any_answer(), 1..8), jitter in 0.0..1.0_f64) {
            let end = answers.iter().fold(Sequence::begun(NOW), |sequence, answer| sequence.answered(answer, NOW, jitter));
            let first = answers.iter().flatten().find(|answer| **answer != Answer::Underway);
            prop_assert_eq!(end.step, match first {
                Some(Answer::Approved { .. }) => Step::Authorized,
                Some(Answer::Declined { .. }) => Step::Failed,
                Some(Answer::Underway) | None => Step::Unknown,
            });
            prop_assert_eq!(end.clone().settled().is_some(), end.step == Step::Authorized);
            prop_assert_eq!(end.settled().and_then(Sequence::settled), None, "nothing settles twice");
        }
    }
}
