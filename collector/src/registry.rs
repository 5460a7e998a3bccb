//! Who belongs to the fleet: nodes, operators, enrolment tokens.
//!
//! Records live in the store; nodes and operators are also held in memory, because every call and every batch asks
//! whether a serial number is still good. Changes go through one lock, are durable when a call returns, and only
//! then visible. Calls that change something block: call them from a blocking thread.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use picket_model::{Labels, NodeId, NodeInfo};
use picket_service::clock::Clock;
use picket_service::tls::peer::{Certificate, OperatorName};
use picket_service::tls::token::{EnrollToken, TokenId};
use picket_store::{
    CertificateRecord, Change, Durability, NodeRecord, OperatorRecord, OperatorRole, Records as _, Revocation, Store,
    StoreError, TokenRecord, Versioned,
};
use subtle::ConstantTimeEq as _;

use crate::members::{Copy, Member};

/// Certificates of the past that a node's record remembers.
const PAST_CERTIFICATES: usize = 16;
/// An expired or used-up token is remembered for so long, so that its user learns what is wrong with it.
const TOKEN_MEMORY: Duration = Duration::from_secs(86_400);

/// Why a certificate that was properly signed counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody of this name was taken in.
    #[error("this identity is not known here; enrol again")]
    Unknown,
    /// An operator revoked it.
    #[error("this identity was revoked by an operator; ask for a new enrolment token")]
    Revoked,
    /// A newer certificate is in use.
    #[error("this certificate was replaced by a newer one; use that, or enrol again")]
    Replaced,
    /// Its time is over.
    #[error("this certificate has expired; only a renewal is possible with it")]
    Expired,
}

/// What a good certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The one in use.
    Active,
    /// The next one, seen for the first time: [`Registry::promote`] makes it the active one.
    Pending,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// No such token, or the secret is wrong.
    #[error("the enrolment token is unknown here: it was mistyped, revoked, or belongs to another collector")]
    Unknown,
    /// Too late.
    #[error("the enrolment token has expired; make a new one with `picket-collector token create`")]
    Expired,
    /// All uses are spent.
    #[error("the enrolment token is used up; make a new one with `picket-collector token create`")]
    UsedUp,
}

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] crate::ca::CaError),
    /// The caller's certificate.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such node.
    #[error("no node is called {0:?}; `picket-collector node list` shows ids and host names")]
    NoNode(String),
    /// Several nodes with this host name.
    #[error("{name:?} is the host name of several nodes; name one by its id: {}", ids.join(", "))]
    Ambiguous {
        /// The host name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// No such token.
    #[error("no token has id {0:?}; `picket-collector token list` shows them")]
    NoToken(String),
    /// No such operator.
    #[error("no operator is called {0:?}; `picket-collector operator list` shows them")]
    NoOperator(String),
    /// An operator of this name is there.
    #[error("operator {0:?} exists already; revoke it first, or choose another name")]
    OperatorExists(String),
}

#[derive(Debug, Default)]
struct Tables {
    nodes: HashMap<NodeId, Versioned<NodeRecord>>,
    operators: HashMap<String, Versioned<OperatorRecord>>,
}

/// The fleet's members.
#[derive(Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tables: RwLock<Tables>,
    changing: Mutex<()>,
    copy: Option<Copy>,
}

fn record_of(certificate: &Certificate, now: Timestamp) -> CertificateRecord {
    CertificateRecord { serial: certificate.serial.to_string(), issued_at: now, not_after: certificate.not_after }
}

fn is(record: Option<&CertificateRecord>, certificate: &Certificate) -> bool {
    record.is_some_and(|r| r.serial == certificate.serial.to_string())
}

impl Registry {
    /// Reads all members from the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let nodes = store.load_all::<NodeRecord>()?.into_iter().map(|n| (n.record.id, n)).collect();
        let operators = store.load_all::<OperatorRecord>()?.into_iter().map(|o| (o.record.name.clone(), o)).collect();
        Ok(Self {
            store,
            clock,
            tables: RwLock::new(Tables { nodes, operators }),
            changing: Mutex::new(()),
            copy: None,
        })
    }

    /// Nobody was ever taken in.
    pub fn is_empty(&self) -> bool {
        self.look(|t| t.nodes.is_empty() && t.operators.is_empty())
    }

    /// From now on a copy of the members is kept there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn with_copy(mut self, path: &Path) -> std::io::Result<Self> {
        let nodes = self.nodes().into_iter().map(|n| Member::Node(Box::new(n)));
        self.copy = Some(Copy::begin(path, nodes.chain(self.operators().into_iter().map(Member::Operator)))?);
        Ok(self)
    }

    fn note_copy(&self, member: impl FnOnce() -> Member) {
        if let Some(copy) = &self.copy {
            copy.note(&member());
        }
    }

    fn look<T>(&self, at: impl FnOnce(&Tables) -> T) -> T {
        // Tables are replaced entry by entry with whole values: good also after a panic elsewhere.
        at(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- nodes

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<NodeRecord> {
        self.look(|t| t.nodes.get(&id).map(|n| n.record.clone()))
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        self.look(|t| t.nodes.values().map(|n| n.record.clone()).collect())
    }

    /// The node with this id or host name. Revoked nodes are found by id only, unless no other has the host name.
    ///
    /// # Errors
    /// [`RegistryError::NoNode`], [`RegistryError::Ambiguous`].
    pub fn find_node(&self, name: &str) -> Result<NodeRecord, RegistryError> {
        if let Some(node) = name.parse().ok().and_then(|id| self.node(id)) {
            return Ok(node);
        }
        let mut found: Vec<_> = self.nodes().into_iter().filter(|n| n.hostname == name).collect();
        if found.iter().any(|n| n.revoked.is_none()) {
            found.retain(|n| n.revoked.is_none());
        }
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(RegistryError::NoNode(name.chars().take(253).collect())),
            (Some(node), true) => Ok(node),
            (Some(node), false) => {
                let mut ids: Vec<_> = found.iter().chain([&node]).map(|n| n.id.to_string()).collect();
                ids.sort();
                Err(RegistryError::Ambiguous { name: name.to_owned(), ids })
            }
        }
    }

    /// Is this certificate of a node good now? Asked at every call and every batch.
    ///
    /// # Errors
    /// [`Refusal`]. [`Refusal::Expired`] only for the certificate that would otherwise be good.
    pub fn node_standing(&self, id: NodeId, certificate: &Certificate) -> Result<Standing, Refusal> {
        let now = self.clock.now();
        self.look(|t| {
            let node = &t.nodes.get(&id).ok_or(Refusal::Unknown)?.record;
            if node.revoked.is_some() {
                return Err(Refusal::Revoked);
            }
            let standing = if is(node.active.as_ref(), certificate) {
                Standing::Active
            } else if is(node.pending.as_ref(), certificate) {
                Standing::Pending
            } else if node.past.iter().any(|p| is(Some(p), certificate)) {
                return Err(Refusal::Replaced);
            } else {
                return Err(Refusal::Unknown);
            };
            if certificate.not_after < now { Err(Refusal::Expired) } else { Ok(standing) }
        })
    }

    /// Takes a node in: one use of the token and the node's record in one atomic change.
    ///
    /// # Errors
    /// [`RegistryError::Token`] and what `issue` says; then no use is spent.
    pub fn enroll(
        &self,
        token: &EnrollToken,
        id: NodeId,
        info: NodeInfo,
        issue: impl FnOnce() -> Result<Certificate, crate::ca::CaError>,
    ) -> Result<NodeRecord, RegistryError> {
        let _guard = self.one_at_a_time();
        let now = self.clock.now();
        let found = self.store.load::<TokenRecord>(token.id.as_str())?;
        let secret = hex::encode(token.secret_hash());
        // Compared also when there is no such token, so that the answer takes the same time.
        let kept = found.as_ref().map_or("", |t| t.record.secret_sha256.as_str());
        let padded = format!("{kept:0>64}");
        let right = bool::from(secret.as_bytes().ct_eq(padded.as_bytes()));
        let Some(Versioned { revision, record: mut kept }) = found.filter(|_| right) else {
            return Err(TokenRefusal::Unknown.into());
        };
        if kept.expires_at <= now {
            return Err(TokenRefusal::Expired.into());
        }
        kept.uses_left = kept.uses_left.checked_sub(1).ok_or(TokenRefusal::UsedUp)?;
        let certificate = issue()?;
        let node = NodeRecord {
            id,
            hostname: info.hostname.clone(),
            labels: kept.labels.clone(),
            enrolled_at: now,
            active: Some(record_of(&certificate, now)),
            pending: None,
            past: Vec::new(),
            revoked: None,
            last_seen: None,
            info,
            epoch: None,
            behind_events: 0,
            clock_offset_ms: 0,
        };
        self.store.change(&[Change::replace(&kept, revision), Change::insert(&node)], Durability::Synced)?;
        self.note_copy(|| Member::Node(Box::new(node.clone())));
        self.put(|t| {
            t.nodes.insert(id, Versioned { revision: 1, record: node.clone() });
        });
        Ok(node)
    }

    /// Notes the next certificate of a node. The active one stays good until the next one is used; asking again
    /// replaces the next one.
    ///
    /// # Errors
    /// [`RegistryError`]; a certificate that expired within the grace is taken, any other refusal stands.
    pub fn renew(
        &self,
        id: NodeId,
        shown: &Certificate,
        issue: impl FnOnce() -> Result<Certificate, crate::ca::CaError>,
    ) -> Result<(), RegistryError> {
        let _guard = self.one_at_a_time();
        match self.node_standing(id, shown) {
            Ok(_) | Err(Refusal::Expired) => {}
            Err(refusal) => return Err(refusal.into()),
        }
        let certificate = issue()?;
        let now = self.clock.now();
        self.update_locked(id, Durability::Synced, |node| {
            // A pending certificate that asks for the next one is in use by now.
            if is(node.pending.as_ref(), shown) {
                activate(node);
            }
            // One that was never used and is shown later was not asked for by the node.
            if let Some(unused) = node.pending.replace(record_of(&certificate, now)) {
                retire(node, unused);
            }
        })
    }

    /// Makes the pending certificate, which was just used, the active one.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn promote(&self, id: NodeId, shown: &Certificate) -> Result<(), RegistryError> {
        let _guard = self.one_at_a_time();
        if self.node_standing(id, shown)? == Standing::Active {
            return Ok(());
        }
        self.update_locked(id, Durability::Synced, activate)
    }

    /// Makes all certificates of a node worthless. The caller cuts its connections.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn revoke_node(&self, id: NodeId, by: &str, reason: &str) -> Result<(), RegistryError> {
        let revocation = Revocation { at: self.clock.now(), by: by.to_owned(), reason: reason.to_owned() };
        let _guard = self.one_at_a_time();
        self.update_locked(id, Durability::Synced, |node| {
            node.revoked.get_or_insert(revocation);
        })
    }

    /// Notes what a node says of itself or when it was heard of. May be lost in a crash.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn note(&self, id: NodeId, note: impl FnOnce(&mut NodeRecord)) -> Result<(), RegistryError> {
        let _guard = self.one_at_a_time();
        self.update_locked(id, Durability::Soon, note)
    }

    fn update_locked(
        &self,
        id: NodeId,
        durability: Durability,
        change: impl FnOnce(&mut NodeRecord),
    ) -> Result<(), RegistryError> {
        let known = self.look(|t| t.nodes.get(&id).cloned());
        let Some(Versioned { revision, mut record }) = known else {
            return Err(RegistryError::NoNode(id.to_string()));
        };
        change(&mut record);
        self.store.change(&[Change::replace(&record, revision)], durability)?;
        if durability == Durability::Synced {
            self.note_copy(|| Member::Node(Box::new(record.clone())));
        }
        self.put(|t| {
            t.nodes.insert(id, Versioned { revision: revision.saturating_add(1), record });
        });
        Ok(())
    }

    // --- tokens

    /// Keeps a new token; of its secret only the hash.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn add_token(
        &self,
        token: &EnrollToken,
        ttl: Duration,
        uses: u32,
        labels: Labels,
        by: &str,
    ) -> Result<TokenRecord, StoreError> {
        let _guard = self.one_at_a_time();
        let now = self.clock.now();
        let record = TokenRecord {
            id: token.id.to_string(),
            secret_sha256: hex::encode(token.secret_hash()),
            created_at: now,
            created_by: by.to_owned(),
            expires_at: now.saturating_add(ttl).unwrap_or(Timestamp::MAX),
            uses_left: uses,
            labels,
        };
        let mut changes = vec![Change::insert(&record)];
        let forgotten = now.saturating_sub(TOKEN_MEMORY).unwrap_or(Timestamp::MIN);
        let old = self.store.load_all::<TokenRecord>()?.into_iter().filter(|t| t.record.expires_at < forgotten);
        // Not too many at a time: a change is one unit in the store.
        changes.extend(old.take(64).map(|t| Change::delete::<TokenRecord>(t.record.id)));
        self.store.change(&changes, Durability::Synced)?;
        Ok(record)
    }

    /// Tokens that can still be used, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let now = self.clock.now();
        let mut tokens: Vec<_> = self.store.load_all::<TokenRecord>()?.into_iter().map(|t| t.record).collect();
        tokens.retain(|t| t.expires_at > now && t.uses_left > 0);
        tokens.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(tokens)
    }

    /// Makes a token worthless.
    ///
    /// # Errors
    /// [`RegistryError::NoToken`].
    pub fn revoke_token(&self, id: &TokenId) -> Result<(), RegistryError> {
        let _guard = self.one_at_a_time();
        if self.store.load::<TokenRecord>(id.as_str())?.is_none() {
            return Err(RegistryError::NoToken(id.to_string()));
        }
        Ok(self.store.change(&[Change::delete::<TokenRecord>(id.as_str())], Durability::Synced)?)
    }

    // --- operators

    /// What an operator with this certificate may do.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn operator_role(&self, name: &OperatorName, certificate: &Certificate) -> Result<OperatorRole, Refusal> {
        let now = self.clock.now();
        self.look(|t| {
            let operator = &t.operators.get(name.as_str()).ok_or(Refusal::Unknown)?.record;
            if !is(Some(&operator.certificate), certificate) {
                return Err(Refusal::Replaced);
            }
            if operator.revoked.is_some() {
                return Err(Refusal::Revoked);
            }
            if certificate.not_after < now { Err(Refusal::Expired) } else { Ok(operator.role) }
        })
    }

    /// Notes an operator. The name must be free, or its holder revoked or expired, or `replace` be set.
    ///
    /// # Errors
    /// [`RegistryError::OperatorExists`].
    pub fn add_operator(
        &self,
        name: &OperatorName,
        role: OperatorRole,
        certificate: &Certificate,
        replace: bool,
    ) -> Result<(), RegistryError> {
        let _guard = self.one_at_a_time();
        let now = self.clock.now();
        let known = self.look(|t| t.operators.get(name.as_str()).cloned());
        let free = known
            .as_ref()
            .is_none_or(|k| replace || k.record.revoked.is_some() || k.record.certificate.not_after < now);
        if !free {
            return Err(RegistryError::OperatorExists(name.to_string()));
        }
        let record = OperatorRecord {
            name: name.to_string(),
            role,
            created_at: now,
            certificate: record_of(certificate, now),
            revoked: None,
        };
        let (change, revision) = match known {
            Some(k) => (Change::replace(&record, k.revision), k.revision.saturating_add(1)),
            None => (Change::insert(&record), 1),
        };
        self.store.change(&[change], Durability::Synced)?;
        self.note_copy(|| Member::Operator(record.clone()));
        self.put(|t| {
            t.operators.insert(name.to_string(), Versioned { revision, record });
        });
        Ok(())
    }

    /// Operators, by name.
    pub fn operators(&self) -> Vec<OperatorRecord> {
        let mut all: Vec<_> = self.look(|t| t.operators.values().map(|o| o.record.clone()).collect());
        all.sort_by(|a: &OperatorRecord, b| a.name.cmp(&b.name));
        all
    }

    /// Makes an operator's certificate worthless. The caller cuts its connections.
    ///
    /// # Errors
    /// [`RegistryError::NoOperator`].
    pub fn revoke_operator(&self, name: &OperatorName, by: &str) -> Result<(), RegistryError> {
        let _guard = self.one_at_a_time();
        let known = self.look(|t| t.operators.get(name.as_str()).cloned());
        let Some(Versioned { revision, mut record }) = known else {
            return Err(RegistryError::NoOperator(name.to_string()));
        };
        let at = self.clock.now();
        record.revoked.get_or_insert(Revocation { at, by: by.to_owned(), reason: String::new() });
        self.store.change(&[Change::replace(&record, revision)], Durability::Synced)?;
        self.note_copy(|| Member::Operator(record.clone()));
        self.put(|t| {
            t.operators.insert(record.name.clone(), Versioned { revision: revision.saturating_add(1), record });
        });
        Ok(())
    }
}

/// The pending certificate becomes the active one, the active one history.
fn activate(node: &mut NodeRecord) {
    let Some(next) = node.pending.take() else { return };
    if let Some(old) = node.active.replace(next) {
        retire(node, old);
    }
}

fn retire(node: &mut NodeRecord, certificate: CertificateRecord) {
    node.past.push(certificate);
    let surplus = node.past.len().saturating_sub(PAST_CERTIFICATES);
    node.past.drain(..surplus);
}
