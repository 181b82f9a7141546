//! Who belongs to the mesh, and what they still need of the logs.
//!
//! The region directory says who is a member. Entries every member has stored are dropped; one that lags too far is given
//! up on and loads a snapshot. What is written while it does is kept for it, or it would need the next one.

use super::*;

/// How long nobody may have the next entry of a log before a snapshot is asked for: somebody may yet come.
pub(super) const SNAPSHOT_AFTER_MS: u64 = 2_000;

/// What members have of each log.
type Acks = BTreeMap<RegionName, BTreeMap<LogId, u64>>;

#[derive(Debug)]
pub(super) struct Members {
    states: BTreeMap<RegionName, MemberState>,
    /// What they have said in this life.
    heard: Acks,
    /// What the database remembers of those that have said nothing yet. They may have been restored from a backup since, so
    /// it tells who lags, and never what may be dropped.
    remembered: Acks,
    /// Whom we have given up on until they catch up.
    given_up: BTreeSet<RegionName>,
    truncate_due: Millis,
    /// Since when nobody has had the next entry of a log.
    stranded: BTreeMap<LogId, Millis>,
    /// The peer whose snapshot is being loaded.
    pub(super) loading: Option<RegionName>,
}

impl Members {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            states: BTreeMap::new(),
            heard: Acks::new(),
            remembered: Acks::new(),
            given_up: BTreeSet::new(),
            truncate_due: now,
            stranded: BTreeMap::new(),
            loading: None,
        }
    }

    pub(super) fn start_over(&mut self) {
        self.loading = None;
        self.stranded.clear();
    }

    /// The last word of a peer about a log; after a restore it is less than it was.
    pub(super) fn heed_ack(&mut self, region: &RegionName, log: &LogId, stored: u64) {
        self.heard.entry(region.clone()).or_default().insert(log.clone(), stored);
    }

    /// A peer has said all it has: what it does not name it has no more. Returns what it named before.
    pub(super) fn heed_advert(&mut self, region: &RegionName, logs: &BTreeMap<LogId, LogState>) -> BTreeSet<LogId> {
        let named = logs.iter().map(|(log, state)| (log.clone(), state.head.seq)).collect();
        let before = self.heard.insert(region.clone(), named).unwrap_or_default();
        let remembered = self.remembered.remove(region).unwrap_or_default();
        before.into_keys().chain(remembered.into_keys()).filter(|log| !logs.contains_key(log)).collect()
    }

    /// No other log is named by anybody.
    pub(super) fn keep_stranded(&mut self, named: &BTreeSet<LogId>) {
        self.stranded.retain(|log, _| named.contains(log));
    }

    /// Somebody has the next entry of a log.
    pub(super) fn is_served(&mut self, log: &LogId) {
        self.stranded.remove(log);
    }

    /// What a member has of a log for certain: nothing before it has spoken.
    fn has(&self, region: &RegionName, log: &LogId) -> u64 {
        self.heard.get(region).and_then(|logs| logs.get(log)).copied().unwrap_or_default()
    }

    /// What a member had of each log by its last word, in this life or an earlier one; none if it was never heard.
    fn last_heard(&self, region: &RegionName) -> Option<&BTreeMap<LogId, u64>> {
        self.heard.get(region).or_else(|| self.remembered.get(region))
    }

    /// Whether a member lacks more than `kept` entries before `newest`. Who was never heard may have everything.
    fn lags(&self, region: &RegionName, log: &LogId, newest: u64, kept: u64) -> bool {
        let stored = |logs: &BTreeMap<LogId, u64>| logs.get(log).copied().unwrap_or_default();
        self.last_heard(region).is_some_and(|logs| stored(logs) + kept < newest)
    }

    /// Whether a region is no member yet.
    pub(super) fn joins(&self, region: &RegionName) -> bool {
        self.states.get(region) == Some(&MemberState::Joining)
    }

    /// Regions that are to have everything: all but those that are gone, and newcomers that have not begun. A newcomer stays
    /// one until every region has told it that it knows of it, and so has heard it and counts it.
    pub(super) fn counted(&self, us: &RegionName) -> Vec<RegionName> {
        let all: BTreeSet<_> = self.states.keys().chain(self.heard.keys()).filter(|region| *region != us).collect();
        let counts = |region: &RegionName| match self.states.get(region) {
            Some(MemberState::Joining) => self.last_heard(region).is_some(),
            Some(MemberState::Active | MemberState::Draining) | None => true,
            Some(MemberState::Retired) => false,
        };
        all.into_iter().filter(|region| counts(region)).cloned().collect()
    }
}

impl<T: Trust> Replica<T> {
    /// Where this region stands: by the directory, which knows of all its lives.
    pub fn state(&self) -> MemberState {
        self.members.states.get(&self.settings.origin.region).copied().unwrap_or(self.settings.state)
    }

    pub(super) fn on_members(&mut self, states: BTreeMap<RegionName, MemberState>, remembered: Acks) {
        // A region that is gone knows nothing of us that others do not.
        self.settings.expected.retain(|region| states.get(region) != Some(&MemberState::Retired));
        self.members.states = states;
        self.members.remembered = remembered;
    }

    pub(super) fn look_after_members(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let may = self.leading && self.numbering == Numbering::Allowed;
        if may && now >= self.members.truncate_due && self.settings.features & features::SNAPSHOTS != 0 {
            self.members.truncate_due = now.plus(self.settings.limits.truncate_every_ms);
            self.truncate(effects);
        }
    }

    /// Drops what is applied here and stored by every member; for one that was given up on and is here again the newest are kept.
    /// The last of all stays: it proves where the log ends.
    fn truncate(&mut self, effects: &mut Vec<Effect>) {
        if self.members.states.is_empty() {
            return; // who the members are is not known yet
        }
        let counted = self.members.counted(&self.settings.origin.region);
        let (members, logs, kept) = (&mut self.members, &self.logs, self.settings.limits.kept_entries);
        let (heard, remembered) = (&members.heard, &members.remembered);
        members.given_up.retain(|region| {
            let logs_of = heard.get(region).or_else(|| remembered.get(region));
            let stored = |log| logs_of.and_then(|logs| logs.get(log)).copied().unwrap_or_default();
            logs.iter().any(|(log, state)| stored(log) < state.truncated)
        });
        for (log, state) in logs {
            for region in &counted {
                let newest = state.head.seq.min(state.applied);
                if members.lags(region, log, newest, kept) && members.given_up.insert(region.clone()) {
                    effects.push(Effect::GiveUpOn { peer: region.clone(), log: log.clone() });
                }
            }
        }
        let here: BTreeSet<_> =
            self.sessions.values().filter(|session| session.is_ready()).map(|s| &s.region).collect();
        for (log, state) in logs {
            let needs = |region: &RegionName| {
                let has = members.has(region, log);
                match (members.given_up.contains(region), here.contains(region)) {
                    (false, _) => Some(has),
                    (true, true) => Some(has.max(state.head.seq.saturating_sub(kept))),
                    (true, false) => None,
                }
            };
            let stored = counted.iter().filter_map(needs).min().unwrap_or(state.applied);
            let upto = stored.min(state.applied).min(state.head.seq.saturating_sub(1));
            if upto > state.truncated {
                effects.push(Effect::Truncate { log: log.clone(), upto });
            }
        }
    }

    /// Nobody has the next entry of a log. Where somebody had it and has dropped it, only a snapshot helps.
    pub(super) fn look_for_snapshot(&mut self, now: Millis, log: &LogId, have: u64, effects: &mut Vec<Effect>) {
        let donors = self.sessions.iter().filter(|(_, session)| {
            session.is_ready() && session.can(features::SNAPSHOTS) && session.truncated(log) > have
        });
        let donor =
            donors.max_by_key(|(conn, session)| (session.leading, session.stored(log), std::cmp::Reverse(**conn)));
        let able = self.settings.features & features::SNAPSHOTS != 0;
        let Some((_, session)) = donor.filter(|_| able) else {
            self.members.stranded.remove(log);
            return;
        };
        let since = *self.members.stranded.entry(log.clone()).or_insert(now);
        if self.members.loading.is_none() && now.since(since) >= SNAPSHOT_AFTER_MS {
            // Should it fail, it is asked for again after as long.
            self.members.stranded.remove(log);
            self.members.loading = Some(session.region.clone());
            effects.push(Effect::LoadSnapshot { peer: session.region.clone() });
        }
    }

    /// What the database held once the snapshot was in; some logs may have grown since it was asked.
    pub(super) fn on_snapshot(&mut self, logs: BTreeMap<LogId, LogState>) {
        self.members.loading = None;
        if !self.leading {
            return;
        }
        for (log, loaded) in logs {
            let ours = self.logs.entry(log).or_insert(LogState::EMPTY);
            if loaded.head.seq > ours.head.seq {
                ours.head = loaded.head;
            }
            ours.applied = ours.applied.max(loaded.applied);
            ours.truncated = ours.truncated.max(loaded.truncated);
        }
        self.start_over();
    }
}

#[cfg(test)]
impl Members {
    /// Logs that peers have told of, and those that nobody has the next entry of.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.heard.values().map(BTreeMap::len).sum(), self.stranded.len())
    }
}

#[cfg(test)]
mod tests;
