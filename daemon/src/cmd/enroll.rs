//! `picketd enroll`: a one-time token becomes this node's identity.

use std::io::Write;
use std::path::PathBuf;

use picket_model::NodeInfo;
use picket_service::tls::connector::Address;
use picket_service::tls::token::EnrollToken;
use zeroize::Zeroizing;

use crate::cli::{Failure, Outcome};
use crate::enrol::{Enrolment, enrol};
use crate::identity::IdentityFolder;

/// Options of `picketd enroll`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the collector is; port 7443 when none is named
    #[arg(long, value_name = "HOST:PORT", env = "PICKET_COLLECTOR")]
    collector: Address,
    /// The token that `picket-collector token create` printed. Better in PICKET_TOKEN or a file: every user of this
    /// machine can read the arguments of a process
    #[arg(long, value_name = "TOKEN", env = "PICKET_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the token; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The name to check the collector's certificate for, where it is not HOST
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Where picketd keeps its state
    #[arg(long, value_name = "DIR", env = "PICKET_STATE_DIR", default_value = "/var/lib/picket")]
    state_dir: PathBuf,
    /// Enrol again, giving up the identity this node has
    #[arg(long)]
    force: bool,
}

impl std::fmt::Debug for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the token.
        f.debug_struct("Args")
            .field("collector", &self.collector)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

impl Args {
    fn token(&self) -> Result<EnrollToken, Failure> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => {
                if std::env::args().any(|argument| argument.contains(token.as_str())) {
                    eprintln!(
                        "hint: other users could read the token among the process' arguments; \
                         PICKET_TOKEN or --token-file keep it to yourself"
                    );
                }
                Zeroizing::new(token.clone())
            }
            (None, Some(path)) if path.as_os_str() == "-" => read_token(std::io::stdin().lock(), "standard input")?,
            (None, Some(path)) => {
                let place = path.display().to_string();
                let file = std::fs::File::open(path)
                    .map_err(|e| Failure::failed(format!("cannot read the token file {place}"), e))?;
                read_token(file, &place)?
            }
            (None, None) => {
                return Err(Failure::Usage(
                    "a token is needed: --token TOKEN, --token-file FILE or PICKET_TOKEN; \
                     `picket-collector token create` on the collector's host prints one"
                        .to_owned(),
                ));
            }
        };
        text.parse().map_err(|e: picket_service::tls::token::TokenError| Failure::Usage(e.to_string()))
    }
}

fn read_token(from: impl std::io::Read, place: &str) -> Result<Zeroizing<String>, Failure> {
    use std::io::Read as _;
    let mut text = Zeroizing::new(String::new());
    from.take(4096)
        .read_to_string(&mut text)
        .map_err(|e| Failure::failed(format!("cannot read the token from {place}"), e))?;
    Ok(text)
}

/// Enrols this node.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    picket_service::private::keep_private().map_err(|e| Failure::failed("cannot start", e))?;
    // Read first: root may read a file that the daemon's user may not.
    let token = args.token()?;
    become_owner(&args.state_dir)?;
    let enrolment = Enrolment {
        collector: args.collector.clone(),
        server_name: args.server_name.clone(),
        token,
        info: this_machine(),
        state: &args.state_dir,
        force: args.force,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed("cannot start", e))?;
    let enrolled = runtime.block_on(Box::pin(enrol(enrolment))).map_err(|e| Failure::failed("not enrolled", e))?;
    writeln!(
        out,
        "enrolled at {} as node {}; the certificate lasts until {:.0} and is renewed in time\nidentity: {}\nnext: systemctl enable --now picketd",
        args.collector,
        enrolled.node_id,
        enrolled.not_after,
        IdentityFolder::of(&args.state_dir).path().display()
    )
    .map_err(Failure::output)?;
    Ok(Outcome::Clean)
}

/// Run by root for a state folder that belongs to the daemon's own user, everything from here on is done as that
/// user: the identity is then the daemon's to renew, and no link in a folder that another user controls can lead root
/// elsewhere. A folder that is not there yet is root's until the service's first start hands it over.
fn become_owner(state_dir: &std::path::Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;

    use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
    if !geteuid().is_root() {
        return Ok(());
    }
    let meta = match std::fs::metadata(state_dir) {
        Ok(meta) if meta.uid() != 0 => meta,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::failed(format!("cannot look at {}", state_dir.display()), error)),
    };
    let (user, group) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    setgroups(&[group])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|e| {
            Failure::failed(
                format!(
                    "cannot act as user {user}, to whom {} belongs; run this as that user (sudo -u picket picketd enroll …)",
                    state_dir.display()
                ),
                std::io::Error::from(e),
            )
        })
}

/// What is known before anything of K3s was read; the daemon says the rest when it runs.
fn this_machine() -> NodeInfo {
    let line = |path| std::fs::read_to_string(path).map(|t: String| t.trim().to_owned()).unwrap_or_default();
    NodeInfo {
        hostname: line("/proc/sys/kernel/hostname"),
        role: None,
        k3s_version: None,
        picket_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: line("/proc/sys/kernel/osrelease"),
        token_since: None,
    }
}
