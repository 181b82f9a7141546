//! Fetching: for every log of others there is at most one peer we ask, its origin if that answers, else one that has it.

use super::*;
use crate::protocol::{
    batch::verify,
    message::{Credit, Pull},
};

/// A log of somebody else's on its way in.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// The last entry given to the store; ahead of what is durable while a store is under way.
    pending: Head,
    /// Bytes given to the store and not durable yet, oldest batch first.
    storing: Vec<(u64, u64)>,
    fetch: Option<Fetch>,
    /// Regions not to ask, and until when.
    avoid: BTreeMap<RegionName, Millis>,
}

#[derive(Clone, Debug)]
struct Fetch {
    conn: ConnectionId,
    pull: u64,
    progress_at: Millis,
}

impl Incoming {
    fn new(head: Head) -> Self {
        Self { pending: head, storing: Vec::new(), fetch: None, avoid: BTreeMap::new() }
    }

    pub(super) fn forget(&mut self, conn: ConnectionId) {
        if self.fetch.as_ref().is_some_and(|fetch| fetch.conn == conn) {
            self.fetch = None;
        }
    }

    fn avoids(&self, region: &RegionName, now: Millis) -> bool {
        self.avoid.get(region).is_some_and(|until| now < *until)
    }
}

impl<T: Trust> Replica<T> {
    /// Decides for every log known to anybody whom to ask for it.
    pub(super) fn plan(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.leading {
            return;
        }
        let wanted: BTreeSet<LogId> = self
            .sessions
            .values()
            .filter(|session| session.is_ready())
            .flat_map(|session| session.logs.keys())
            .filter(|log| log.origin != self.settings.origin)
            .cloned()
            .collect();
        for log in wanted {
            self.plan_log(now, &log, effects);
        }
    }

    fn plan_log(&mut self, now: Millis, log: &LogId, effects: &mut Vec<Effect>) {
        let durable = self.logs.get(log).map_or(Head::EMPTY, |state| state.head);
        let mut incoming = self.incoming.remove(log).unwrap_or_else(|| Incoming::new(durable));
        self.give_up_stalled(now, log, &mut incoming);
        let chosen = self.choose_source(now, log, &incoming);
        let asked = incoming.fetch.as_ref().map(|fetch| fetch.conn);
        if chosen != asked {
            if let Some(Fetch { conn, pull, .. }) = incoming.fetch.take() {
                let stop = Pull { log: log.clone(), id: pull, from: 1, credit: 0, known_keys: Vec::new() };
                effects.push(Effect::Send { conn, message: Message::Pull(stop) });
            }
            if let Some(conn) = chosen {
                let pull = self.next_pull;
                self.next_pull += 1;
                incoming.fetch = Some(Fetch { conn, pull, progress_at: now });
                let known_keys = self.trust.known_keys(&log.origin.region);
                let from = incoming.pending.seq + 1;
                let ask = Pull { log: log.clone(), id: pull, from, credit: PULL_CREDIT_BYTES, known_keys };
                effects.push(Effect::Send { conn, message: Message::Pull(ask) });
            }
        }
        self.incoming.insert(log.clone(), incoming);
    }

    /// A source that has more and sends none is dropped, and avoided for a while if another could be asked.
    fn give_up_stalled(&self, now: Millis, log: &LogId, incoming: &mut Incoming) {
        incoming.avoid.retain(|_, until| now < *until);
        let Some(fetch) = &incoming.fetch else { return };
        let Some(session) = self.sessions.get(&fetch.conn) else { return };
        let waits_for_disk = !incoming.storing.is_empty();
        let others_have_more = self.sessions.values().any(|other| other.stored(log) > incoming.pending.seq);
        if !waits_for_disk && others_have_more && now.since(fetch.progress_at) > STALLED_AFTER_MS {
            incoming.avoid.insert(session.region.clone(), now.plus(AVOID_STALLED_MS));
            incoming.fetch = None;
        }
    }

    fn choose_source(&self, now: Millis, log: &LogId, incoming: &Incoming) -> Option<ConnectionId> {
        let ready = || {
            self.sessions.iter().filter(|(_, session)| {
                session.is_ready()
                    && session.logs.contains_key(log)
                    && now.since(session.heard_at) <= SILENT_AFTER_MS
                    && !incoming.avoids(&session.region, now)
            })
        };
        let current = incoming.fetch.as_ref().map(|fetch| fetch.conn);
        // The origin itself is asked even before it has anything: what it writes next then comes without a question.
        let direct = ready()
            .filter(|(_, session)| session.region == log.origin.region)
            .max_by_key(|(conn, session)| (Some(**conn) == current, session.stored(log)));
        let relay = || {
            ready()
                .filter(|(conn, session)| {
                    session.region != log.origin.region
                        && (session.stored(log) > incoming.pending.seq || Some(**conn) == current)
                })
                .max_by_key(|(conn, session)| (Some(**conn) == current, session.stored(log), std::cmp::Reverse(*conn)))
        };
        direct.or_else(relay).map(|(conn, _)| *conn)
    }

    pub(super) fn on_batch(&mut self, now: Millis, conn: ConnectionId, batch: Batch, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(&conn) else { return };
        let from = session.region.clone();
        let log = batch.log.clone();
        let Some(incoming) = self.incoming.get_mut(&log) else { return };
        let Some(fetch) = &mut incoming.fetch else { return };
        if fetch.conn != conn || fetch.pull != batch.pull {
            return;
        }
        let bytes = batch.entries.iter().map(|entry| entry.len() as u64).sum();
        match verify(&self.settings.cluster_id, incoming.pending, batch, &mut self.trust) {
            Ok(verified) => {
                fetch.progress_at = now;
                let (_, _, head) = verified.entries.last().expect("a verified batch has entries");
                incoming.pending = *head;
                incoming.storing.push((head.seq, bytes));
                let direct = from == log.origin.region;
                effects.push(Effect::Store { batch: Box::new(verified), direct });
            }
            // Lost or repeated on the way. A repeat costs its credit; what was lost is asked for again when it stalls.
            Err(BatchError::Gap { .. } | BatchError::Nothing) => {}
            Err(error) => {
                incoming.avoid.insert(from.clone(), now.plus(AVOID_LIAR_MS));
                effects.push(Effect::Alarm(Alarm::BadBatch { from, log, error }));
            }
        }
    }

    pub(super) fn on_stored(&mut self, now: Millis, log: &LogId, head: Head, effects: &mut Vec<Effect>) {
        let state = self.logs.entry(log.clone()).or_insert(NOTHING);
        if head.seq >= state.head.seq {
            state.head = head;
        }
        let state = *state;
        if let Some(incoming) = self.incoming.get_mut(log) {
            let mut freed = 0;
            incoming.storing.retain(|(seq, bytes)| {
                let done = *seq <= head.seq;
                freed += if done { *bytes } else { 0 };
                !done
            });
            if incoming.pending.seq < head.seq {
                incoming.pending = head;
            }
            if let Some(fetch) = &mut incoming.fetch
                && freed > 0
            {
                fetch.progress_at = now;
                let credit = Credit { log: log.clone(), id: fetch.pull, bytes: freed };
                effects.push(Effect::Send { conn: fetch.conn, message: Message::Credit(credit) });
            }
        }
        for (conn, session) in &self.sessions {
            if session.greeting.as_ref().is_some_and(|greeting| greeting.origin.region == log.origin.region) {
                let ack = Message::Ack(Ack { log: log.clone(), state });
                effects.push(Effect::Send { conn: *conn, message: ack });
            }
        }
        self.serve_all(now, log, effects);
    }

    /// The database refused a batch: what we gave it after that hangs in the air, so begin again at what it has.
    pub(super) fn on_store_failed(&mut self, now: Millis, log: &LogId, head: Head) {
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
