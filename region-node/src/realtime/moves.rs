//! Where cars are, on its way to those who watch them: of each ride the newest position alone waits. So a delivery that falls
//! behind drops only what is overtaken, and nobody's car pushes out another's.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use shared::ids::RideId;
use tokio::sync::Notify;

use super::rooms::Room;
use crate::drivers::Position;

/// Positions of one lane.
#[derive(Default)]
pub(super) struct Moves {
    waiting: Mutex<Waiting>,
    told: Notify,
}

/// No more than there are rides under way.
#[derive(Default)]
struct Waiting {
    /// Whose turn it is, the longest waiting first.
    rides: VecDeque<RideId>,
    newest: HashMap<RideId, (Room, Position)>,
}

impl Moves {
    /// Has `room` see where the car of its ride is, unless something newer is to be seen already.
    pub(super) fn tell(&self, room: Room, ride_id: RideId, position: Position) {
        let mut waiting = self.waiting();
        let Waiting { rides, newest } = &mut *waiting;
        match newest.entry(ride_id) {
            Entry::Vacant(entry) => {
                entry.insert((room, position));
                rides.push_back(ride_id);
            }
            Entry::Occupied(mut entry) => {
                let (_, known) = entry.get_mut();
                if known.recorded_at <= position.recorded_at {
                    *known = position;
                }
                metrics::counter!("region_node_events_dropped_total", "what" => "position").increment(1);
            }
        }
        drop(waiting);
        self.told.notify_one();
    }

    /// Waits for the next; one task alone does.
    pub(super) async fn next(&self) -> (Room, RideId, Position) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.told.notified().await;
        }
    }

    fn take(&self) -> Option<(Room, RideId, Position)> {
        let mut waiting = self.waiting();
        let ride_id = waiting.rides.pop_front()?;
        let (room, position) = waiting.newest.remove(&ride_id)?;
        Some((room, ride_id, position))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shared::{geo::Point, ids::RiderId};
    use time::{Duration, OffsetDateTime, macros::datetime};

    use super::*;

    const START: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn at(second: i64) -> Position {
        Position { point: Point::new(1.0, 2.0), heading: None, recorded_at: START + Duration::seconds(second) }
    }

    fn room() -> Room {
        Room::Rider("cabs".parse().unwrap(), RiderId::new())
    }

    #[test]
    fn a_car_that_moves_much_pushes_out_nobody_and_is_shown_where_it_is_last() {
        let moves = Moves::default();
        let (watcher, busy) = (room(), RideId::new());
        let others: Vec<_> = (0..10_000).map(|_| (room(), RideId::new())).collect();
        moves.tell(watcher.clone(), busy, at(0));
        for (second, (room, ride_id)) in (1..).zip(&others) {
            moves.tell(watcher.clone(), busy, at(second));
            moves.tell(room.clone(), *ride_id, at(0));
        }
        // One that was overtaken on its way here.
        moves.tell(watcher.clone(), busy, at(5));
        assert_eq!(moves.take(), Some((watcher, busy, at(10_000))));
        for (room, ride_id) in others {
            assert_eq!(moves.take(), Some((room, ride_id, at(0))));
        }
        assert_eq!(moves.take(), None);
    }

    #[test]
    fn of_two_cars_that_one_rider_watches_each_is_shown() {
        let moves = Moves::default();
        let (watcher, rides) = (room(), [RideId::new(), RideId::new()]);
        for second in 0..3 {
            rides.iter().for_each(|ride_id| moves.tell(watcher.clone(), *ride_id, at(second)));
        }
        for ride_id in rides {
            assert_eq!(moves.take(), Some((watcher.clone(), ride_id, at(2))));
        }
        assert_eq!(moves.take(), None);
    }
}
