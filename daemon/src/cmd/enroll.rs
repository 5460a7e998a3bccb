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
    let enrolment = Enrolment {
        collector: args.collector.clone(),
        server_name: args.server_name.clone(),
        token: args.token()?,
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

/// What is known before anything of K3s was read; the daemon says the rest when it runs.
fn this_machine() -> NodeInfo {
    let line = |path| std::fs::read_to_string(path).map(|t: String| t.trim().to_owned()).unwrap_or_default();
    NodeInfo {
        hostname: line("/proc/sys/kernel/hostname"),
        role: None,
        k3s_version: None,
        picket_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: line("/proc/sys/kernel/osrelease"),
    }
}
