//! The operator's connection to the collector.

use std::path::PathBuf;

use anyhow::Context as _;
use picket_proto::{limits, v1};
use picket_service::operator_file::OperatorFile;
use picket_service::tls::connector::Dialer;
use tonic::transport::Channel;

/// A connection to one collector as one operator.
pub(crate) struct Session {
    dialer: Dialer,
}

impl Session {
    /// Reads the operator's file: `--config` or `PICKETCTL_CONFIG`, else `~/.config/picket/config`.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub(crate) fn open(config: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = config.or_else(default_path).context(
            "no operator's file: give --config FILE or set PICKETCTL_CONFIG; `picket-collector operator create` makes one",
        )?;
        let dialer = OperatorFile::read(&path)?.dialer(&path)?;
        Ok(Self { dialer })
    }

    /// The service that answers questions.
    ///
    /// # Errors
    /// When the collector cannot be reached, with the reason.
    pub(crate) async fn fleet(&self) -> anyhow::Result<v1::fleet_client::FleetClient<Channel>> {
        let channel = self.dialer.connect().await?;
        // Pages are the largest answers; the collector keeps them below the limit of a message.
        Ok(v1::fleet_client::FleetClient::new(channel)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
            .max_decoding_message_size(limits::MESSAGE_BYTES * 4))
    }

    /// What a refusal means, in words.
    pub(crate) fn explain(&self, status: &tonic::Status) -> String {
        self.dialer.explain(status)
    }
}

fn default_path() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("picket/config"))
}
