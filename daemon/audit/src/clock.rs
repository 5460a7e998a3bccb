//! The time of the log. Events say when they were written, and a clock that was set, or one event with a wrong stamp,
//! says something else: time that jumps is believed only when several events in a row agree.

use serde::{Deserialize, Serialize};

/// How far the stamps of a log lie apart without a word: batches are out of order by a few seconds.
pub(crate) const LOOSE: i64 = 60_000_000;
/// Events in a row, each on the far side of a jump, that make it the time. One request has up to three.
const BELIEVED: u32 = 8;

/// What time it is by the log.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Clock {
    now: Option<i64>,
    jump: Option<Jump>,
    /// An event since was not where the jump went. The second says that there was none.
    doubted: bool,
}

/// Time that is elsewhere all at once.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
struct Jump {
    from: i64,
    last: i64,
    events: u32,
    longest: i64,
}

/// What the clock makes of the time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The time of the log, which the event's own may be far from.
    pub(crate) now: i64,
    /// How long nothing was written before it.
    pub(crate) silence: i64,
    /// A silence that is beyond doubt, and when it began to end.
    pub(crate) proved: Option<(i64, i64)>,
    /// The log goes on at an earlier time than some event said, or than it was: since this one.
    pub(crate) back: Option<i64>,
    /// Nothing speaks for another time.
    pub(crate) steady: bool,
}

impl Clock {
    /// The latest time that is believed.
    pub(crate) const fn now(&self) -> Option<i64> {
        self.now
    }

    /// The moment of an event that says no time.
    pub(crate) fn untold(&self) -> Moment {
        let steady = self.jump.is_none();
        Moment { now: self.now.unwrap_or(0), silence: 0, proved: None, back: None, steady }
    }

    /// Sees the time of the next event.
    pub(crate) fn see(&mut self, time: i64) -> Moment {
        let now = *self.now.get_or_insert(time);
        let silence = (time - now).max(0);
        if (time - now).abs() <= LOOSE {
            let now = now.max(time);
            self.now = Some(now);
            let back = self.jump.is_some() && self.doubted;
            self.doubted = self.jump.is_some() && !back;
            if back {
                self.jump = None;
            }
            return Moment {
                now,
                silence,
                proved: Some((silence, time)),
                back: back.then_some(now),
                steady: self.jump.is_none(),
            };
        }
        self.doubted = false;
        let ahead = time > now;
        let agrees = |jump: &Jump| match ahead {
            true => jump.from > now && time >= jump.from - LOOSE,
            false => jump.from < now && time >= jump.last - LOOSE,
        };
        let jump = match self.jump.filter(agrees) {
            Some(jump) => {
                let silence = if ahead { (time - jump.last).max(0) } else { 0 };
                Jump { events: jump.events + 1, longest: jump.longest.max(silence), ..jump }
            }
            None => Jump { from: time, last: time, events: 1, longest: silence },
        };
        let silence = if jump.events > 1 && ahead { (time - jump.last).max(0) } else { silence };
        if jump.events < BELIEVED {
            self.jump = Some(Jump { last: time, ..jump });
            return Moment { now, silence, proved: None, back: None, steady: false };
        }
        // One of the two may be another stray.
        let now = time.min(jump.last);
        self.now = Some(now);
        let is_far = time > now.saturating_add(LOOSE);
        self.jump = is_far.then_some(Jump { from: time, last: time, events: 1, longest: 0 });
        let proved = ahead.then_some((jump.longest, jump.from));
        Moment { now, silence, proved, back: (!ahead).then_some(jump.from), steady: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    fn after(times: impl IntoIterator<Item = i64>) -> (Clock, Vec<Moment>) {
        let mut clock = Clock::default();
        let moments = times.into_iter().map(|time| clock.see(time)).collect();
        (clock, moments)
    }

    #[test]
    fn a_stray_stamp_moves_nothing() {
        for stray in [DAY, -DAY] {
            let (clock, moments) = after([0, 1, stray, 2, 3]);
            assert_eq!(clock.now(), Some(3), "{stray}");
            assert_eq!(moments[2].now, 1);
            assert_eq!(
                moments.iter().map(|moment| moment.back.is_some()).collect::<Vec<_>>(),
                [false, false, false, false, true]
            );
        }
    }

    #[test]
    fn time_that_goes_on_elsewhere_is_believed_after_a_few_events() {
        for jump in [DAY, -DAY] {
            let (clock, moments) = after([0, 1].into_iter().chain((0..8).map(|n| jump + n)));
            assert_eq!(clock.now(), Some(jump + 6), "{jump}");
            let last = moments[9];
            assert_eq!((last.back, last.proved), ((jump < 0).then_some(jump), (jump > 0).then_some((jump - 1, jump))));
        }
    }

    #[test]
    fn a_log_with_long_silences_is_followed() {
        let (clock, moments) = after((0..20).map(|n| n * 10 * MINUTE));
        assert!(clock.now() >= Some(140 * MINUTE));
        assert!(moments.iter().skip(1).all(|moment| moment.silence == 10 * MINUTE && moment.back.is_none()));
        assert!(moments.iter().filter_map(|moment| moment.proved).skip(1).all(|(longest, _)| longest == 10 * MINUTE));
    }

    #[test]
    fn a_stray_stamp_within_a_silence_does_not_hide_it() {
        let (_, moments) = after([0, 1, DAY, 20 * MINUTE, 20 * MINUTE + 1]);
        assert_eq!(moments[3].silence, 20 * MINUTE - 1);
        assert_eq!(moments[4].silence, 1);
    }
}
