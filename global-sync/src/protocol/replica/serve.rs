//! Serving pulls: entries flow to a peer as long as it has credit, read from the database when they are needed.

use super::*;
use crate::protocol::{
    message::{Credit, MAX_BATCH_BYTES, Pull},
    session::Subscription,
};

/// Logs one peer may pull at a time.
const MAX_SUBSCRIPTIONS: usize = 1024;
/// The most credit a peer can pile up.
const MAX_CREDIT: i64 = 64 * 1024 * 1024;
/// After a read that found nothing to send.
const RETRY_SERVE_MS: u64 = 500;

impl<T: Trust> Replica<T> {
    pub(super) fn on_pull(&mut self, now: Millis, conn: ConnectionId, pull: Pull, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Pull { log, id, from, credit, known_keys } = pull;
        let running = session.subscriptions.get(&log);
        // Said before, or overtaken by a later one: it must not grant its credit again.
        if running.is_some_and(|running| id < running.pull || (id == running.pull && credit > 0)) {
            return;
        }
        let serving = running.is_some_and(|running| running.serving);
        if credit == 0 && !serving {
            session.subscriptions.remove(&log);
            return;
        }
        if session.subscriptions.len() >= MAX_SUBSCRIPTIONS && !session.subscriptions.contains_key(&log) {
            self.close(conn, CloseReason::OutOfOrder, effects);
            return;
        }
        let subscription = Subscription {
            pull: id,
            next: from,
            credit: signed(credit).min(MAX_CREDIT),
            known_keys,
            serving,
            retry_at: now,
        };
        session.subscriptions.insert(log.clone(), subscription);
        self.serve(now, conn, &log, effects);
    }

    pub(super) fn on_credit(&mut self, now: Millis, conn: ConnectionId, credit: Credit, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if let Some(subscription) = session.subscriptions.get_mut(&credit.log)
            && subscription.pull == credit.id
        {
            subscription.credit = subscription.credit.saturating_add(signed(credit.bytes)).min(MAX_CREDIT);
            self.serve(now, conn, &credit.log, effects);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    pub(super) fn on_served(
        &mut self,
        now: Millis,
        conn: ConnectionId,
        log: &LogId,
        pull: u64,
        next: u64,
        bytes: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Some(subscription) = session.subscriptions.get_mut(log) else { return };
        subscription.serving = false;
        if subscription.pull == pull {
            if next <= subscription.next {
                subscription.retry_at = now.plus(RETRY_SERVE_MS);
            }
            subscription.next = next.max(subscription.next);
            subscription.credit = subscription.credit.saturating_sub(signed(bytes));
        }
        if subscription.credit == 0 && subscription.pull != pull {
            session.subscriptions.remove(log);
            return;
        }
        self.serve(now, conn, log, effects);
    }

    /// A log has grown: whoever waits for it gets more.
    pub(super) fn serve_all(&mut self, now: Millis, log: &LogId, effects: &mut Vec<Effect>) {
        let waiting: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.subscriptions.contains_key(log))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in waiting {
            self.serve(now, conn, log, effects);
        }
    }

    /// Whoever waits for anything there is gets it.
    pub(super) fn serve_everybody(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let waits = |log: &LogId, wants: &Subscription| {
            !wants.serving && wants.credit > 0 && self.logs.get(log).is_some_and(|state| wants.next <= state.head.seq)
        };
        let waiting: Vec<_> = self
            .sessions
            .iter()
            .flat_map(|(conn, session)| session.subscriptions.iter().map(move |(log, wants)| (*conn, log, wants)))
            .filter(|(_, log, wants)| waits(log, wants))
            .map(|(conn, log, _)| (conn, log.clone()))
            .collect();
        for (conn, log) in waiting {
            self.serve(now, conn, &log, effects);
        }
    }

    fn serve(&mut self, now: Millis, conn: ConnectionId, log: &LogId, effects: &mut Vec<Effect>) {
        let state = self.logs.get(log).copied().unwrap_or(LogState::EMPTY);
        let newest = state.head.seq;
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Some(subscription) = session.subscriptions.get_mut(log) else { return };
        let there = state.truncated < subscription.next && subscription.next <= newest;
        let paused = !self.paused.is_empty() && self.paused.contains(&(session.region.clone(), log.stream));
        if paused || subscription.serving || subscription.credit <= 0 || !there || now < subscription.retry_at {
            return;
        }
        subscription.serving = true;
        effects.push(Effect::Serve {
            conn,
            log: log.clone(),
            pull: subscription.pull,
            from: subscription.next,
            upto: newest,
            max_bytes: subscription.credit.unsigned_abs().min(MAX_BATCH_BYTES),
            known_keys: subscription.known_keys.clone(),
        });
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
