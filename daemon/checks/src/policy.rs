//! What is asked of the evaluator.

use std::sync::Arc;

use picket_model::DetectionNeed;

use crate::catalogue::{Catalogue, CatalogueError, Control, Op, Standing};

/// Which controls are judged, and by which limits.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The controls.
    pub catalogue: Arc<Catalogue>,
    /// Benchmark version asked for (`2.1`); none: the newest limits and every current control.
    pub benchmark: Option<String>,
    /// Whether Picket's own opt-in controls (level 2 without a CIS number) are judged too.
    pub opt_in: bool,
    /// What the detections look for in the audit log. None known: whether the node's audit policy shows it is not judged.
    pub detections: Arc<[DetectionNeed]>,
}

impl Policy {
    /// The catalogue that is compiled in, every current control, newest limits.
    ///
    /// # Errors
    /// Never for the catalogue as shipped.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Ok(Self {
            catalogue: Arc::new(Catalogue::built_in()?),
            benchmark: None,
            opt_in: true,
            detections: Arc::default(),
        })
    }

    /// Benchmark versions the catalogue has numbers for.
    pub fn benchmarks(&self) -> Vec<String> {
        let mut versions: Vec<String> = Vec::new();
        for control in self.catalogue.controls() {
            for version in control.cis.keys() {
                if !versions.contains(version) {
                    versions.push(version.clone());
                }
            }
        }
        // 1.9 before 1.10: by number, not by text.
        versions.sort_by_key(|v| {
            let mut parts = v.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
            (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
        });
        versions
    }

    /// Whether a control stands in the benchmark version asked for.
    pub fn asked_for(&self, control: &Control) -> bool {
        self.benchmark.as_ref().is_some_and(|version| control.cis.contains_key(version))
    }

    /// Whether a control gives rows at all.
    pub fn lists(&self, control: &Control) -> bool {
        if control.expected.op == Op::ReportEach {
            return false;
        }
        if control.cis.is_empty() && control.level >= 2 && !self.opt_in {
            return false;
        }
        match control.status {
            Standing::Current => true,
            Standing::Legacy => self.asked_for(control),
        }
    }
}
