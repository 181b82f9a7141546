//! Where cars are, on its way to those who watch them: every position, in its order, the rides in turn. Once so many wait that a
//! delivery has fallen behind, a car's newest position takes the place of its own oldest, and nobody's car pushes out another's.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use shared::ids::RideId;
use tokio::sync::Notify;

use super::rooms::Room;
use crate::drivers::Position;

/// Positions of one lane.
pub(super) struct Moves {
    /// So many may wait; each ride's newest waits whatever others do.
    most: usize,
    waiting: Mutex<Waiting>,
    told: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Whose turn it is, the longest waiting first.
    rides: VecDeque<RideId>,
    positions: HashMap<RideId, (Room, VecDeque<Position>)>,
    count: usize,
}

impl Moves {
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default(), told: Notify::new() }
    }

    /// Has `room` see where the car of its ride is.
    pub(super) fn tell(&self, room: Room, ride_id: RideId, position: Position) {
        let mut waiting = self.waiting();
        let Waiting { rides, positions, count } = &mut *waiting;
        let (_, of_ride) = positions.entry(ride_id).or_insert_with(|| {
            rides.push_back(ride_id);
            (room, VecDeque::with_capacity(1))
        });
        of_ride.push_back(position);
        if *count >= self.most && of_ride.len() > 1 {
            of_ride.pop_front();
            metrics::counter!("region_node_events_dropped_total", "what" => "position").increment(1);
        } else {
            *count += 1;
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
        let Waiting { rides, positions, count } = &mut *waiting;
        let ride_id = rides.pop_front()?;
        let (room, of_ride) = positions.get_mut(&ride_id)?;
        let (room, position) = (room.clone(), of_ride.pop_front()?);
        *count -= 1;
        if of_ride.is_empty() {
            positions.remove(&ride_id);
        } else {
            rides.push_back(ride_id);
        }
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
    fn each_position_of_each_car_is_shown_in_its_order_while_there_is_room() {
        let (moves, watcher, rides) = (Moves::new(6), room(), [RideId::new(), RideId::new()]);
        for second in 0..3 {
            rides.iter().for_each(|ride_id| moves.tell(watcher.clone(), *ride_id, at(second)));
        }
        for second in 0..3 {
            for ride_id in rides {
                assert_eq!(moves.take(), Some((watcher.clone(), ride_id, at(second))));
            }
        }
        assert_eq!(moves.take(), None);
    }

    #[test]
    fn a_car_that_moves_much_pushes_out_nobody_and_is_shown_where_it_is_last() {
        let moves = Moves::new(100);
        let (watcher, busy) = (room(), RideId::new());
        let others: Vec<_> = (0..10_000).map(|_| (room(), RideId::new())).collect();
        moves.tell(watcher.clone(), busy, at(0));
        for (second, (room, ride_id)) in (1..).zip(&others) {
            moves.tell(watcher.clone(), busy, at(second));
            moves.tell(room.clone(), *ride_id, at(0));
        }
        let (mut of_busy, mut of_others) = (Vec::new(), 0);
        while let Some((_, ride_id, position)) = moves.take() {
            if ride_id == busy { of_busy.push(position) } else { of_others += 1 }
        }
        assert_eq!((of_busy.last(), of_others), (Some(&at(10_000)), others.len()));
        assert!(of_busy.len() <= 100, "{}", of_busy.len());
    }
}
