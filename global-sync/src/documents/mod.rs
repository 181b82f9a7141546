//! What applying a fact means for the region directory, the homes of tenants and their config.
//!
//! Everything here may run twice and in any order between origins, and ends the same.

mod config;
mod control;
mod draft;
mod rollout;
mod snapshot;

use crate::store::Aside;

/// Why a fact is not applied, and how it is set aside.
type Objection = (Aside, String);

pub(crate) use config::{apply_config, keep_version};
pub(crate) use control::{apply_control, keep_state, keep_takeover};
pub(crate) use draft::damaged_drafts;
pub(crate) use rollout::{keep_rollout, take_rollouts};
pub(crate) use snapshot::{merge_waiting, take_documents, take_versions};
