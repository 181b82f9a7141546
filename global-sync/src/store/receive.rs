//! Making verified batches durable: rows and cursor in one transaction, or neither.

use std::borrow::Borrow;

use super::{
    Fence, Store, StoreError,
    apply::apply_at_once,
    number::{insert_checkpoint, insert_entries, lock_head, save_head},
};
use crate::protocol::{Entry, Envelope, Head, VerifiedBatch};

/// What was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The log's head.
    pub head: Head,
    /// How many entries are applied already, being all that were not.
    pub applied: usize,
}

impl Store {
    /// Stores what is new of a batch and returns the log's head. Storing a batch twice changes nothing.
    pub async fn receive(&self, batch: &VerifiedBatch) -> Result<Head, StoreError> {
        Ok(self.receive_all(None, &[batch]).await?.head)
    }

    /// Stores several batches of one log, one after the other, with one transaction: a commit costs as much as hundreds of
    /// entries. The leader, who has a `fence`, applies facts of the ledger with it if nothing about them is out of the
    /// ordinary, since to read them again costs as much as to store them.
    pub async fn receive_all<B>(&self, fence: Option<&Fence>, batches: &[B]) -> Result<Received, StoreError>
    where
        B: Borrow<VerifiedBatch> + Sync,
    {
        let Some(VerifiedBatch { log, .. }) = batches.first().map(Borrow::borrow) else {
            return Ok(Received { head: Head::EMPTY, applied: 0 });
        };
        let mut tx = match fence {
            Some(fence) => self.begin_fenced(fence).await?,
            None => self.pool.begin().await?,
        };
        let before = lock_head(&mut tx, log).await?;
        let mut head = before;
        let mut new = Vec::new();
        for batch in batches {
            let batch: &VerifiedBatch = batch.borrow();
            let known = new.len();
            new.extend(following(&head, batch)?);
            if new.len() == known {
                continue;
            }
            let checkpoint = &batch.checkpoint;
            insert_checkpoint(&mut tx, log, checkpoint.head.seq, &checkpoint.key_id, &checkpoint.signature).await?;
            head = checkpoint.head;
        }
        if head == before {
            return Ok(Received { head, applied: 0 });
        }
        insert_entries(&mut tx, log, new.iter().map(|(entry, _, head)| (entry, head))).await?;
        save_head(&mut tx, log, &head).await?;
        let is_applied = fence.is_some() && apply_at_once(&mut tx, log, before.seq, &new).await?;
        tx.commit().await?;
        Ok(Received { head, applied: if is_applied { new.len() } else { 0 } })
    }
}

/// What of a batch comes after the head of our log.
fn following<'a>(
    head: &Head,
    batch: &'a VerifiedBatch,
) -> Result<impl Iterator<Item = &'a (Entry, Envelope, Head)>, StoreError> {
    if batch.entries.iter().any(|(_, _, same)| same.seq == head.seq && same.hash != head.hash) {
        return Err(StoreError::Conflict);
    }
    let after = head.seq;
    let mut new = batch.entries.iter().filter(move |(_, envelope, _)| envelope.seq > after).peekable();
    if new.peek().is_some_and(|(_, first, _)| first.seq != head.seq + 1 || first.prev_hash != head.hash) {
        return Err(StoreError::Discontinuous);
    }
    Ok(new)
}
