//! One file per section.

pub mod positions;
pub mod rides;
