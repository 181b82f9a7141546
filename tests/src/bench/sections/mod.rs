//! One file per section.

pub mod policies;
pub mod positions;
pub mod rides;
