//! What the clocks of a tenant's city show: from the database of time zones that is compiled in, so that every region reads
//! the same time wherever it runs.

use jiff::{Timestamp, tz::TimeZone};
use time::{OffsetDateTime, UtcOffset};

/// Whether there is such an IANA time zone.
pub fn is_time_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

/// `at` as the clocks of a time zone show it; UTC where there is no such zone.
pub fn local(at: OffsetDateTime, zone: &str) -> OffsetDateTime {
    at.to_offset(offset(at, zone).unwrap_or(UtcOffset::UTC))
}

fn offset(at: OffsetDateTime, zone: &str) -> Option<UtcOffset> {
    let timestamp = Timestamp::from_second(at.unix_timestamp()).ok()?;
    UtcOffset::from_whole_seconds(TimeZone::get(zone).ok()?.to_offset(timestamp).seconds()).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn clocks_show_the_city_s_time_in_summer_and_winter() {
        let hours = |at, zone| local(at, zone).time().as_hms();
        assert_eq!(hours(datetime!(2026-01-15 23:30 UTC), "America/New_York"), (18, 30, 0));
        assert_eq!(hours(datetime!(2026-07-15 23:30 UTC), "America/New_York"), (19, 30, 0));
        assert_eq!(hours(datetime!(2026-07-15 23:30 UTC), "Asia/Kolkata"), (5, 0, 0));
        assert!(is_time_zone("Europe/Lisbon") && !is_time_zone("Europe/Atlantis") && !is_time_zone(""));
    }
}
