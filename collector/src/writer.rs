//! The only writer of the history: one thread, one queue, one durable commit for all that waits.
//!
//! What sessions submit is gathered into a group; the store makes atomic units of it and syncs once; then every waiter
//! is answered and the events go to the bus. While one group is synced the next one gathers, so that the number of
//! syncs does not grow with the number of nodes.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use picket_model::{ChainHash, Epoch, Event, EventBody, NodeId, Seq};
use picket_service::clock::Clock;
use picket_store::{Delivery, Receipt, Refused, Retained, Retention, Store, StoreError};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::bus::{Bus, Listener};

/// How the writer works.
#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// Submissions that may wait; who comes later waits for a place.
    pub queue: usize,
    /// Events that one durable commit takes, roughly.
    pub group_events: usize,
    /// Events that the bus holds for its slowest listener.
    pub bus: usize,
    /// How much history is kept.
    pub retention: Retention,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self { queue: 256, group_events: 2048, bus: 8192, retention: Retention::default() }
    }
}

/// Everything up to a number is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// That number.
    pub through: Seq,
    /// Events that are new.
    pub stored: u64,
    /// Events that were there before.
    pub duplicates: u64,
    /// Numbers that were passed over: the node gave them up.
    pub given_up: u64,
}

/// A submission that is not durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The store refused it: this node and the history disagree on what comes next.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed; the cause stands in the collector's log.
    #[error("the collector's store does not take events at the moment: send them again later")]
    Store,
    /// The collector stops.
    #[error("the collector is stopping: send the events again later")]
    Stopped,
}

impl From<SubmitError> for tonic::Status {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(_) => Self::failed_precondition(error.to_string()),
            SubmitError::Store | SubmitError::Stopped => Self::unavailable(error.to_string()),
        }
    }
}

/// Sums since the writer started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriterStats {
    /// Events made durable.
    pub events: u64,
    /// Events that were there before.
    pub duplicates: u64,
    /// Submissions refused by the store.
    pub refused: u64,
    /// Durable commits.
    pub commits: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Events dropped by retention.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Sums {
    events: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    dropped: AtomicU64,
    failing: AtomicBool,
}

/// How the writer is, for those who must not keep it alive: it ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct WriterHealth(Arc<Sums>);

impl WriterHealth {
    /// Did the last commit fail? sled takes nothing more after a write that failed, also when there is room again,
    /// until it is opened anew.
    pub fn is_failing(&self) -> bool {
        self.0.failing.load(Ordering::Relaxed)
    }

    /// Commits that failed since the start.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }
}

fn count(sum: &AtomicU64, by: u64) {
    sum.fetch_add(by, Ordering::Relaxed);
}

type Answer = oneshot::Sender<Result<Durable, SubmitError>>;

#[derive(Debug)]
enum Order {
    Deliver(Delivery, Answer),
    Own(NodeId, Box<EventBody>, Answer),
    Retain,
}

impl Order {
    fn weight(&self) -> usize {
        match self {
            Self::Deliver(delivery, _) => delivery.events.len().max(1),
            Self::Own(..) | Self::Retain => 1,
        }
    }
}

/// The way to the writer. When all handles are gone, the writer finishes what waits and its thread ends.
#[derive(Debug, Clone)]
pub struct WriterHandle {
    orders: mpsc::Sender<Order>,
    bus: Bus,
    sums: Arc<Sums>,
}

impl WriterHandle {
    /// Makes a node's events durable and says how far its history has come. Waits for a place in the queue.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing may be acknowledged.
    pub async fn submit(
        &self,
        node: NodeId,
        epoch: Epoch,
        events: Vec<Event>,
        given_up_through: Seq,
    ) -> Result<Durable, SubmitError> {
        let delivery = Delivery { node, epoch, events, given_up_through };
        self.order(|answer| Order::Deliver(delivery, answer)).await
    }

    /// Makes something durable that the collector itself has to say of a node. It is numbered in the store's own epoch,
    /// so that it never meets the node's numbers.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit_own(&self, node: NodeId, body: EventBody) -> Result<Durable, SubmitError> {
        let body = Box::new(body);
        self.order(|answer| Order::Own(node, body, answer)).await
    }

    async fn order(&self, order: impl FnOnce(Answer) -> Order) -> Result<Durable, SubmitError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| SubmitError::Stopped)?;
        answered.await.map_err(|_| SubmitError::Stopped)?
    }

    /// Asks for old history to be dropped, in small steps between commits. Does not wait. Call it every minute or so.
    pub fn retain(&self) {
        // A full queue means that the writer is busy; the next call will find a place.
        drop(self.orders.try_send(Order::Retain));
    }

    /// Hears every event that becomes durable from now on.
    pub fn subscribe(&self) -> Listener {
        self.bus.subscribe()
    }

    /// Sums since the writer started.
    pub fn stats(&self) -> WriterStats {
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        WriterStats {
            events: read(&self.sums.events),
            duplicates: read(&self.sums.duplicates),
            refused: read(&self.sums.refused),
            commits: read(&self.sums.commits),
            failures: read(&self.sums.failures),
            dropped: read(&self.sums.dropped),
        }
    }

    /// Is the writer there, and does the store take what it writes?
    pub fn is_open(&self) -> bool {
        !self.orders.is_closed() && !self.health().is_failing()
    }

    /// How the writer is.
    pub fn health(&self) -> WriterHealth {
        WriterHealth(Arc::clone(&self.sums))
    }

    /// How many submissions wait.
    pub fn queued(&self) -> usize {
        self.orders.max_capacity() - self.orders.capacity()
    }
}

/// The writer.
#[derive(Debug)]
pub struct Writer {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    settings: WriterSettings,
    orders: mpsc::Receiver<Order>,
    bus: Bus,
    sums: Arc<Sums>,
    retaining: bool,
}

impl Writer {
    /// Starts the writer's thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        settings: WriterSettings,
    ) -> io::Result<(WriterHandle, JoinHandle<()>)> {
        let (sender, orders) = mpsc::channel(settings.queue.max(1));
        let (bus, sums) = (Bus::new(settings.bus), Arc::new(Sums::default()));
        let handle = WriterHandle { orders: sender, bus: bus.clone(), sums: Arc::clone(&sums) };
        let writer = Self { store, clock, settings, orders, bus, sums, retaining: false };
        let thread = std::thread::Builder::new().name("picket-writer".to_owned()).spawn(move || writer.run())?;
        Ok((handle, thread))
    }

    fn run(mut self) {
        loop {
            let first = if self.retaining {
                match self.orders.try_recv() {
                    Ok(order) => Some(order),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                match self.orders.blocking_recv() {
                    Some(order) => Some(order),
                    None => return,
                }
            };
            let events = first.map_or(0, |first| self.write_group(first));
            if self.retaining {
                // As many old events go as new ones came, and one step more.
                for _ in 0..=events / 64 {
                    self.retain_step();
                }
            }
        }
    }

    /// Gathers what waits, makes it durable, answers. Returns the number of events.
    fn write_group(&mut self, first: Order) -> usize {
        let mut group = Group::new(self.store.own_epoch());
        let mut weight = 0;
        let mut next = Some(first);
        while let Some(order) = next {
            weight += order.weight();
            match order {
                Order::Deliver(delivery, answer) => group.add(delivery, answer),
                Order::Own(node, body, answer) => {
                    if let Err(error) = group.add_own(self.store.as_ref(), self.clock.now(), node, *body) {
                        self.failed(&error);
                        // Err means that nobody waits for the answer any more.
                        drop(answer.send(Err(SubmitError::Store)));
                    } else {
                        group.answers.push(answer);
                    }
                }
                Order::Retain => self.retaining = true,
            }
            next = if weight < self.settings.group_events { self.orders.try_recv().ok() } else { None };
        }
        if !group.answers.is_empty() {
            self.commit(group);
        }
        weight
    }

    fn commit(&self, group: Group) {
        let outcomes = match self.store.commit(self.clock.now(), group.deliveries) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.sums.failing.store(true, Ordering::Relaxed);
                self.failed(&error);
                for answer in group.answers {
                    drop(answer.send(Err(SubmitError::Store)));
                }
                return;
            }
        };
        self.sums.failing.store(false, Ordering::Relaxed);
        count(&self.sums.commits, 1);
        let mut committed = Vec::new();
        for (answer, outcome) in group.answers.into_iter().zip(outcomes) {
            let outcome = match outcome {
                Ok(Receipt { through, duplicates, given_up, stored }) => {
                    let new = stored.len() as u64;
                    count(&self.sums.events, new);
                    count(&self.sums.duplicates, duplicates);
                    committed.extend(stored);
                    Ok(Durable { through, stored: new, duplicates, given_up })
                }
                Err(refused) => {
                    count(&self.sums.refused, 1);
                    Err(SubmitError::Refused(refused))
                }
            };
            drop(answer.send(outcome));
        }
        for event in committed {
            self.bus.publish(event);
        }
    }

    fn retain_step(&mut self) {
        match self.store.retain(self.clock.now(), self.settings.retention) {
            Ok(Retained { dropped, done, .. }) => {
                count(&self.sums.dropped, dropped);
                self.retaining = !done;
            }
            Err(error) => {
                // Tried again with the next call; meanwhile history only grows.
                self.retaining = false;
                self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &StoreError) {
        let before = self.sums.failures.fetch_add(1, Ordering::Relaxed);
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        // Nodes come again and again: the first few are told, then each power of two.
        if before < 10 || before.is_power_of_two() {
            tracing::error!(%error, %cause, failures = before + 1, "the store failed");
        }
    }
}

/// What one commit takes.
#[derive(Debug)]
struct Group {
    own_epoch: Epoch,
    deliveries: Vec<Delivery>,
    answers: Vec<Answer>,
    /// Where the collector's own numbers stand within this group.
    own: HashMap<NodeId, (Seq, ChainHash)>,
}

impl Group {
    fn new(own_epoch: Epoch) -> Self {
        Self { own_epoch, deliveries: Vec::new(), answers: Vec::new(), own: HashMap::new() }
    }

    fn add(&mut self, delivery: Delivery, answer: Answer) {
        self.deliveries.push(delivery);
        self.answers.push(answer);
    }

    /// Numbers what the collector says. Its answer is added by the caller.
    fn add_own(
        &mut self,
        store: &dyn Store,
        now: jiff::Timestamp,
        node: NodeId,
        body: EventBody,
    ) -> Result<(), StoreError> {
        let (seq, hash) = match self.own.get(&node) {
            Some(place) => *place,
            None => store
                .cursor(node, self.own_epoch)?
                .map_or((Seq::ZERO, ChainHash::START), |c| (c.through, c.hash.unwrap_or(ChainHash::START))),
        };
        let event = Event::new(self.own_epoch, seq.next(), now, body, hash);
        self.own.insert(node, (event.seq, event.hash));
        self.deliveries.push(Delivery {
            node,
            epoch: self.own_epoch,
            events: vec![event],
            given_up_through: Seq::ZERO,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use picket_model::{Gap, GapReason};
    use picket_service::clock::FixedClock;
    use picket_store::{EventQuery, MemoryStore};

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    fn epoch() -> Epoch {
        Epoch::from_bytes([7; 16])
    }

    fn body(n: u64) -> EventBody {
        let gap = Gap { reason: GapReason::AuditLog, count: n, first: None, last: None, detail: String::new() };
        EventBody::Gap { gap }
    }

    fn events(first: u64, count: u64) -> Vec<Event> {
        (first..first + count)
            .map(|seq| Event::new(epoch(), Seq(seq), Timestamp::UNIX_EPOCH, body(seq), ChainHash::START))
            .collect()
    }

    fn start(settings: WriterSettings) -> (Arc<MemoryStore>, WriterHandle, JoinHandle<()>) {
        let store = Arc::new(MemoryStore::in_memory());
        let clock = Arc::new(FixedClock(Timestamp::UNIX_EPOCH));
        let (handle, thread) = Writer::start(Arc::clone(&store) as Arc<dyn Store>, clock, settings).unwrap();
        (store, handle, thread)
    }

    #[tokio::test]
    async fn many_nodes_at_once_are_all_answered_and_heard_in_order() {
        let (store, writer, thread) = start(WriterSettings { queue: 2, ..WriterSettings::default() });
        let mut listener = writer.subscribe();
        let tasks: Vec<_> = (1..=50)
            .map(|n| {
                let writer = writer.clone();
                tokio::spawn(async move {
                    for round in 0..4 {
                        let durable =
                            writer.submit(node(n), epoch(), events(round * 3 + 1, 3), Seq::ZERO).await.unwrap();
                        assert_eq!((durable.through, durable.stored), (Seq(round * 3 + 3), 3));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let mut before = None;
        for _ in 0..600 {
            let event = listener.next().await.unwrap();
            assert!(before < Some(event.position));
            before = Some(event.position);
        }
        assert_eq!(writer.stats().events, 600);
        drop(writer);
        thread.join().unwrap();
        assert_eq!(listener.next().await.unwrap_err(), crate::bus::ListenError::Closed);
        assert_eq!(store.stats().events, 600);
    }

    #[tokio::test]
    async fn a_refused_submission_harms_nobody_else() {
        let (_, writer, _) = start(WriterSettings::default());
        let (good, bad, again) = tokio::join!(
            writer.submit(node(1), epoch(), events(1, 2), Seq::ZERO),
            writer.submit(node(2), epoch(), events(2, 1), Seq::ZERO),
            writer.submit(node(1), epoch(), events(1, 3), Seq::ZERO),
        );
        assert_eq!(good.unwrap().through, Seq(2));
        let refused = Refused::Hole { expected: Seq(1), got: Seq(2) };
        assert_eq!(bad.unwrap_err(), SubmitError::Refused(refused));
        assert_eq!(again.unwrap(), Durable { through: Seq(3), stored: 1, duplicates: 2, given_up: 0 });
        assert_eq!(writer.stats().refused, 1);
    }

    #[tokio::test]
    async fn the_collectors_own_events_are_numbered_beside_the_nodes() {
        let (store, writer, _) = start(WriterSettings::default());
        writer.submit(node(1), epoch(), events(1, 2), Seq::ZERO).await.unwrap();
        let (a, b) = tokio::join!(writer.submit_own(node(1), body(1)), writer.submit_own(node(1), body(2)));
        assert_eq!((a.unwrap().through, b.unwrap().through), (Seq(1), Seq(2)));
        assert_eq!(writer.submit_own(node(2), body(1)).await.unwrap().through, Seq(1));
        assert_eq!(writer.submit(node(1), epoch(), events(3, 1), Seq::ZERO).await.unwrap().through, Seq(3));
        let own: Vec<_> = store
            .events(&EventQuery { limit: 10, ..EventQuery::default() })
            .unwrap()
            .events
            .into_iter()
            .filter(|stored| stored.node == node(1) && stored.event.epoch == store.own_epoch())
            .collect();
        assert_eq!(own.len(), 2);
        assert!(own[0].event.follows(own[1].event.hash) && own[1].event.follows(ChainHash::START));
    }

    #[tokio::test]
    async fn a_slow_listener_is_cut_off_and_told_how_much_it_missed() {
        let (_, writer, _) = start(WriterSettings { bus: 4, ..WriterSettings::default() });
        let mut slow = writer.subscribe();
        writer.submit(node(1), epoch(), events(1, 10), Seq::ZERO).await.unwrap();
        // The answer comes before the events are published: one more round trip makes sure that they were.
        writer.submit(node(2), epoch(), events(1, 1), Seq::ZERO).await.unwrap();
        let error = slow.next().await.unwrap_err();
        assert!(matches!(error, crate::bus::ListenError::TooSlow { missed } if missed >= 6), "{error}");
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn old_history_is_dropped_on_request_while_events_come_in() {
        let retention = Retention { max_events: 100, ..Retention::default() };
        let (store, writer, thread) = start(WriterSettings { retention, ..WriterSettings::default() });
        for round in 0..10 {
            writer.submit(node(1), epoch(), events(round * 100 + 1, 100), Seq::ZERO).await.unwrap();
            writer.retain();
        }
        writer.submit(node(1), epoch(), events(1001, 1), Seq::ZERO).await.unwrap();
        while writer.stats().dropped < 900 {
            tokio::task::yield_now().await;
        }
        drop(writer);
        thread.join().unwrap();
        assert!((100..=101).contains(&store.stats().events), "{:?}", store.stats());
    }
}
