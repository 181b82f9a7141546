//! Making a verified batch durable: rows and cursor in one transaction, or neither.

use super::{
    Store, StoreError,
    number::{insert_checkpoint, insert_entries, lock_head, save_head},
};
use crate::protocol::{Head, VerifiedBatch};

impl Store {
    /// Stores what is new of a batch and returns the log's head. Storing a batch twice changes nothing.
    pub async fn receive(&self, batch: &VerifiedBatch) -> Result<Head, StoreError> {
        let mut tx = self.pool.begin().await?;
        let head = lock_head(&mut tx, &batch.log).await?;
        if let Some((_, _, same)) = batch.entries.iter().find(|(_, _, entry)| entry.seq == head.seq)
            && same.hash != head.hash
        {
            return Err(StoreError::Conflict);
        }
        let new: Vec<_> = batch.entries.iter().filter(|(_, envelope, _)| envelope.seq > head.seq).collect();
        let Some((_, first, _)) = new.first() else { return Ok(head) };
        if first.seq != head.seq + 1 || first.prev_hash != head.hash {
            return Err(StoreError::Discontinuous);
        }
        let entries: Vec<_> = new.iter().map(|(entry, _, head)| (entry.clone(), *head)).collect();
        let checkpoint = &batch.checkpoint;
        insert_entries(&mut tx, &batch.log, &entries).await?;
        insert_checkpoint(&mut tx, &batch.log, checkpoint.head.seq, &checkpoint.key_id, &checkpoint.signature).await?;
        save_head(&mut tx, &batch.log, &checkpoint.head).await?;
        tx.commit().await?;
        Ok(checkpoint.head)
    }
}
