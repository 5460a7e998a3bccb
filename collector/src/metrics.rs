//! Figures for Prometheus: names with base units, prefix `picket_`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use picket_service::tls::accept::Door;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::writer::WriterHealth;

/// Why a batch or stream of a node was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// In a word.
    pub reason: &'static str,
}

/// The counters of the collector. Cheap to clone: all clones count the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Calls that were not allowed.
    pub refused_calls: Counter,
    /// Nodes taken in.
    pub enrolled: Counter,
    /// Enrolments refused.
    pub enrolments_refused: Counter,
    /// Certificates renewed.
    pub renewed: Counter,
    /// Streams of nodes open now.
    pub streams: Gauge,
    /// Events made durable.
    pub events: Counter,
    /// Events that were there already.
    pub duplicates: Counter,
    /// Events that do not follow from the one before them.
    pub altered: Counter,
    /// Numbers that nodes gave up: events that never come.
    pub given_up: Counter,
    /// Batches taken.
    pub batches: Counter,
    /// Streams ended because of what a node sent.
    pub rejected: Family<Reason, Counter>,
    /// Nodes that are silent now.
    pub silent_nodes: Gauge,
    /// Nodes enrolled and not revoked.
    pub nodes: Gauge,
    /// Connections cut because of a revocation.
    pub cut: Counter,
}

impl Metrics {
    /// Puts all counters into a registry whose prefix is `picket_collector`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("refused_calls", "Calls refused by authorisation", self.refused_calls.clone());
        registry.register("enrolments", "Nodes taken in", self.enrolled.clone());
        registry.register("enrolments_refused", "Enrolments refused", self.enrolments_refused.clone());
        registry.register("renewals", "Certificates of nodes renewed", self.renewed.clone());
        registry.register("streams", "Streams of nodes open now", self.streams.clone());
        registry.register("events", "Events made durable", self.events.clone());
        registry.register("duplicate_events", "Events received that were durable already", self.duplicates.clone());
        registry.register("altered_events", "Events that do not follow from the one before", self.altered.clone());
        registry.register(
            "given_up_events",
            "Events that nodes gave up before they were delivered",
            self.given_up.clone(),
        );
        registry.register("batches", "Batches of events taken", self.batches.clone());
        registry.register("rejected_streams", "Streams ended because of what a node sent", self.rejected.clone());
        registry.register("silent_nodes", "Nodes not heard of for longer than the limit", self.silent_nodes.clone());
        registry.register("nodes", "Nodes enrolled and not revoked", self.nodes.clone());
        registry.register("cut_connections", "Connections cut by a revocation", self.cut.clone());
    }

    /// Counts a stream that is ended.
    pub fn reject(&self, reason: &'static str) {
        self.rejected.get_or_create(&Reason { reason }).inc();
    }
}

/// What the door counts, read when asked.
#[derive(Debug)]
pub struct DoorCollector(pub Door);

impl Collector for DoorCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = &self.0.counters;
        for (name, help, counter) in [
            ("handshakes", "TLS handshakes that gave a connection", &counters.accepted),
            ("handshakes_failed", "TLS handshakes that failed", &counters.failed),
            ("handshakes_timed_out", "TLS handshakes that took too long", &counters.timed_out),
            ("connections_refused", "Connections closed because a limit was reached", &counters.refused),
        ] {
            let metric = ConstCounter::new(counter.load(Ordering::Relaxed));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let open = ConstGauge::new(i64::try_from(self.0.live.len()).unwrap_or(i64::MAX));
        open.encode(encoder.encode_descriptor("connections", "Connections open now", None, open.metric_type())?)
    }
}

/// How the writer of the history is, read when asked.
#[derive(Debug)]
pub struct WriterCollector(pub WriterHealth);

impl Collector for WriterCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let failures = ConstCounter::new(self.0.failures());
        let help = "Writes to the history that failed";
        failures.encode(encoder.encode_descriptor("store_failures", help, None, failures.metric_type())?)?;
        let failing = ConstGauge::new(i64::from(self.0.is_failing()));
        let help = "1 while the history takes nothing, else 0";
        failing.encode(encoder.encode_descriptor("store_failing", help, None, failing.metric_type())?)
    }
}

/// All metrics as text.
///
/// # Errors
/// Never in practice: writing to a `String` does not fail.
pub fn text(registry: &Arc<Registry>) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, registry)?;
    Ok(out)
}
