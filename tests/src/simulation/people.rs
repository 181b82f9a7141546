//! What chance makes of people: always the same of the same person and ride, whatever the dispatcher does meanwhile, so that
//! two policies face the same evening.

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Most drivers say no to this share of offers.
const DECLINES: f64 = 0.03;
/// This share of drivers pick and choose, and say no to that share.
const CHOOSY: f64 = 0.1;
const CHOOSY_DECLINES: f64 = 0.5;
/// Offers of the weeks before.
const ANSWERED_BEFORE: f64 = 60.0;
/// Either lets offers run out.
const IGNORES: f64 = 0.02;
/// After a ride this share of drivers take a break.
const TAKES_A_BREAK: f64 = 0.03;
/// This share of drivers say to be where they are not, now and then: a queue further on, a street with more demand.
const CHEATS: f64 = 0.03;

/// Everybody, as drawn from one seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct People {
    pub(super) seed: u64,
}

/// What a driver does with an offer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    Accepts { after_s: f64 },
    Declines { after_s: f64 },
    Ignores,
}

#[derive(Clone, Copy)]
enum Question {
    Answer,
    Temper,
    Patience,
    ChangesMind,
    Boarding,
    Traffic,
    Break,
    Cheat,
    Home,
}

impl People {
    fn rng(self, question: Question, who: usize, about: usize) -> StdRng {
        let mixed =
            (question as u64) << 56 ^ (who as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (about as u64).rotate_left(32);
        StdRng::seed_from_u64(self.seed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ mixed)
    }

    /// What a driver says to a ride.
    pub(super) fn answer(self, driver: usize, ride: usize) -> Answer {
        let mut rng = self.rng(Question::Answer, driver, ride);
        let (mood, after_s) = (rng.random_range(0.0..1.0), rng.random_range(1.0..7.0));
        if mood < IGNORES {
            Answer::Ignores
        } else if mood < IGNORES + self.declines(driver) {
            Answer::Declines { after_s }
        } else {
            Answer::Accepts { after_s }
        }
    }

    /// What is known of a driver's answers when the evening begins: offers accepted and refused, as they count by then.
    pub(super) fn answered_before(self, driver: usize) -> (f64, f64) {
        let refused = ANSWERED_BEFORE * (IGNORES + self.declines(driver));
        (ANSWERED_BEFORE - refused, refused)
    }

    fn declines(self, driver: usize) -> f64 {
        let is_choosy = self.rng(Question::Temper, driver, 0).random_range(0.0..1.0) < CHOOSY;
        if is_choosy { CHOOSY_DECLINES } else { DECLINES }
    }

    /// How long a rider waits for somebody to accept before giving up, seconds.
    pub(super) fn patience_s(self, ride: usize) -> f64 {
        self.rng(Question::Patience, ride, 0).random_range(240.0..900.0)
    }

    /// When a rider calls off a ride already on its way, seconds after it was accepted; most never do.
    pub(super) fn calls_off_after_s(self, ride: usize) -> Option<f64> {
        let mut rng = self.rng(Question::ChangesMind, ride, 0);
        let (mood, after_s) = (rng.random_range(0.0..1.0), rng.random_range(5.0..240.0));
        (mood < 0.03).then_some(after_s)
    }

    /// From the car's arrival until everybody sits in it, seconds.
    pub(super) fn boarding_s(self, ride: usize) -> f64 {
        self.rng(Question::Boarding, ride, 0).random_range(15.0..75.0)
    }

    /// How much longer or shorter than expected a drive takes.
    pub(super) fn luck(self, driver: usize, ride: usize) -> f64 {
        self.rng(Question::Traffic, driver, ride).random_range(0.8..1.25)
    }

    /// How long a driver stays away after a ride, seconds; most don't.
    pub(super) fn break_s(self, driver: usize, ride: usize) -> Option<f64> {
        let mut rng = self.rng(Question::Break, driver, ride);
        let (mood, length_s) = (rng.random_range(0.0..1.0), rng.random_range(120.0..900.0));
        (mood < TAKES_A_BREAK).then_some(length_s)
    }

    /// By how many degrees north and east a driver lies about the place after a ride; nearly all don't.
    pub(super) fn lie(self, driver: usize, ride: usize) -> Option<(f64, f64)> {
        let mut rng = self.rng(Question::Cheat, driver, ride);
        let (mood, lie) =
            (rng.random_range(0.0..1.0), (rng.random_range(-0.006..0.006), rng.random_range(-0.006..0.006)));
        (mood < CHEATS).then_some(lie)
    }

    /// Which of the places a driver begins the evening at.
    pub(super) fn home(self, driver: usize, places: usize) -> usize {
        self.rng(Question::Home, driver, 0).random_range(0..places)
    }
}
