//! The commands: each parses nothing and prints what others computed.

pub mod audit;
pub mod certs;
pub mod config;
pub mod enroll;
pub mod explain;
pub mod fix;
pub mod queue;
pub mod rules;
pub mod run;
pub mod scan;
pub mod status;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_checks::Policy;
use picket_host::Host;
use picket_service::clock::{Clock, FixedClock, SystemClock};

use crate::cli::Failure;
use crate::local::{Local, Places};

/// Which node to look at: options of every one-shot command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Node {
    /// A folder that stands for the node, such as a mounted disk or an unpacked image; nothing outside it is read
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The /proc whose kernel parameters belong to --root (there is none otherwise)
    #[arg(long, value_name = "DIR", requires = "root")]
    pub proc: Option<PathBuf>,
}

impl Node {
    /// The host these options name, with its clock standing at `at` where that is given.
    ///
    /// # Errors
    /// [`Failure::Failed`] when the folder cannot be used.
    pub fn host(&self, at: Option<Timestamp>) -> Result<Host, Failure> {
        let clock: Arc<dyn Clock> = match at {
            Some(at) => Arc::new(FixedClock(at)),
            None => Arc::new(SystemClock),
        };
        let host = match &self.root {
            None => Host::live(clock),
            Some(root) => Host::rooted(root, clock),
        };
        let host = match &self.proc {
            None => host,
            Some(proc) => host.and_then(|host| host.with_proc(proc)),
        };
        host.map_err(|e| Failure::failed("cannot look at the node", e))
    }
}

/// Refuses a folder given as root that is none: a typo must not look like an empty node.
///
/// # Errors
/// [`Failure::Usage`].
pub fn is_folder(path: &Path) -> Result<(), Failure> {
    if path.is_dir() { Ok(()) } else { Err(Failure::Usage(format!("--root {}: no such folder", path.display()))) }
}

/// Every control, those of the node's administrators included; these ids must be among them.
///
/// # Errors
/// [`Failure::Usage`] for an id that does not exist, with those that look like it.
pub fn all_controls(host: &Host, ids: &[String]) -> Result<Policy, Failure> {
    let built_in = crate::rules::policy().map_err(|e| Failure::failed("cannot read the catalogue of controls", e))?;
    let places = Places::default();
    let policy = Local::read(&built_in, (host, &places.controls), (host, &places.waivers)).policy;
    let Some(id) = ids.iter().find(|id| policy.catalogue.get(id).is_none()) else { return Ok(policy) };
    let words: Vec<&str> = id.split('-').filter(|word| word.len() > 2).collect();
    let hits = |known: &str| words.iter().filter(|word| known.contains(*word)).count();
    let mut like: Vec<(usize, &str)> = policy
        .catalogue
        .controls()
        .iter()
        .map(|control| (hits(&control.id), control.id.as_str()))
        .filter(|(hits, _)| *hits > 0)
        .collect();
    like.sort_by_key(|(hits, id)| (std::cmp::Reverse(*hits), *id));
    let like: Vec<&str> = like.into_iter().take(5).map(|(_, id)| id).collect();
    let hint = if like.is_empty() { String::new() } else { format!("; like it: {}", like.join(", ")) };
    let id = crate::report::text::printable(id);
    Err(Failure::Usage(format!("{id}: no such control (`picketd scan -o csv` lists them){hint}")))
}

/// The role a person gives on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RoleAsked {
    /// Found out from the node.
    #[default]
    Auto,
    /// A server.
    Server,
    /// An agent.
    Agent,
}

impl RoleAsked {
    /// The role, if one was given.
    pub const fn role(self) -> Option<picket_model::Role> {
        match self {
            Self::Auto => None,
            Self::Server => Some(picket_model::Role::Server),
            Self::Agent => Some(picket_model::Role::Agent),
        }
    }
}
