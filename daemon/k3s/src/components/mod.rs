//! The flags K3s passes to each component: its own defaults with the user's arguments laid over them.
//!
//! Facts: K3s `pkg/daemons/control/server.go`, `pkg/daemons/agent/agent_linux.go`, read from v1.31 to v1.36.

mod agent;
mod args;
mod server;

pub(crate) use args::{KubeletArgs, Mode, UserArg, arg_value, cut, get_args, kubelet_args};
pub(crate) use server::unseen_datastore;

use std::collections::BTreeMap;
use std::net::IpAddr;

use picket_model::Role;
use picket_model::flag_value::{boolean, whole};

use crate::HostFacts;
use crate::argv::Given;
use crate::effective::Flags;
use crate::files::NodeFiles;
use crate::options::Known;
use crate::version::K3sVersion;

/// What the flags are made from.
pub(crate) struct Inputs<'a> {
    pub(crate) files: &'a dyn NodeFiles,
    pub(crate) role: Role,
    pub(crate) version: K3sVersion,
    pub(crate) given: &'a [Given],
    pub(crate) known: &'a Known,
    pub(crate) host: Option<&'a HostFacts>,
}

/// A component's own defaults.
pub(crate) type Defaults = BTreeMap<String, String>;

/// The components of a node and their flags.
pub(crate) fn components(inputs: &Inputs<'_>) -> BTreeMap<String, Flags> {
    let mut out = BTreeMap::new();
    if inputs.role == Role::Server {
        // Such a start resets the datastore and ends.
        if inputs.on("cluster-reset") {
            return out;
        }
        server::add(inputs, &mut out);
    }
    if inputs.role == Role::Agent || !inputs.on("disable-agent") {
        agent::add(inputs, &mut out);
    }
    out
}

impl<'a> Inputs<'a> {
    /// The value in force: the last one given, else K3s' default. Empty counts as not set.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        match self.given.iter().rev().find(|g| g.known && g.name == name) {
            Some(given) => Some(given.value.as_str()).filter(|v| !v.is_empty()),
            None => self.known.get(name).and_then(|o| o.default.as_deref()),
        }
    }

    pub(crate) fn on(&self, name: &str) -> bool {
        self.text(name).and_then(boolean).unwrap_or(false)
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(whole).filter(|n| *n != 0)
    }

    /// All values of a list option, split at commas as K3s does for some.
    pub(crate) fn split_list(&self, name: &str) -> Vec<&'a str> {
        self.given
            .iter()
            .filter(|g| g.known && g.name == name)
            .flat_map(|g| g.value.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .collect()
    }

    /// Arguments for a component, under one or more option names, in the order K3s sees them.
    pub(crate) fn user_args(&self, names: &[&str]) -> Vec<UserArg> {
        user_args(self.given, names)
    }

    pub(crate) fn data_dir(&self) -> String {
        data_dir(self.text("data-dir"))
    }

    pub(crate) fn service_cidrs(&self) -> String {
        let given = self.split_list("service-cidr");
        if given.is_empty() {
            return if self.node_address_is_v6() == Some(true) { "fd00:43::/112" } else { "10.43.0.0/16" }.to_owned();
        }
        given.into_iter().map(network).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn cluster_cidrs(&self) -> String {
        let given = self.split_list("cluster-cidr");
        if given.is_empty() {
            return if self.node_address_is_v6() == Some(true) { "fd00:42::/56" } else { "10.42.0.0/16" }.to_owned();
        }
        given.into_iter().map(network).collect::<Vec<_>>().join(",")
    }

    /// Whether the first address given for the node is of IPv6: that decides the default networks. None without one.
    fn node_address_is_v6(&self) -> Option<bool> {
        self.split_list("node-ip").first().map(|ip| ip.contains(':'))
    }

    /// The address control-plane components bind to: of the family of the first service network.
    pub(crate) fn loopback(&self) -> &'static str {
        loopback(first_is_v6(&self.service_cidrs()))
    }

    /// Whether kubelet and kube-proxy count the node as one of IPv6: by its first address, after K3s has put one of the
    /// cluster network's family first.
    pub(crate) fn node_is_v6(&self) -> bool {
        let cluster = first_is_v6(&self.cluster_cidrs());
        let ips = self.split_list("node-ip");
        match ips.as_slice() {
            [] => cluster,
            [only] => only.contains(':'),
            [first, second, ..] => {
                if first.contains(':') == cluster {
                    cluster
                } else {
                    second.contains(':')
                }
            }
        }
    }

    /// The loopback address kubelet and kube-proxy answer health checks on.
    pub(crate) fn node_loopback(&self) -> &'static str {
        loopback(self.node_is_v6())
    }

    pub(crate) fn node_name(&self) -> Option<String> {
        let name = self.text("node-name").map(str::to_owned).or_else(|| self.host.and_then(|h| h.hostname.clone()))?;
        // With `with-node-id` a random part is added that no file of this kind tells.
        (!self.on("with-node-id")).then(|| name.to_lowercase())
    }

    pub(crate) fn verbosity(&self, defaults: &mut Defaults) {
        if let Some(v) = self.number("v") {
            defaults.insert("v".to_owned(), v.to_string());
        }
        if let Some(v) = self.text("vmodule") {
            defaults.insert("vmodule".to_owned(), v.to_owned());
        }
    }

    /// Defaults of the May 2025 patches: own serving certificates, no `anonymous-auth` beside an authentication file.
    pub(crate) fn since_may_2025(&self) -> bool {
        let v = self.version;
        match v.minor {
            ..=31 => v.at_least(31, 9),
            32 => v.at_least(32, 5),
            _ => v.at_least(33, 1),
        }
    }

    /// Defaults of the April 2025 patches: no `authorization-mode` beside an authorization file.
    pub(crate) fn since_april_2025(&self) -> bool {
        let v = self.version;
        match v.minor {
            ..=31 => v.at_least(31, 8),
            32 => v.at_least(32, 4),
            _ => true,
        }
    }

    /// 1.32.0 to 1.32.3 took the flag that closes the kubelet's port without authentication for a setting of the file,
    /// where its zero is lost (CVE-2025-46599).
    pub(crate) fn closes_read_only_port(&self) -> bool {
        !self.kubelet_has_files() || self.version.at_least(32, 4)
    }

    /// From 1.32 on the kubelet is configured by files.
    pub(crate) fn kubelet_has_files(&self) -> bool {
        self.version.at_least(32, 0)
    }
}

/// Arguments for a component, under one or more option names.
pub(crate) fn user_args(given: &[Given], names: &[&str]) -> Vec<UserArg> {
    given
        .iter()
        .filter(|g| g.known && names.contains(&g.name.as_str()))
        .map(|g| UserArg { text: g.value.clone(), path: g.path.clone(), line: g.line, layer: g.layer })
        .collect()
}

/// The data dir without a slash at its end.
pub(crate) fn data_dir(option: Option<&str>) -> String {
    let dir = option.filter(|d| !d.is_empty()).unwrap_or("/var/lib/rancher/k3s");
    let dir = dir.trim_end_matches('/');
    if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") }
}

/// Whether the first of these networks is of IPv6.
fn first_is_v6(networks: &str) -> bool {
    networks.split(',').next().is_some_and(|network| network.contains(':'))
}

const fn loopback(v6: bool) -> &'static str {
    if v6 { "::1" } else { "127.0.0.1" }
}

/// A network as Go prints it: host bits cleared.
fn network(cidr: &str) -> String {
    let parts = cidr.split_once('/').and_then(|(ip, bits)| Some((ip.parse().ok()?, bits.parse::<u32>().ok()?)));
    match parts {
        Some((IpAddr::V4(ip), bits)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            format!("{}/{bits}", std::net::Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        Some((IpAddr::V6(ip), bits)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            format!("{}/{bits}", std::net::Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
        _ => cidr.to_owned(),
    }
}

/// Puts pairs into a map.
pub(crate) fn put<V: Into<String>, const N: usize>(defaults: &mut Defaults, pairs: [(&str, V); N]) {
    for (name, value) in pairs {
        defaults.insert(name.to_owned(), value.into());
    }
}
