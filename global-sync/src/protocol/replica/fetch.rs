//! Fetching: for every log of others there is at most one peer we ask, its origin if that answers, else one that has it.
//!
//! Whom we ask decides only where the next entries come from. What arrives is judged by itself: entries that their origin
//! signed and that continue what we have are as good from a source we have given up as from the one we ask now.

use super::*;
use crate::protocol::{
    batch::verify,
    message::{Credit, MAX_BATCH_BYTES, Pull},
};

/// A pull that brings nothing for this long although there is something is asked elsewhere; longer where batches have
/// been seen to need it.
pub(super) const STALLED_AFTER_MS: u64 = 1_000;
/// However slow a source is. To ask again too early costs a batch sent twice, no more: the first still counts.
const MOST_PATIENCE_MS: u64 = 8_000;
/// A connection that stalled is avoided this long, a region that lied longer.
pub(super) const AVOID_STALLED_MS: u64 = 2_000;
const AVOID_LIAR_MS: u64 = 30_000;

/// A log of somebody else's on its way in.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// The last entry given to the store; ahead of what is durable while a store is under way.
    pending: Head,
    /// What was given to the store and is not durable yet, oldest batch first.
    storing: Vec<Storing>,
    fetch: Option<Fetch>,
    /// How long a source may bring nothing; grows to twice what the last batch took.
    patience_ms: u64,
    /// Connections not to ask while another can be, and until when.
    slow: BTreeMap<ConnectionId, Millis>,
    /// Regions not to ask at all, and until when.
    liars: BTreeMap<RegionName, Millis>,
}

#[derive(Clone, Debug)]
struct Storing {
    seq: u64,
    bytes: u64,
    /// The pull that paid for it.
    pull: u64,
    /// The key whose certificate came with it.
    key: Option<KeyId>,
}

#[derive(Clone, Debug)]
struct Fetch {
    conn: ConnectionId,
    pull: u64,
    /// When it last brought something, or had nothing to bring.
    progress_at: Millis,
}

impl Incoming {
    fn new(head: Head) -> Self {
        Self {
            pending: head,
            storing: Vec::new(),
            fetch: None,
            patience_ms: STALLED_AFTER_MS,
            slow: BTreeMap::new(),
            liars: BTreeMap::new(),
        }
    }

    pub(super) fn forget(&mut self, conn: ConnectionId) {
        self.slow.remove(&conn);
        if self.fetch.as_ref().is_some_and(|fetch| fetch.conn == conn) {
            self.fetch = None;
        }
    }

    fn storing_bytes(&self) -> u64 {
        self.storing.iter().map(|storing| storing.bytes).sum()
    }
}

/// Tells whoever is asked for a log to send no more of it.
fn stop(conn: ConnectionId, log: &LogId, pull: u64) -> Effect {
    let stop = Pull { log: log.clone(), id: pull, from: 1, credit: 0, known_keys: Vec::new() };
    Effect::Send { conn, message: Message::Pull(stop) }
}

impl<T: Trust> Replica<T> {
    /// Decides whom to ask for the logs something has happened to, and now and then for all.
    pub(super) fn plan(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.leading {
            self.unplanned.clear();
            return;
        }
        if self.planned_at.is_none_or(|at| now.since(at) >= PLAN_EVERY_MS || now < at) {
            self.planned_at = Some(now);
            let sessions = self.sessions.values().filter(|session| session.is_ready());
            self.unplanned = sessions.flat_map(|session| session.logs.keys()).cloned().collect();
            // A log that nobody names any more is forgotten, or whoever names others every time fills the memory.
            let named = &self.unplanned;
            self.incoming.retain(|log, incoming| {
                let kept = named.contains(log) || !incoming.storing.is_empty();
                if let Some(fetch) = incoming.fetch.take_if(|_| !kept) {
                    effects.push(stop(fetch.conn, log, fetch.pull));
                }
                kept
            });
            self.members.keep_stranded(named);
        }
        for log in std::mem::take(&mut self.unplanned) {
            let known = self.sessions.values().any(|session| session.is_ready() && session.logs.contains_key(&log));
            if known && log.origin != self.settings.origin {
                self.plan_log(now, &log, effects);
            }
        }
    }

    fn plan_log(&mut self, now: Millis, log: &LogId, effects: &mut Vec<Effect>) {
        let durable = self.logs.get(log).map_or(Head::EMPTY, |state| state.head);
        let mut incoming = self.incoming.remove(log).unwrap_or_else(|| Incoming::new(durable));
        let before = incoming.fetch.as_ref().map(|fetch| (fetch.conn, fetch.pull));
        self.judge_source(now, log, &mut incoming);
        let chosen = self.choose_source(now, log, &incoming);
        // Whoever is asked may have no more than we do, and be asking us.
        let have = incoming.pending.seq;
        let has_next = |session: &Session| {
            let believed = !incoming.liars.contains_key(&session.region);
            session.is_ready() && believed && session.stored(log) > have && session.truncated(log) <= have
        };
        if self.sessions.values().any(has_next) {
            self.members.is_served(log);
        } else {
            self.look_for_snapshot(now, log, have, effects);
        }
        let asked = incoming.fetch.as_ref().map(|fetch| fetch.conn);
        // Whoever was asked so far stops, one that stalled too; a new pull of the same peer replaces the old one.
        if let Some((conn, pull)) = before.filter(|(conn, _)| chosen != Some(*conn)) {
            effects.push(stop(conn, log, pull));
        }
        if chosen != asked {
            incoming.fetch = None;
            if let Some(conn) = chosen {
                let pull = self.next_pull;
                self.next_pull += 1;
                incoming.fetch = Some(Fetch { conn, pull, progress_at: now });
                let known_keys = self.trust.known_keys(&log.origin.region);
                let (from, credit) = (incoming.pending.seq + 1, self.settings.limits.pull_credit_bytes);
                let ask = Pull { log: log.clone(), id: pull, from, credit, known_keys };
                effects.push(Effect::Send { conn, message: Message::Pull(ask) });
            }
        }
        self.incoming.insert(log.clone(), incoming);
    }

    /// A source that has more and sends none is left for another that has more; without one it is asked again, since what
    /// it sent may have been lost, and given twice the time.
    fn judge_source(&self, now: Millis, log: &LogId, incoming: &mut Incoming) {
        incoming.slow.retain(|_, until| now < *until);
        incoming.liars.retain(|_, until| now < *until);
        let has_more = |session: &Session| {
            session.is_ready()
                && !self.is_paused(&session.region, log.stream)
                && session.stored(log) > incoming.pending.seq
                && session.truncated(log) <= incoming.pending.seq
        };
        let due = self.sessions.values().any(has_more);
        let asked = incoming.fetch.as_ref().map(|fetch| fetch.conn);
        let others = self.sessions.iter().any(|(conn, session)| {
            Some(*conn) != asked && has_more(session) && self.is_fit(now, *conn, session, incoming)
        });
        let source_has_more = asked.and_then(|conn| self.sessions.get(&conn)).is_some_and(has_more);
        let Some(fetch) = &mut incoming.fetch else { return };
        if !due || !incoming.storing.is_empty() {
            fetch.progress_at = now;
        } else if now.since(fetch.progress_at) > incoming.patience_ms && (others || source_has_more) {
            if others {
                incoming.slow.insert(fetch.conn, now.plus(AVOID_STALLED_MS));
            }
            incoming.patience_ms = (2 * incoming.patience_ms).min(MOST_PATIENCE_MS);
            incoming.fetch = None;
        }
    }

    /// Whether a source is as good as any: heard of lately, and not known to stall.
    fn is_fit(&self, now: Millis, conn: ConnectionId, session: &Session, incoming: &Incoming) -> bool {
        now.since(session.heard_at) <= SILENT_AFTER_MS
            && !incoming.slow.contains_key(&conn)
            && !incoming.liars.contains_key(&session.region)
    }

    /// A fit source before one that is not, the origin before a relay, its leader before its standby, and the one that is
    /// asked already before a change. A silent or slow one is better than none; a liar is not.
    fn choose_source(&self, now: Millis, log: &LogId, incoming: &Incoming) -> Option<ConnectionId> {
        let current = incoming.fetch.as_ref().map(|fetch| fetch.conn);
        self.sessions
            .iter()
            .filter(|(conn, session)| {
                // The origin itself is asked even before it has anything: what it writes next then comes unasked.
                let direct = session.region == log.origin.region && session.logs.contains_key(log);
                let relay = session.stored(log) > incoming.pending.seq || Some(**conn) == current;
                let has_next = session.truncated(log) <= incoming.pending.seq;
                let may = !incoming.liars.contains_key(&session.region) && !self.is_paused(&session.region, log.stream);
                session.is_ready() && has_next && (direct || relay) && may
            })
            .max_by_key(|(conn, session)| {
                let direct = session.region == log.origin.region;
                (
                    self.is_fit(now, **conn, session, incoming),
                    direct,
                    direct && session.leading,
                    Some(**conn) == current,
                    session.stored(log),
                    std::cmp::Reverse(**conn),
                )
            })
            .map(|(conn, _)| *conn)
    }

    pub(super) fn on_batch(&mut self, now: Millis, conn: ConnectionId, batch: Batch, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(&conn) else { return };
        let from = session.region.clone();
        let log = batch.log.clone();
        if log.origin == self.settings.origin {
            self.on_proof(from, &batch, effects);
            return;
        }
        self.unplanned.insert(log.clone());
        let Some(incoming) = self.incoming.get_mut(&log) else { return };
        let bytes = batch.entries.iter().map(|entry| entry.len() as u64).sum();
        // The most that waits to be stored: what was granted, and what a source given up had under way.
        let most = self.settings.limits.pull_credit_bytes + 2 * MAX_BATCH_BYTES;
        if incoming.liars.contains_key(&from) || incoming.storing_bytes() + bytes > most {
            return;
        }
        let pull = batch.pull;
        let asked = incoming.fetch.as_ref().is_some_and(|fetch| fetch.conn == conn && fetch.pull == pull);
        match verify(&self.settings.cluster_id, incoming.pending, batch, &mut self.trust) {
            Ok(verified) => {
                if let Some(fetch) = &mut incoming.fetch {
                    let took_ms = now.since(fetch.progress_at);
                    incoming.patience_ms = (2 * took_ms).clamp(STALLED_AFTER_MS, MOST_PATIENCE_MS);
                    fetch.progress_at = now;
                }
                let (_, _, head) = verified.entries.last().expect("a verified batch has entries");
                incoming.pending = *head;
                let key = verified.checkpoint.certificate.is_some().then_some(verified.checkpoint.key_id);
                incoming.storing.push(Storing { seq: head.seq, bytes, pull, key });
                let direct = from == log.origin.region;
                let origin = log.origin.clone();
                effects.push(Effect::Store { batch: Box::new(verified), direct });
                if origin.region == self.settings.origin.region {
                    self.on_later_life(origin.incarnation, effects);
                }
            }
            // We have it from elsewhere by now; the room it would have taken is free.
            Err(BatchError::Nothing) => {
                if asked {
                    let credit = Credit { log, id: pull, bytes };
                    effects.push(Effect::Send { conn, message: Message::Credit(credit) });
                }
            }
            // Something was lost on the way; it is asked for again when the pull stalls.
            Err(BatchError::Gap { .. }) => {}
            Err(error) => {
                incoming.liars.insert(from.clone(), now.plus(AVOID_LIAR_MS));
                effects.push(Effect::Alarm(Alarm::BadBatch { from, log, error }));
            }
        }
    }

    pub(super) fn on_stored(&mut self, now: Millis, log: &LogId, head: Head, effects: &mut Vec<Effect>) {
        self.unplanned.insert(log.clone());
        let state = self.logs.entry(log.clone()).or_insert(LogState::EMPTY);
        if head.seq >= state.head.seq {
            state.head = head;
        }
        let state = *state;
        if let Some(incoming) = self.incoming.get_mut(log) {
            let done: Vec<_> = incoming.storing.extract_if(.., |storing| storing.seq <= head.seq).collect();
            for key in done.iter().filter_map(|stored| stored.key) {
                self.trust.stored(&log.origin.region, &key);
            }
            if incoming.pending.seq < head.seq {
                incoming.pending = head;
            }
            if let Some(fetch) = &mut incoming.fetch {
                let freed: u64 =
                    done.iter().filter(|stored| stored.pull == fetch.pull).map(|stored| stored.bytes).sum();
                if !done.is_empty() {
                    fetch.progress_at = now;
                }
                if freed > 0 {
                    let credit = Credit { log: log.clone(), id: fetch.pull, bytes: freed };
                    effects.push(Effect::Send { conn: fetch.conn, message: Message::Credit(credit) });
                }
            }
        }
        let ours = log.origin.region == self.settings.origin.region;
        for (conn, session) in &self.sessions {
            if session.greeting.as_ref().is_some_and(|greeting| greeting.origin.region == log.origin.region) {
                let ack = Message::Ack(Ack { log: log.clone(), state });
                effects.push(Effect::Send { conn: *conn, message: ack });
            }
            // What peers have of an earlier life of ours counts once we can compare it.
            if ours && let Some(theirs) = session.logs.get(log) {
                effects.push(Effect::SaveAck { peer: session.region.clone(), log: log.clone(), state: *theirs });
            }
        }
        self.serve_all(now, log, effects);
    }

    /// The database refused a batch: what we gave it after that hangs in the air, so begin again at what it has.
    pub(super) fn on_store_failed(&mut self, now: Millis, log: &LogId, head: Head) {
        self.unplanned.insert(log.clone());
        if let Some(state) = self.logs.get_mut(log) {
            state.head = head;
        }
        if let Some(incoming) = self.incoming.get_mut(log) {
            incoming.pending = head;
            incoming.storing.clear();
            // The next plan finds the source stalled and asks again, not at once.
            if let Some(fetch) = &mut incoming.fetch {
                fetch.pull = 0;
                fetch.progress_at = now;
            }
        }
    }
}
