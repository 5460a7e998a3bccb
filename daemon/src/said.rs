//! How many verdicts of each status each control has now: what `picketd status` counts. The verdicts themselves are not
//! kept between looks; what is open stands in the ledger.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use picket_model::{Status, Verdict};

/// Verdicts counted by control.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    by_control: BTreeMap<String, [u32; Status::ALL.len()]>,
    /// The moment of the last judgement; none as long as not every control was judged.
    pub at: Option<Timestamp>,
}

impl Said {
    /// After everything was judged.
    pub fn everything(verdicts: &[Verdict], at: Timestamp) -> Self {
        let mut said = Self { by_control: BTreeMap::new(), at: Some(at) };
        said.count(verdicts);
        said
    }

    /// After these controls were judged again.
    pub fn again(&mut self, controls: &BTreeSet<String>, verdicts: &[Verdict], at: Timestamp) {
        self.at = Some(at);
        self.by_control.retain(|control, _| !controls.contains(control));
        self.count(verdicts);
    }

    fn count(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            if !self.by_control.contains_key(&verdict.control) {
                self.by_control.insert(verdict.control.clone(), Default::default());
            }
            let at = Status::ALL.iter().position(|status| *status == verdict.status);
            if let (Some(counts), Some(at)) = (self.by_control.get_mut(&verdict.control), at)
                && let Some(count) = counts.get_mut(at)
            {
                *count += 1;
            }
        }
    }

    /// How many verdicts of each status there are.
    pub fn summary(&self) -> BTreeMap<String, u64> {
        let count = |at: usize| self.by_control.values().filter_map(|c| c.get(at)).map(|n| u64::from(*n)).sum();
        Status::ALL.iter().enumerate().map(|(at, status)| (status.as_str().to_owned(), count(at))).collect()
    }
}
