//! Verifying a batch: nothing of it is believed before its origin's signature is.

use shared::ids::RegionName;

use super::{
    envelope::{Entry, Envelope, EnvelopeError},
    log::{Head, KeyId, LogId, checkpoint_message, hash_of},
    message::{Batch, Checkpoint},
};

/// Who may sign for a region. Pure: the same question, the same answer.
pub trait Trust {
    /// Checks that `signature` over `message` is by a key of `region`, learning the key if its certificate comes along.
    fn verify(&mut self, region: &RegionName, checkpoint: &Checkpoint, message: &[u8]) -> Result<(), TrustError>;

    /// Keys of a region whose certificates need not be sent again: those that are durable here.
    fn known_keys(&self, region: &RegionName) -> Vec<KeyId>;

    /// The certificate that came with a checkpoint is durable here.
    fn stored(&mut self, region: &RegionName, key: &KeyId);
}

/// Why a signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TrustError {
    /// No certificate came with it and none is known.
    #[error("signed by a key nobody has vouched for")]
    UnknownKey,
    /// The certificate is not of this mesh's authority, or of another region.
    #[error("the signer's certificate is not good for this region: {0}")]
    BadCertificate(String),
    /// The signature does not fit.
    #[error("the signature is not valid")]
    BadSignature,
}

/// Entries that are what their origin wrote: in order, unbroken, signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerifiedBatch {
    /// The log.
    pub log: LogId,
    /// The head these follow.
    pub after: Head,
    /// The entries with what their envelopes say, oldest first.
    pub entries: Vec<(Entry, Envelope, Head)>,
    /// The origin's word for them, to be passed on.
    pub checkpoint: Checkpoint,
}

/// Why a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BatchError {
    /// It does not begin where our log ends: something was lost on the way, nothing is wrong.
    #[error("it begins at {first}, our log ends at {ours}")]
    Gap {
        /// First entry in the batch.
        first: u64,
        /// Last entry we have.
        ours: u64,
    },
    /// An entry came without its body, which nothing in it allows.
    #[error("entry {0} came without its body")]
    NoBody(u64),
    /// Everything in it is known already.
    #[error("nothing in it is new")]
    Nothing,
    /// An entry is not readable.
    #[error("entry {0}: {1}")]
    Entry(u64, EnvelopeError),
    /// An entry belongs elsewhere.
    #[error("entry {0} is not of this log")]
    WrongLog(u64),
    /// An entry does not follow the one before it: two histories of one log exist.
    #[error("entry {0} does not continue the chain")]
    BrokenChain(u64),
    /// The checkpoint is not of the last entry.
    #[error("the checkpoint is not that of the last entry")]
    WrongCheckpoint,
    /// The origin did not sign this.
    #[error("{0}")]
    Untrusted(#[from] TrustError),
}

/// Checks that the origin of a log signed the last entry of a batch, whatever came before it. That proves that the entry
/// exists, not that it continues what we have.
pub(super) fn prove(cluster_id: &str, batch: &Batch, trust: &mut impl Trust) -> Result<Head, BatchError> {
    let head = batch.checkpoint.head;
    let last = batch.entries.last().ok_or(BatchError::Nothing)?;
    let envelope = Envelope::read(&last.envelope).map_err(|error| BatchError::Entry(head.seq, error))?;
    if envelope.log != batch.log || envelope.cluster_id != cluster_id {
        return Err(BatchError::WrongLog(envelope.seq));
    }
    if envelope.seq != head.seq || hash_of(&last.envelope) != head.hash {
        return Err(BatchError::WrongCheckpoint);
    }
    let message = checkpoint_message(cluster_id, &batch.log, &head);
    trust.verify(&batch.log.origin.region, &batch.checkpoint, &message)?;
    Ok(head)
}

/// Checks that the origin of a log signed its entry `head`, or a later one that the envelopes `after` lead to, one by one: then
/// everything up to `head` is the origin's too. Whatever head the checkpoint names is not looked at.
pub fn prove_head(
    cluster_id: &str,
    log: &LogId,
    head: Head,
    after: &[Vec<u8>],
    checkpoint: Checkpoint,
    trust: &mut impl Trust,
) -> Result<(), BatchError> {
    let mut reached = head;
    for bytes in after {
        let expected = reached.seq + 1;
        let envelope = Envelope::read(bytes).map_err(|error| BatchError::Entry(expected, error))?;
        if envelope.log != *log || envelope.cluster_id != cluster_id {
            return Err(BatchError::WrongLog(expected));
        }
        if envelope.seq != expected || envelope.prev_hash != reached.hash {
            return Err(BatchError::BrokenChain(expected));
        }
        reached = Head { seq: expected, hash: hash_of(bytes) };
    }
    let checkpoint = Checkpoint { head: reached, ..checkpoint };
    trust.verify(&log.origin.region, &checkpoint, &checkpoint_message(cluster_id, log, &reached))?;
    Ok(())
}

/// Checks a batch against the head of our copy of its log. Entries we have are skipped.
pub fn verify(cluster_id: &str, ours: Head, batch: Batch, trust: &mut impl Trust) -> Result<VerifiedBatch, BatchError> {
    let Batch { log, pull: _, entries, checkpoint } = batch;
    let mut head: Option<Head> = None;
    let mut verified = Vec::with_capacity(entries.len());
    for entry in entries {
        let expected = head.map_or(0, |head| head.seq + 1);
        let envelope = Envelope::read(&entry.envelope).map_err(|error| BatchError::Entry(expected, error))?;
        let seq = envelope.seq;
        if envelope.log != log || envelope.cluster_id != cluster_id {
            return Err(BatchError::WrongLog(seq));
        }
        match head {
            None if seq > ours.seq + 1 => return Err(BatchError::Gap { first: seq, ours: ours.seq }),
            Some(head) if seq != head.seq + 1 || envelope.prev_hash != head.hash => {
                return Err(BatchError::BrokenChain(seq));
            }
            None | Some(_) => {}
        }
        let hash = hash_of(&entry.envelope);
        if (seq == ours.seq + 1 && envelope.prev_hash != ours.hash) || (seq == ours.seq && hash != ours.hash) {
            return Err(BatchError::BrokenChain(seq));
        }
        match &entry.body {
            Some(body) => envelope.check_body(body).map_err(|error| BatchError::Entry(seq, error))?,
            // The envelope says whether a body may be withheld; whoever passes it on does not.
            None if envelope.residency_tag.is_empty() => return Err(BatchError::NoBody(seq)),
            None => {}
        }
        let reached = Head { seq, hash };
        head = Some(reached);
        if seq > ours.seq {
            verified.push((entry, envelope, reached));
        }
    }
    let head = head.ok_or(BatchError::Nothing)?;
    if verified.is_empty() {
        return Err(BatchError::Nothing);
    }
    if head != checkpoint.head {
        return Err(BatchError::WrongCheckpoint);
    }
    trust.verify(&log.origin.region, &checkpoint, &checkpoint_message(cluster_id, &log, &head))?;
    Ok(VerifiedBatch { log, after: ours, entries: verified, checkpoint })
}
