//! Ends of lines in a file being read, to go back to once its tail was cut off: what was kept is not read again.

use flate2::Crc;
use serde::{Deserialize, Serialize};

use crate::cursor::PRINT_BYTES;

/// Most ends of lines that are remembered.
const MOST_MARKS: usize = 40;
/// So many of the last ends of lines are remembered one by one.
pub(crate) const MOST_FRESH: usize = 16;
/// Ends of lines this near are as good as one another.
const NEAR: u64 = 4 << 10;

/// An end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Where the next line begins.
    pub(crate) offset: u64,
    /// Lines before; none when not known.
    pub(crate) lines: Option<u64>,
    /// CRC-32 of the bytes before, [`Mark::len`] of them.
    pub(crate) crc: u32,
}

impl Mark {
    /// After these bytes; none where too few of them are known.
    pub(crate) fn new(offset: u64, lines: Option<u64>, before: &[u8]) -> Option<Self> {
        let from = before.len().checked_sub(Self::covers(offset))?;
        Some(Self { offset, lines, crc: crc(before.get(from..)?) })
    }

    /// How many bytes before it are known.
    pub(crate) fn len(self) -> usize {
        Self::covers(self.offset)
    }

    fn covers(offset: u64) -> usize {
        usize::try_from(offset).unwrap_or(usize::MAX).min(PRINT_BYTES)
    }

    /// These are still the bytes before it.
    pub(crate) fn holds(self, before: &[u8]) -> bool {
        before.len() == self.len() && crc(before) == self.crc
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Ends of lines, the last one last. The farther back they are, the farther apart, so that a cut of any length finds one
/// about as near as the cut is long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks(Vec<Mark>);

impl Marks {
    pub(crate) fn push(&mut self, mark: Mark) {
        if self.0.last().is_some_and(|last| last.offset >= mark.offset) {
            return;
        }
        self.0.push(mark);
        if self.0.len() > MOST_MARKS {
            // The one without which the least is read again, for the length of the cut. The start of the file is one too.
            let before = std::iter::once(0).chain(self.0.iter().map(|mark| mark.offset));
            let apart = before.zip(self.0.iter().skip(1)).map(|(before, next)| {
                let back = mark.offset - next.offset + NEAR;
                (u128::from(next.offset - before) << 32) / u128::from(back)
            });
            if let Some((least, _)) = apart.take(MOST_MARKS - MOST_FRESH).enumerate().min_by_key(|(_, apart)| *apart) {
                self.0.remove(least);
            }
        }
    }

    /// The last one first.
    pub(crate) fn backwards(&self) -> impl Iterator<Item = Mark> {
        self.0.iter().rev().copied()
    }

    /// Those up to this place.
    pub(crate) fn up_to(mut self, offset: u64) -> Self {
        self.0.retain(|mark| mark.offset <= offset);
        self
    }

    /// As a cursor at this place has them.
    pub(crate) fn kept(&self, place: u64, lines: Option<u64>) -> Vec<KeptMark> {
        let back = |mark: &Mark| lines.zip(mark.lines).map_or(0, |(all, these)| all.saturating_sub(these));
        self.0.iter().map(|mark| KeptMark(place.saturating_sub(mark.offset), back(mark), mark.crc)).collect()
    }

    /// Of a cursor at this place.
    pub(crate) fn of(kept: &[KeptMark], place: u64, lines: Option<u64>) -> Self {
        let mut marks = Self::default();
        for KeptMark(bytes, back, crc) in kept.iter().take(MOST_MARKS) {
            if let Some(offset) = place.checked_sub(*bytes) {
                marks.push(Mark { offset, lines: lines.and_then(|all| all.checked_sub(*back)), crc: *crc });
            }
        }
        marks
    }
}

/// An end of a line in a cursor: how far back from its place in bytes and in lines, and what the bytes before it are
/// recognised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMark(u64, u64, u32);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cut_of_any_length_finds_a_mark_about_as_near_as_it_is_long(
            lengths in proptest::collection::vec(400u64..3000, 1..1500), cut in any::<prop::sample::Index>(),
        ) {
            let mut marks = Marks::default();
            let mut ends = vec![0];
            for (number, length) in lengths.iter().enumerate() {
                let offset = ends.last().unwrap() + length;
                ends.push(offset);
                marks.push(Mark { offset, lines: Some(number as u64 + 1), crc: 0 });
            }
            prop_assert!(marks.0.len() <= MOST_MARKS);
            let place = *ends.last().unwrap();
            let kept = ends[cut.index(ends.len())];
            let found = marks.backwards().find(|mark| mark.offset <= kept).map_or(0, |mark| mark.offset);
            prop_assert!(kept - found <= (place - kept) + NEAR, "{found} for {kept} of {place}");
            prop_assert_eq!(Marks::of(&marks.kept(place, Some(9000)), place, Some(9000)).0.len(), marks.0.len());
        }
    }

    #[test]
    fn the_last_lines_are_all_remembered() {
        let mut marks = Marks::default();
        for line in 1..1000 {
            marks.push(Mark { offset: line * 50, lines: Some(line), crc: 0 });
        }
        let last: Vec<_> = marks.backwards().map(|mark| mark.offset / 50).take(MOST_FRESH).collect();
        assert_eq!(last, (0..MOST_FRESH as u64).map(|back| 999 - back).collect::<Vec<_>>());
    }
}
