//! What to give up when there is too much: first what was superseded, then the oldest detections of the lowest
//! severity. Never the last word on a finding, never the latest inventory. Gaps are not given up but summed.

use std::collections::{HashMap, HashSet};
use std::io;

use picket_model::{Event, EventBody, FindingKey, GapReason, Seq, Severity};

use crate::journal::{self, Fate, Journal};
use crate::ledger::{encode_all, size_of_body};
use crate::record;
use crate::tally::Tally;

/// What may go, in the order in which it should.
#[derive(Debug, Default)]
struct Weighed {
    last_of: HashMap<FindingKey, u64>,
    last_inventory: Option<u64>,
    /// Superseded, or a gap to be summed: number and bytes.
    superseded: Vec<(u64, usize)>,
    detections: Vec<(Severity, u64, usize)>,
    total: usize,
}

impl Weighed {
    /// Looks at one body; `at` is its place in time.
    fn weigh(&mut self, at: u64, body: &EventBody, sizes: &mut HashMap<u64, usize>) {
        let bytes = size_of_body(body);
        self.total += bytes;
        let before = match body {
            EventBody::FindingOpened { finding }
            | EventBody::FindingChanged { finding }
            | EventBody::FindingResolved { finding } => {
                sizes.insert(at, bytes);
                self.last_of.insert(finding.key(), at)
            }
            EventBody::Inventory { .. } => {
                sizes.insert(at, bytes);
                self.last_inventory.replace(at)
            }
            EventBody::Detection { detection } => {
                self.detections.push((detection.severity, at, bytes));
                None
            }
            EventBody::Gap { .. } => {
                self.superseded.push((at, bytes));
                None
            }
        };
        if let Some(before) = before {
            self.superseded.push((before, sizes.remove(&before).unwrap_or(0)));
        }
    }

    /// What to drop so that at most `target` bytes are left.
    fn choose(mut self, target: usize) -> HashSet<u64> {
        let mut left = self.total;
        let mut drop = HashSet::new();
        for (at, bytes) in self.superseded {
            left = left.saturating_sub(bytes);
            drop.insert(at);
        }
        self.detections.sort_unstable_by_key(|(severity, at, _)| (*severity, *at));
        for (_, at, bytes) in self.detections {
            if left <= target {
                break;
            }
            left = left.saturating_sub(bytes);
            drop.insert(at);
        }
        drop
    }
}

/// A decision on every event of the journal.
#[derive(Debug)]
pub(crate) struct Plan {
    drop: HashSet<u64>,
    acknowledged: Seq,
}

impl Plan {
    /// Reads the whole journal and decides.
    pub(crate) fn make(journal: &Journal, acknowledged: Seq, target: u64) -> io::Result<Self> {
        let mut weighed = Weighed::default();
        let mut sizes = HashMap::new();
        for (index, segment) in journal.segments.iter().enumerate() {
            let bytes = journal.load(index)?;
            for found in record::scan(&bytes).records {
                let unit = bytes.get(found.range.clone()).and_then(|r| record::decode(r, &found.header));
                for event in unit.into_iter().flat_map(|u| u.events) {
                    if event.seq > acknowledged && event.seq <= segment.last {
                        weighed.weigh(event.seq.0, &event.body, &mut sizes);
                    }
                }
            }
        }
        let target = usize::try_from(target).unwrap_or(usize::MAX);
        Ok(Self { drop: weighed.choose(target), acknowledged })
    }

    fn fate(&self, event: &Event) -> Fate {
        if event.seq <= self.acknowledged {
            Fate::Delivered
        } else if self.drop.contains(&event.seq.0) {
            Fate::GivenUp
        } else {
            Fate::Keep
        }
    }

    /// Rewrites the segments, neighbours together while they are small. Each step leaves a sound journal, and what it
    /// gave up is in `lost`, also when a later step fails.
    pub(crate) fn carry_out(&self, journal: &mut Journal, segment_bytes: u64, lost: &mut Tally) -> io::Result<()> {
        let next = journal.next();
        let mut from = 0;
        while from < journal.segments.len() {
            let mut records = Vec::new();
            let mut to = from;
            let mut group = Tally::default();
            while let Some(segment) = journal.segments.get(to)
                && (to == from || (records.len() as u64) < segment_bytes)
            {
                let bytes = journal.load(to)?;
                let (units, given_up) = journal::thin(&bytes, segment, next, &|event| self.fate(event));
                let encoded = encode_all(&units)?;
                if to > from && (records.len() + encoded.len()) as u64 > segment_bytes.saturating_mul(2) {
                    break;
                }
                records.extend(encoded);
                group.merge(given_up);
                to += 1;
            }
            journal.rewrite(from, to, &records)?;
            lost.merge(group);
            from += 1;
        }
        Ok(())
    }
}

/// The same for bodies in memory that have no number yet. Returns how many were given up.
pub(crate) fn thin_waiting(bodies: &mut Vec<EventBody>, target: usize, owed: &mut Tally) -> u64 {
    let mut weighed = Weighed::default();
    let mut sizes = HashMap::new();
    for (at, body) in bodies.iter().enumerate() {
        weighed.weigh(at as u64, body, &mut sizes);
    }
    let drop = weighed.choose(target);
    let (mut at, mut lost) = (0, 0);
    bodies.retain(|body| {
        let keep = !drop.contains(&at);
        at += 1;
        match body {
            _ if keep => {}
            EventBody::Gap { gap } => owed.gap(gap.clone()),
            _ => lost += 1,
        }
        keep
    });
    owed.unnumbered(GapReason::DiskFull, lost);
    lost
}
