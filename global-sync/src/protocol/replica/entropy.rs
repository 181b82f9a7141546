//! Anti-entropy: what should be equal is compared, and what is not is reported; nothing is ever mended in silence.
//!
//! Logs by the hash of the newest entry both have, derived rows by sums as of what both have applied. Whoever asks leads its
//! region; whoever answers only reads. A question that is lost is asked again in the next round. A row that seems to differ
//! is asked about once more before it is told of: a fact that two regions have told may be on its way from one of them. It is
//! told of in every round as long as it differs; who has been told already, and what is equal again, is not remembered here, but
//! where every instance of the region can read it.
//!
//! What a snapshot brought is compared again and again until somebody else than who gave it has the same
//! ([`super::unchecked`]).

use super::{unchecked::Unchecked, *};
use crate::protocol::{
    message::{Digest, Inspect},
    rows::{Difference, MAX_PREFIX},
};

/// Questions one peer may have open, and answers written for it at a time.
const MAX_OPEN: usize = 16;
/// Buckets of one answer that are looked into: where more differ, more is wrong than a list of keys can say.
const MAX_BUCKETS: usize = 8;

/// Rows are compared so often while those of a snapshot are to be found the same elsewhere.
const UNCHECKED_EVERY_MS: u64 = 2_000;

#[derive(Debug)]
pub(super) struct Entropy {
    /// What is left to be found elsewhere of a snapshot.
    unchecked: Option<Unchecked>,
    heads_due: Millis,
    rows_due: Millis,
    /// Rows that seem to differ, by the question that has been asked again for them.
    doubted: BTreeMap<(RegionName, Inspect), BTreeSet<String>>,
}

impl Entropy {
    pub(super) fn new(now: Millis) -> Self {
        Self { unchecked: None, heads_due: now, rows_due: now, doubted: BTreeMap::new() }
    }

    /// Whose snapshot is to be looked at, if any: at the next tick for the first time.
    pub(super) fn heed_snapshot(&mut self, of: Option<RegionName>, now: Millis) {
        if self.unchecked.as_ref().map(Unchecked::giver) != of.as_ref() {
            self.unchecked = of.map(Unchecked::of);
            self.rows_due = now;
        }
    }

    /// Another may have led meanwhile, and loaded another snapshot.
    pub(super) fn begin_anew(&mut self) {
        if let Some(unchecked) = &mut self.unchecked {
            *unchecked = Unchecked::of(unchecked.giver().clone());
        }
    }

    /// Everything is compared at the next tick.
    pub(super) fn hurry(&mut self, now: Millis) {
        (self.heads_due, self.rows_due) = (now, now);
    }
}

impl<T: Trust> Replica<T> {
    pub(super) fn look_for_differences(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.leading {
            return;
        }
        if now >= self.entropy.heads_due {
            self.entropy.heads_due = now.plus(self.settings.limits.heads_every_ms);
            self.check_heads(effects);
        }
        if now >= self.entropy.rows_due && self.settings.features & features::INSPECT != 0 {
            let every = self.settings.limits.rows_every_ms;
            let every = if self.entropy.unchecked.is_some() { every.min(UNCHECKED_EVERY_MS) } else { every };
            self.entropy.rows_due = now.plus(every);
            self.entropy.doubted.clear();
            let mut asked = BTreeSet::new();
            let conns: Vec<_> = self
                .sessions
                .iter()
                .filter(|(_, session)| session.is_ready() && session.can(features::INSPECT))
                .filter(|(_, session)| asked.insert(session.region.clone()))
                .map(|(conn, _)| *conn)
                .collect();
            for conn in conns.iter().copied() {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.inspecting.clear();
                }
                for stream in FactStream::ALL {
                    let question = Inspect { stream, vector: None, prefix: Vec::new(), as_they_are: false };
                    self.inspect(conn, question, effects);
                }
            }
            if self.settings.features & features::AS_THEY_ARE != 0 {
                self.inspect_parts(&conns, effects);
            }
        }
    }

    /// Peers whose word counts are asked about what is left of a snapshot.
    fn inspect_parts(&mut self, conns: &[ConnectionId], effects: &mut Vec<Effect>) {
        let Some(mut unchecked) = self.entropy.unchecked.take() else { return };
        unchecked.begin(&self.logs);
        for conn in conns {
            let session = self.sessions.get(conn).filter(|session| session.can(features::AS_THEY_ARE));
            let peer = session.map(|session| session.region.clone());
            if let Some(peer) = peer.filter(|peer| self.counts_for(unchecked.giver(), peer)) {
                for question in unchecked.next_parts(&peer) {
                    self.inspect(*conn, question, effects);
                }
            }
        }
        self.entropy.unchecked = Some(unchecked);
    }

    /// Whether that a peer has a snapshot's rows proves anything: of whoever gave it, only where there is nobody else. Who only
    /// joins may have begun with a snapshot of the same region.
    fn counts_for(&self, giver: &RegionName, peer: &RegionName) -> bool {
        let proves = |region: &RegionName| region != giver && !self.members.joins(region);
        let others = self.members.counted(&self.settings.origin.region);
        proves(peer) || peer == giver && !others.iter().any(proves)
    }

    /// Where a peer ends within what we have, our entry of that number is the one it has. Equal ends are compared whenever
    /// they are heard of.
    fn check_heads(&self, effects: &mut Vec<Effect>) {
        for session in self.sessions.values().filter(|session| session.is_ready()) {
            for (log, theirs) in &session.logs {
                let ours = self.logs.get(log).copied().unwrap_or(LogState::EMPTY);
                if theirs.head.seq > ours.truncated && theirs.head.seq < ours.head.seq {
                    let (peer, log, head) = (session.region.clone(), log.clone(), theirs.head);
                    effects.push(Effect::CheckHead { peer, log, head });
                }
            }
        }
    }

    fn inspect(&mut self, conn: ConnectionId, question: Inspect, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.inspecting.len() < MAX_OPEN && session.inspecting.insert(question.clone()) {
            effects.push(Effect::Send { conn, message: Message::Inspect(question) });
        }
    }

    pub(super) fn on_inspect(&mut self, conn: ConnectionId, question: Inspect, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.answering < MAX_OPEN && self.settings.features & features::INSPECT != 0 {
            session.answering += 1;
            effects.push(Effect::Answer { conn, question });
        }
    }

    pub(super) fn on_answered(&mut self, conn: ConnectionId) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.answering = session.answering.saturating_sub(1);
        }
    }

    /// An answer to something we asked; anything else is not worth a look.
    pub(super) fn on_digest(&mut self, conn: ConnectionId, digest: Digest, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let at_any = Inspect { vector: None, ..digest.of.clone() };
        if session.inspecting.remove(&digest.of) || session.inspecting.remove(&at_any) {
            effects.push(Effect::Compare { conn, theirs: digest });
        }
    }

    pub(super) fn on_compared(
        &mut self,
        conn: ConnectionId,
        question: Inspect,
        difference: Option<Difference>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.sessions.get(&conn).map(|session| session.region.clone()) else { return };
        if let Some(difference) = &difference {
            self.look_at_snapshot(&peer, &question, difference, effects);
        }
        if question.as_they_are {
            return;
        }
        match difference {
            Some(Difference::Buckets(buckets)) => {
                for bucket in buckets.into_iter().take(MAX_BUCKETS).filter(|_| question.prefix.len() < MAX_PREFIX) {
                    let mut deeper = question.clone();
                    deeper.prefix.push(bucket);
                    self.inspect(conn, deeper, effects);
                }
            }
            Some(Difference::Keys(keys)) => self.doubt(conn, peer, question, keys, effects),
            None => {}
        }
    }

    /// What a comparison says of a snapshot's rows.
    fn look_at_snapshot(
        &mut self,
        peer: &RegionName,
        question: &Inspect,
        difference: &Difference,
        effects: &mut Vec<Effect>,
    ) {
        let Some(giver) = self.entropy.unchecked.as_ref().map(|unchecked| unchecked.giver().clone()) else { return };
        let counts = self.counts_for(&giver, peer);
        let Some(unchecked) = self.entropy.unchecked.as_mut().filter(|_| counts) else { return };
        unchecked.compared(question, difference);
        if unchecked.holds() {
            effects.push(Effect::SnapshotHolds);
        }
    }

    /// Rows that differ for the first time are asked about again as of later, those that differ then too are reported.
    fn doubt(
        &mut self,
        conn: ConnectionId,
        peer: RegionName,
        question: Inspect,
        mut keys: BTreeSet<String>,
        effects: &mut Vec<Effect>,
    ) {
        let again = Inspect { vector: None, ..question };
        let Some(doubted) = self.entropy.doubted.remove(&(peer.clone(), again.clone())) else {
            if !keys.is_empty() {
                self.entropy.doubted.insert((peer, again.clone()), keys);
                self.inspect(conn, again, effects);
            }
            return;
        };
        keys.retain(|key| doubted.contains(key));
        if !keys.is_empty() {
            let keys = keys.into_iter().collect();
            effects.push(Effect::Alarm(Alarm::RowsDiffer { peer, stream: again.stream, keys }));
        }
    }
}

#[cfg(test)]
mod tests;
