//! Mistakes planted around the core, each of which a law has to find: what a database, a transport or a process would do if
//! the program had that mistake. They live in the simulation alone; the program has no switch for them.

use super::laws::Law;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// What is reported as stored is sometimes not.
    DiskForgets,
    /// A batch is reported as stored when it arrives.
    StoredTooEarly,
    /// The cursor moves, and a crash comes before the rows.
    CursorBeforeRows,
    /// Entries are counted as applied, and a crash comes before what they say is written.
    AppliedBeforeRows,
    /// A batch is written without a look at what the log ends with by then.
    AppendsBlindly,
    /// That a batch could not be stored is not reported.
    StoreFailureUntold,
    /// Rows leave the outbox in another transaction than the one that numbers them.
    OutboxDeletedLater,
    /// The outbox is read from the last position seen, and what commits late is passed over.
    OutboxReadByPosition,
    /// Whoever numbers does not prove that it leads.
    NumbersUnfenced,
    /// Whoever applies does not prove that it leads.
    AppliesUnfenced,
    /// The lease runs out by the clock of whoever wants it.
    LeaseByOwnClock,
    /// Facts are numbered before others were asked what they know of us.
    NumbersInDoubt,
    /// A region that was restored goes on in the life it was in.
    OldLifeGoesOn,
    /// A database that went back while its leader ran is taken for the one it was.
    FailoverUnnoticed,
    /// An instance goes on although its life is over or its database is another, and takes the lease when it can.
    OutlivedGoesOn,
    /// That nobody has led the database for long raises no doubt: who stays silent is not waited for.
    DoubtForgotten,
    /// A copy of the database honours the lease that was copied with it, until somebody looks.
    LeaseOfCopyHolds,
    /// A promoted or restored copy goes on in its life once everybody was asked.
    CopyKeepsItsLife,
    /// Signatures are not looked at.
    BelievesEverybody,
    /// A relay writes envelopes anew and drops what it does not know.
    RelayWritesAnew,
    /// A relay does not keep what the origin signed.
    CheckpointsNotKept,
    /// A source that is left is not told to stop.
    SourcesNotStopped,
    /// That entries were sent is not reported.
    ServedUntold,
    /// What was sent is not taken off the credit.
    CreditNotSpent,
    /// An entry that cannot be applied stops its log.
    PoisonStopsLog,
    /// What came with an entry that cannot be applied is set aside too.
    PoisonTakesNeighbours,
    /// The three kinds of logs are applied by one, which stops where any does.
    KindsWaitForEachOther,
    /// A fact that is told twice counts twice.
    FactCountsTwice,
    /// Of two facts with one id the later one stays.
    LastBodyWins,
    /// A snapshot's vector and rows are of two moments.
    TornSnapshot,
    /// A snapshot's cursors are set before its rows are there.
    SnapshotCursorsFirst,
    /// That a snapshot could not be loaded is not reported.
    SnapshotFailureUntold,
    /// A snapshot's rows are compared all at once and never part by part.
    SnapshotComparedWhole,
    /// Old entries are dropped whoever lacks them.
    TruncatesForItself,
    /// That entries were dropped is not reported.
    TruncationUntold,
    /// A region that is never heard of again is waited for with everything.
    WaitsForTheDead,
    /// That a stream is paused is written down and not told.
    PauseUntold,
    /// Sums leave out the newest row.
    DigestOmitsRow,
    /// Rows are compared as they are now, whatever the other side had applied.
    DigestOfNow,
    /// Sums are of keys alone.
    DigestOfKeys,
    /// A command that waited for a hand-over goes on as if nothing had been.
    HandOverUnfenced,
    /// That a tenant was handed over is told by its old home alone.
    NewHomeTellsNobody,
    /// Whom a term was promised to is not written down.
    PromiseForgotten,
    /// What comes after a move was heard of is late, whatever came before it elsewhere.
    LateByArrival,
}

/// A planted bug, the pitfall it stands for and who has to find it.
pub(crate) struct Planted {
    pub(crate) bug: Bug,
    /// What goes wrong in the field.
    pub(crate) pitfall: &'static str,
    /// Laws of which one must be the first to be broken.
    pub(crate) laws: &'static [Law],
    /// The first seed that has shown it.
    pub(crate) seed: u64,
}

/// All of them.
pub(crate) const PLANTED: &[Planted] = &[
    Planted {
        bug: Bug::DiskForgets,
        pitfall: "the cursor moves and the rows do not",
        laws: &[Law::AcknowledgedIsDurable, Law::CopiesAreTrue, Law::AllConverge],
        seed: 0,
    },
    Planted {
        bug: Bug::StoredTooEarly,
        pitfall: "stored is said of what is not durable",
        laws: &[Law::AcknowledgedIsDurable],
        seed: 0,
    },
    Planted {
        bug: Bug::CursorBeforeRows,
        pitfall: "cursor and rows in two transactions",
        laws: &[Law::NothingIsDamaged, Law::CopiesAreTrue, Law::AllConverge, Law::NothingIsLost],
        seed: 0,
    },
    Planted {
        bug: Bug::AppliedBeforeRows,
        pitfall: "the cursor of what is applied, and the rows, in two transactions",
        laws: &[Law::AllConverge, Law::NothingIsLost, Law::NothingIsDamaged],
        seed: 0,
    },
    Planted {
        bug: Bug::AppendsBlindly,
        pitfall: "a batch that comes twice is stored twice",
        laws: &[Law::CopiesAreTrue],
        seed: 16,
    },
    Planted {
        bug: Bug::StoreFailureUntold,
        pitfall: "an error leaves memory and database apart",
        laws: &[Law::AllConverge],
        seed: 7,
    },
    Planted {
        bug: Bug::OutboxDeletedLater,
        pitfall: "outbox and log in two transactions",
        laws: &[
            Law::RowsAreNumberedOnce,
            Law::FactsCountOnce,
            Law::NumbersAreGivenOnce,
            Law::NothingIsLost,
            Law::AllConverge,
        ],
        seed: 0,
    },
    Planted {
        bug: Bug::OutboxReadByPosition,
        pitfall: "what commits late is never read",
        laws: &[Law::AllConverge],
        seed: 1,
    },
    Planted {
        bug: Bug::NumbersUnfenced,
        pitfall: "a leader that lost its lease numbers on",
        laws: &[Law::OnlyTheLeaderWrites],
        seed: 5,
    },
    Planted {
        bug: Bug::AppliesUnfenced,
        pitfall: "a leader that lost its lease applies on",
        laws: &[Law::OnlyTheLeaderWrites],
        seed: 2,
    },
    Planted {
        bug: Bug::LeaseByOwnClock,
        pitfall: "the lease is judged by whoever wants it",
        laws: &[Law::LeasesAreHonoured],
        seed: 0,
    },
    Planted {
        bug: Bug::NumbersInDoubt,
        pitfall: "a restored region numbers before it asks",
        laws: &[Law::NumbersAreGivenOnce, Law::NothingIsDamaged],
        seed: 18,
    },
    Planted {
        bug: Bug::OldLifeGoesOn,
        pitfall: "numbers of a lost past are used again",
        laws: &[Law::NumbersAreGivenOnce, Law::NothingIsDamaged, Law::AllConverge],
        seed: 5,
    },
    Planted {
        bug: Bug::FailoverUnnoticed,
        pitfall: "a promoted copy lacks what was numbered",
        laws: &[Law::NumbersAreGivenOnce],
        seed: 162,
    },
    Planted {
        bug: Bug::OutlivedGoesOn,
        pitfall: "a standby takes the lease in a life that is over",
        laws: &[Law::NumbersAreGivenOnce, Law::OldLivesAreOver],
        seed: 100,
    },
    Planted {
        bug: Bug::DoubtForgotten,
        pitfall: "a region put back as it lay believes that silence is consent",
        laws: &[Law::NumbersAreGivenOnce],
        seed: 2394,
    },
    Planted {
        bug: Bug::LeaseOfCopyHolds,
        pitfall: "a promoted copy has the leader's lease too",
        laws: &[Law::NumbersAreGivenOnce],
        seed: 1132,
    },
    Planted {
        bug: Bug::CopyKeepsItsLife,
        pitfall: "what a copy lacks is on its way where nobody is asked",
        laws: &[Law::NumbersAreGivenOnce, Law::CopiesAreTrue, Law::NothingIsDamaged],
        seed: 18,
    },
    Planted {
        bug: Bug::BelievesEverybody,
        pitfall: "a relay forges what another region wrote",
        laws: &[Law::CopiesAreTrue],
        seed: 9,
    },
    Planted {
        bug: Bug::RelayWritesAnew,
        pitfall: "a relay drops fields it does not know",
        laws: &[Law::NothingIsDamaged],
        seed: 2,
    },
    Planted {
        bug: Bug::CheckpointsNotKept,
        pitfall: "a relay cannot prove what it has",
        laws: &[Law::AllConverge],
        seed: 4,
    },
    Planted { bug: Bug::SourcesNotStopped, pitfall: "two peers send the same", laws: &[Law::OneFetcher], seed: 0 },
    Planted {
        bug: Bug::ServedUntold,
        pitfall: "whoever is sent something is never sent more",
        laws: &[Law::AllConverge],
        seed: 154,
    },
    Planted {
        bug: Bug::CreditNotSpent,
        pitfall: "a slow peer is sent more than it can take",
        laws: &[Law::CreditIsKept, Law::WhatWaitsIsBounded],
        seed: 8,
    },
    Planted { bug: Bug::PoisonStopsLog, pitfall: "one entry blocks all behind it", laws: &[Law::AllConverge], seed: 0 },
    Planted {
        bug: Bug::PoisonTakesNeighbours,
        pitfall: "good entries are set aside with a bad one",
        laws: &[Law::NothingIsDamaged, Law::NothingIsLost],
        seed: 0,
    },
    Planted {
        bug: Bug::KindsWaitForEachOther,
        pitfall: "one kind of log blocks the others",
        laws: &[Law::AllConverge],
        seed: 0,
    },
    Planted {
        bug: Bug::FactCountsTwice,
        pitfall: "a fact that is told twice counts twice",
        laws: &[Law::FactsCountOnce],
        seed: 0,
    },
    Planted { bug: Bug::LastBodyWins, pitfall: "one id, two bodies", laws: &[Law::FactsCountOnce], seed: 0 },
    Planted {
        bug: Bug::TornSnapshot,
        pitfall: "vector and rows of two moments",
        laws: &[Law::NothingIsLost, Law::NothingIsDamaged, Law::AllConverge],
        seed: 0,
    },
    Planted {
        bug: Bug::SnapshotCursorsFirst,
        pitfall: "cursors before the last rows",
        laws: &[Law::NothingIsLost, Law::NothingIsDamaged, Law::AllConverge],
        seed: 32,
    },
    Planted {
        bug: Bug::SnapshotFailureUntold,
        pitfall: "a snapshot that broke off is never asked for again",
        laws: &[Law::AllConverge],
        seed: 40,
    },
    Planted {
        bug: Bug::SnapshotComparedWhole,
        pitfall: "a newcomer waits for a moment in which nobody writes",
        laws: &[Law::AllConverge],
        seed: 0,
    },
    Planted {
        bug: Bug::TruncatesForItself,
        pitfall: "entries are dropped that a region lacks",
        laws: &[Law::NothingNeededIsDropped],
        seed: 0,
    },
    Planted {
        bug: Bug::TruncationUntold,
        pitfall: "entries are promised that are gone",
        laws: &[Law::AllConverge],
        seed: 2,
    },
    Planted {
        bug: Bug::WaitsForTheDead,
        pitfall: "a dead region keeps the logs growing",
        laws: &[Law::AllConverge],
        seed: 8,
    },
    Planted {
        bug: Bug::PauseUntold,
        pitfall: "a pause that is shown and not kept",
        laws: &[Law::PausesAreKept],
        seed: 6,
    },
    Planted {
        bug: Bug::DigestOmitsRow,
        pitfall: "sums that leave something out",
        laws: &[Law::NothingIsDamaged],
        seed: 0,
    },
    Planted {
        bug: Bug::DigestOfNow,
        pitfall: "sums of two moments are compared",
        laws: &[Law::NothingIsDamaged],
        seed: 0,
    },
    Planted {
        bug: Bug::DigestOfKeys,
        pitfall: "sums that do not see what a row says",
        laws: &[Law::AllConverge],
        seed: 0,
    },
    Planted {
        bug: Bug::HandOverUnfenced,
        pitfall: "what was under way at the old home slips past the hand-over",
        laws: &[Law::OneHomeWrites],
        seed: 6,
    },
    Planted {
        bug: Bug::NewHomeTellsNobody,
        pitfall: "a home dies before others hear that it has handed over",
        laws: &[Law::MovesEndAlike],
        seed: 245,
    },
    Planted {
        bug: Bug::PromiseForgotten,
        pitfall: "two regions win the same term",
        laws: &[Law::OneHomeWrites],
        seed: 145,
    },
    Planted {
        bug: Bug::LateByArrival,
        pitfall: "late depends on what a region heard of first",
        laws: &[Law::MovesEndAlike],
        seed: 3,
    },
];
