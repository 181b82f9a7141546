//! What became of us before this start: whether the database may be an old backup, and when numbers may be given.
//!
//! A restored region that goes on counting gives a number twice, and two histories of one log exist. On a copy that says so
//! itself a new incarnation begins, whatever others know: entries it lacks may be on their way, where nobody can be asked.
//! Else nothing is numbered before every expected peer has been heard; where one stays silent and the database may be a
//! restored one, a new incarnation begins too. What a peer says it has of ours is believed once it shows an entry with our
//! own signature.

use super::*;
use crate::protocol::{batch::prove, event::Past, message::Pull};

/// How long a region waits at start to hear whether others know newer facts of its own than it does.
pub(super) const NUMBERING_GRACE_MS: u64 = 3_000;
/// How long a peer has to prove what it says it has of ours before it is asked again.
const PROVE_WITHIN_MS: u64 = 2_000;

/// Whether facts may be given numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    WaitingUntil(Millis),
    Allowed,
    /// A new incarnation was asked for; this one numbers nothing any more.
    Stopped,
}

impl From<Millis> for Numbering {
    /// At a start.
    fn from(now: Millis) -> Self {
        Self::WaitingUntil(now.plus(NUMBERING_GRACE_MS))
    }
}

/// A peer was asked to show an entry of ours that we do not have.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) conn: ConnectionId,
    pull: u64,
    asked_at: Millis,
}

impl<T: Trust> Replica<T> {
    pub(super) fn on_leads(&mut self, now: Millis, logs: BTreeMap<LogId, LogState>, effects: &mut Vec<Effect>) {
        let own = self.settings.origin.clone();
        let before = |log: &LogId| self.logs.get(log).map_or(0, |state| state.head.seq);
        let went_back = logs.iter().any(|(log, state)| log.origin == own && state.head.seq < before(log));
        let newest_life = logs
            .iter()
            .filter(|(log, state)| log.origin.region == own.region && state.head.seq > 0)
            .map(|(log, _)| log.origin.incarnation)
            .max();
        self.take_logs(logs);
        let copied = self.settings.past == Past::Copied;
        if copied || went_back || newest_life.is_some_and(|life| life > own.incarnation) {
            self.begin_incarnation(newest_life.unwrap_or_default(), copied, effects);
        }
        if self.numbering == Numbering::Allowed {
            effects.push(Effect::AllowNumbering);
        }
        let said: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_ready())
            .map(|(conn, session)| (*conn, session.region.clone(), session.logs.clone()))
            .collect();
        for (conn, region, logs) in said {
            for (log, state) in &logs {
                self.compare(&region, log, state, effects);
                self.look_for_claim(now, conn, log, state, effects);
            }
        }
        // The wait began at the start, and we may have led nothing for all of it: who has just been asked for a proof has time
        // to show it.
        if let Numbering::WaitingUntil(until) = &mut self.numbering
            && !self.claims.is_empty()
        {
            *until = (*until).max(now.plus(NUMBERING_GRACE_MS));
        }
    }

    /// A peer that says it has more of our log than we do is asked to show the last entry of it.
    pub(super) fn look_for_claim(
        &mut self,
        now: Millis,
        conn: ConnectionId,
        log: &LogId,
        theirs: &LogState,
        effects: &mut Vec<Effect>,
    ) {
        let ours = self.logs.get(log).map_or(0, |state| state.head.seq);
        if log.origin != self.settings.origin || !self.leading || self.numbering == Numbering::Stopped {
            return;
        }
        if theirs.head.seq <= ours {
            self.claims.retain(|of, claim| of != log || claim.conn != conn);
            return;
        }
        if self.claims.get(log).is_some_and(|claim| now.since(claim.asked_at) < PROVE_WITHIN_MS) {
            return;
        }
        let pull = self.next_pull;
        self.next_pull += 1;
        self.claims.insert(log.clone(), Claim { conn, pull, asked_at: now });
        let known_keys = self.trust.known_keys(&log.origin.region);
        // One byte of credit brings one batch.
        let ask = Pull { log: log.clone(), id: pull, from: theirs.head.seq, credit: 1, known_keys };
        effects.push(Effect::Send { conn, message: Message::Pull(ask) });
    }

    /// An entry of our own log, from somebody who was asked for it.
    pub(super) fn on_proof(&mut self, from: RegionName, batch: &Batch, effects: &mut Vec<Effect>) {
        if self.claims.get(&batch.log).is_none_or(|claim| claim.pull != batch.pull) {
            return;
        }
        self.claims.remove(&batch.log);
        match prove(&self.settings.cluster_id, batch, &mut self.trust) {
            Ok(head) if self.logs.get(&batch.log).is_none_or(|state| state.head.seq < head.seq) => {
                self.begin_incarnation(self.settings.origin.incarnation, false, effects);
            }
            Ok(_) => {}
            Err(error) => effects.push(Effect::Alarm(Alarm::BadBatch { from, log: batch.log.clone(), error })),
        }
    }

    /// A life of ours has signed an entry that a peer had: if it is a later one than this, it was forgotten here.
    pub(super) fn on_later_life(&mut self, incarnation: u64, effects: &mut Vec<Effect>) {
        if incarnation > self.settings.origin.incarnation {
            self.begin_incarnation(incarnation, false, effects);
        }
    }

    pub(super) fn begin_incarnation(&mut self, newest_life: u64, alone: bool, effects: &mut Vec<Effect>) {
        if self.leading && self.numbering != Numbering::Stopped {
            self.numbering = Numbering::Stopped;
            let after = newest_life.max(self.settings.origin.incarnation);
            effects.push(Effect::BeginIncarnation { after, alone });
        }
    }

    pub(super) fn decide_numbering(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Numbering::WaitingUntil(until) = self.numbering else { return };
        if !self.leading {
            return;
        }
        let own = &self.settings.origin;
        let later_life = |session: &Session| {
            session.logs.iter().any(|(log, state)| {
                log.origin.region == own.region && log.origin.incarnation > own.incarnation && state.head.seq > 0
            })
        };
        let has_more = |session: &Session| {
            session.logs.iter().any(|(log, theirs)| {
                log.origin == *own && theirs.head.seq > self.logs.get(log).map_or(0, |ours| ours.head.seq)
            })
        };
        let in_question = self.sessions.values().any(|session| later_life(session) || has_more(session));
        let all_heard = self.settings.expected.is_subset(&self.heard);
        if (all_heard && !in_question) || (now >= until && self.settings.past == Past::Known) {
            self.numbering = Numbering::Allowed;
            effects.push(Effect::AllowNumbering);
        } else if now >= until {
            self.begin_incarnation(own.incarnation, true, effects);
        }
    }
}
