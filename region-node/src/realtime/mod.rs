//! What riders and drivers hear at once: events told after commit.

mod event;

pub use event::{Event, EventReceiver, EventSender, channel};
