//! Making a verified batch durable: rows and cursor in one transaction, or neither.

use std::borrow::Borrow;

use super::{
    Store, StoreError,
    number::{insert_checkpoint, insert_entries, lock_head, save_head},
};
use crate::protocol::{Entry, Head, VerifiedBatch};

impl Store {
    /// Stores what is new of a batch and returns the log's head. Storing a batch twice changes nothing.
    pub async fn receive(&self, batch: &VerifiedBatch) -> Result<Head, StoreError> {
        self.receive_all(&[batch]).await
    }

    /// Stores several batches of one log, one after the other, with one transaction: a commit costs as much as hundreds of
    /// entries.
    pub async fn receive_all<B>(&self, batches: &[B]) -> Result<Head, StoreError>
    where
        B: Borrow<VerifiedBatch> + Sync,
    {
        let Some(VerifiedBatch { log, .. }) = batches.first().map(Borrow::borrow) else { return Ok(Head::EMPTY) };
        let mut tx = self.pool.begin().await?;
        let before = lock_head(&mut tx, log).await?;
        let mut head = before;
        let mut entries = Vec::new();
        for batch in batches {
            let batch: &VerifiedBatch = batch.borrow();
            let new = following(&head, batch)?;
            if new.is_empty() {
                continue;
            }
            entries.extend(new);
            let checkpoint = &batch.checkpoint;
            insert_checkpoint(&mut tx, log, checkpoint.head.seq, &checkpoint.key_id, &checkpoint.signature).await?;
            head = checkpoint.head;
        }
        if head == before {
            return Ok(head);
        }
        insert_entries(&mut tx, log, &entries).await?;
        save_head(&mut tx, log, &head).await?;
        tx.commit().await?;
        Ok(head)
    }
}

/// What of a batch comes after the head of our log.
fn following(head: &Head, batch: &VerifiedBatch) -> Result<Vec<(Entry, Head)>, StoreError> {
    if batch.entries.iter().any(|(_, _, same)| same.seq == head.seq && same.hash != head.hash) {
        return Err(StoreError::Conflict);
    }
    let mut new = batch.entries.iter().filter(|(_, envelope, _)| envelope.seq > head.seq).peekable();
    if new.peek().is_some_and(|(_, first, _)| first.seq != head.seq + 1 || first.prev_hash != head.hash) {
        return Err(StoreError::Discontinuous);
    }
    Ok(new.map(|(entry, _, head)| (entry.clone(), *head)).collect())
}
