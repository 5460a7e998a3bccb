//! What was given up, summed by reason, until it is told.

use picket_model::{Gap, GapReason, Seq};

/// At most one gap for each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    gaps: Vec<Gap>,
    /// How many of them no gap told of before.
    fresh: u64,
}

impl Tally {
    pub(crate) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Counts one numbered event.
    pub(crate) fn event(&mut self, reason: GapReason, seq: Seq) {
        self.range(reason, seq, seq);
    }

    /// Counts all numbers of a range.
    pub(crate) fn range(&mut self, reason: GapReason, first: Seq, last: Seq) {
        let count = (last.0 + 1).saturating_sub(first.0);
        self.fresh = self.fresh.saturating_add(count);
        self.gap(Gap { reason, count, first: Some(first), last: Some(last), detail: String::new() });
    }

    /// Counts events that had no number yet.
    pub(crate) fn unnumbered(&mut self, reason: GapReason, count: u64) {
        if count > 0 {
            self.fresh = self.fresh.saturating_add(count);
            self.gap(Gap { reason, count, first: None, last: None, detail: String::new() });
        }
    }

    /// Adds a gap to those of the same reason.
    pub(crate) fn gap(&mut self, gap: Gap) {
        match self.gaps.iter_mut().find(|g| g.reason == gap.reason) {
            Some(sum) => {
                sum.count = sum.count.saturating_add(gap.count);
                sum.first = [sum.first, gap.first].into_iter().flatten().min();
                sum.last = sum.last.max(gap.last);
                if !gap.detail.is_empty() {
                    sum.detail = gap.detail;
                }
            }
            None => self.gaps.push(gap),
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.fresh = self.fresh.saturating_add(other.fresh);
        for gap in other.gaps {
            self.gap(gap);
        }
    }

    /// Numbers up to `through` are at the collector: a gap of them is none.
    pub(crate) fn forget_through(&mut self, reason: GapReason, through: Seq) {
        for gap in self.gaps.iter_mut().filter(|g| g.reason == reason) {
            if let (Some(first), Some(last)) = (gap.first, gap.last)
                && first <= through
            {
                let known = through.min(last).0 + 1 - first.0;
                gap.count = gap.count.saturating_sub(known);
                self.fresh = self.fresh.saturating_sub(known);
                gap.first = Some(through.next());
            }
        }
        self.gaps.retain(|g| g.count > 0 || g.first.is_none());
    }

    /// What was given up and told by no gap before.
    pub(crate) fn fresh(&self) -> u64 {
        self.fresh
    }

    pub(crate) fn count(&self) -> u64 {
        self.gaps.iter().fold(0, |sum, gap| sum.saturating_add(gap.count))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter()
    }

    /// The gaps, each with a sentence.
    pub(crate) fn told(&self) -> impl Iterator<Item = Gap> + '_ {
        self.gaps.iter().map(|gap| {
            let mut gap = gap.clone();
            if gap.detail.is_empty() {
                gap.detail = match gap.reason {
                    GapReason::OutboxFull => {
                        "the outbox reached its limit: superseded changes of findings, then the oldest detections of \
                         the lowest severity were given up"
                    }
                    GapReason::DiskFull => {
                        "the disk took no more and memory was full: superseded changes of findings, then the oldest \
                         detections of the lowest severity were given up"
                    }
                    GapReason::Damaged => "a part of the outbox could not be read back",
                    GapReason::AuditLog => "the audit log lost lines",
                }
                .to_owned();
            }
            gap
        })
    }
}
