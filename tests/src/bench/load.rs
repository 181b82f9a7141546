//! Cars that drive and report, at a given pace, from one task.

use std::{fmt::Write, time::Duration};

use shared::{clock::Clock, geo::Point};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Line, frame};

const TICK: Duration = Duration::from_millis(1);
/// New York, and a town wide enough for a hundred thousand cars.
const CENTER: Point = Point { lat: 40.73, lng: -73.98 };
const HALF_SIDE_DEG: f64 = 0.2;
const METRES_PER_DEG: f64 = 111_195.0;
/// City traffic.
const SPEED_MPS: f64 = 8.0;

/// Where each car is. Every report is a bit further on.
pub struct Cars {
    at: Vec<(Point, f64)>,
    step_deg: f64,
    text: String,
}

/// How sending went.
#[derive(Clone, Copy, Debug)]
pub struct Paced {
    pub messages: u64,
    pub seconds: f64,
}

impl Cars {
    /// So many cars all over the town, reporting every `every`.
    pub fn new(count: usize, every: Duration) -> Self {
        Self::parked((0..count).map(|index| place_in_town(index, 1.0))).driving(every)
    }

    /// Cars that stand.
    pub fn parked(places: impl IntoIterator<Item = Point>) -> Self {
        Self { at: places.into_iter().map(|place| (place, 0.0)).collect(), step_deg: 0.0, text: String::new() }
    }

    /// The same cars, driving between reports so far apart, each another way.
    pub fn driving(mut self, every: Duration) -> Self {
        self.step_deg = SPEED_MPS * every.as_secs_f64() / METRES_PER_DEG;
        for (index, (_, heading)) in self.at.iter_mut().enumerate() {
            *heading = (index as f64 * 0.7).rem_euclid(360.0);
        }
        self
    }

    /// Where a car is.
    pub fn place(&self, car: usize) -> Point {
        self.at[car].0
    }

    /// The body of a report of `positions` positions, the last of them now.
    pub fn report(&mut self, car: usize, positions: usize, now: OffsetDateTime) -> &str {
        self.text.clear();
        self.write(car, positions, now);
        &self.text
    }

    /// The same as a Socket.IO message in a frame.
    pub fn report_frame(&mut self, car: usize, positions: usize, now: OffsetDateTime, out: &mut Vec<u8>) {
        self.text.clear();
        self.text.push_str(r#"42["location:update","#);
        self.write(car, positions, now);
        self.text.push(']');
        frame(&self.text, out);
    }

    fn write(&mut self, car: usize, positions: usize, now: OffsetDateTime) {
        let is_array = positions > 1;
        self.text.push_str(if is_array { "[" } else { "" });
        for index in 0..positions {
            let (point, heading) = &mut self.at[car];
            let radians = heading.to_radians();
            point.lat += self.step_deg * radians.cos();
            point.lng += self.step_deg * radians.sin();
            if (point.lat - CENTER.lat).abs() > HALF_SIDE_DEG || (point.lng - CENTER.lng).abs() > HALF_SIDE_DEG {
                *heading = (*heading + 180.0).rem_euclid(360.0);
            }
            let ago = Duration::from_millis(100) * u32::try_from(positions - index - 1).unwrap_or_default();
            let recorded_at = (now - ago).format(&Rfc3339).unwrap_or_default();
            let comma = if index > 0 { "," } else { "" };
            // Writing into a string cannot fail.
            let _ = write!(
                self.text,
                r#"{comma}{{"lat":{:.6},"lng":{:.6},"heading":{heading:.0},"speed":8.1,"accuracy":5.0,"recorded_at":"{recorded_at}"}}"#,
                point.lat, point.lng
            );
        }
        self.text.push_str(if is_array { "]" } else { "" });
    }
}

/// One of endlessly many places spread evenly over the middle of the town, the same in every run; the side of that square is
/// `part` of the whole town's.
pub fn place_in_town(index: usize, part: f64) -> Point {
    // Irrational steps never meet: the golden ratio's, and that of its like in two dimensions.
    let spread = |ratio: f64| ((index as f64 * ratio).fract() - 0.5) * 2.0 * HALF_SIDE_DEG * part;
    Point::new(CENTER.lat + spread(0.618_033_988_749_894_9), CENTER.lng + spread(0.754_877_666_246_692_7))
}

/// Whether a place lies in the middle of the town, a square whose side is `part` of the whole town's.
pub fn is_in_the_middle(place: Point, part: f64) -> bool {
    let reach = HALF_SIDE_DEG * part;
    (place.lat - CENTER.lat).abs() <= reach && (place.lng - CENTER.lng).abs() <= reach
}

/// Sends `per_second` messages a second, line after line, for `duration`: one packet, one wake-up, one read each, which is
/// what a fleet looks like. Falls behind rather than bunch up when the other side cannot follow.
pub async fn send_paced(
    lines: &[Line],
    per_second: f64,
    duration: Duration,
    mut message: impl FnMut(usize, OffsetDateTime, &mut Vec<u8>),
) -> anyhow::Result<Paced> {
    let clock = Clock::system();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begun, mut messages, mut bytes) = (Instant::now(), 0_u64, Vec::with_capacity(512));
    loop {
        ticks.tick().await;
        let elapsed = begun.elapsed();
        if elapsed >= duration {
            return Ok(Paced { messages, seconds: elapsed.as_secs_f64() });
        }
        let due = (elapsed.as_secs_f64() * per_second) as u64;
        // Late by more than this, the pace is not held, and a burst would only hide it.
        let most = (per_second * 0.02) as u64 + lines.len() as u64 / 10 + 1;
        let now = clock.now();
        for _ in 0..due.saturating_sub(messages).min(most) {
            let line = (messages % lines.len() as u64) as usize;
            bytes.clear();
            message(line, now, &mut bytes);
            lines[line].send(&bytes).await?;
            messages += 1;
        }
    }
}
