//! What a driver may take, and what he wants to.

use std::{collections::BTreeMap, sync::Arc};

use time::OffsetDateTime;

/// Set by the tenant and by the driver; rarely changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Until when each kind of document is good; `None` for a driver without any.
    pub documents: Option<Arc<BTreeMap<String, OffsetDateTime>>>,
    /// The driver's own limit to how far off a pick-up may be, as the crow flies.
    pub max_pickup_m: Option<u32>,
}

/// What is wrong with a driver's documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentFault {
    /// There is none of a required kind.
    #[error("the driver has no document '{0}', which is required")]
    Missing(String),
    /// It is no longer good.
    #[error("the driver's document '{0}' has expired")]
    Expired(String),
}

impl Terms {
    /// Terms with these documents.
    pub fn new(documents: BTreeMap<String, OffsetDateTime>, max_pickup_m: Option<u32>) -> Self {
        Self { documents: (!documents.is_empty()).then(|| documents.into()), max_pickup_m }
    }

    /// What is wrong at `now` if documents of these kinds are required; one thing at a time.
    pub fn document_fault<'a>(
        &self,
        required: impl IntoIterator<Item = &'a String>,
        now: OffsetDateTime,
    ) -> Option<DocumentFault> {
        required.into_iter().find_map(|kind| {
            let good_until = self.documents.as_ref().and_then(|documents| documents.get(kind));
            match good_until {
                None => Some(DocumentFault::Missing(kind.clone())),
                Some(until) if *until <= now => Some(DocumentFault::Expired(kind.clone())),
                Some(_) => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);

    #[test]
    fn a_document_is_good_until_the_moment_it_expires_and_only_what_is_required_matters() {
        let terms = Terms::new(
            [("licence".to_owned(), NOW + Duration::SECOND), ("permit".to_owned(), NOW - Duration::DAY)].into(),
            None,
        );
        let licence = ["licence".to_owned()];
        assert_eq!(terms.document_fault(&licence, NOW), None);
        let expired = Some(DocumentFault::Expired("licence".into()));
        assert_eq!(terms.document_fault(&licence, NOW + Duration::SECOND), expired);
        let insurance = ["insurance".to_owned()];
        assert_eq!(terms.document_fault(&insurance, NOW), Some(DocumentFault::Missing("insurance".into())));
        assert_eq!(Terms::default().document_fault(&[], NOW), None);
    }
}
