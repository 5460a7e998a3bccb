//! What is known of the site: lists that switch rules on or make them quieter.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Site lists. All empty by default.
#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Site {
    /// User names that are no news (`unknown-user`).
    pub allowed_users: Vec<String>,
    /// Image prefixes, registry included; empty switches `image-not-allowed` off.
    pub allowed_registries: Vec<String>,
    /// Node names that may join quietly (`node-joined` then is `info`).
    pub allowed_nodes: Vec<String>,
    /// Namespaces that may be created quietly.
    pub allowed_namespaces: Vec<String>,
    /// Addresses or CIDR blocks nobody should come from; empty switches `source-on-blocklist` off.
    pub blocked_addresses: Vec<String>,
    /// Networks of the cluster: nodes, pods, services. Public addresses in them are its own, and a service account's
    /// token used from elsewhere is out of place; empty: every address that is not public is taken for the cluster's.
    pub cluster_networks: Vec<String>,
    /// Lists of the site's own rules, for their placeholders: `field|expand: '%name%'`.
    pub lists: BTreeMap<String, Vec<String>>,
}

impl Site {
    /// Takes out entries that are no address or block, and gives them back. One in the cluster's networks takes all of
    /// those out.
    pub(crate) fn drop_wrong_networks(&mut self) -> Vec<String> {
        let mut wrong: Vec<String> = self.cluster_networks.iter().filter(|block| !is_block(block)).cloned().collect();
        if !wrong.is_empty() {
            self.cluster_networks.clear();
        }
        wrong.extend(self.blocked_addresses.extract_if(.., |block| !is_block(block)));
        wrong
    }

    pub(crate) fn allows_user(&self, user: &str) -> bool {
        self.allowed_users.iter().any(|allowed| allowed == user)
    }

    pub(crate) fn allows_node(&self, node: &str) -> bool {
        self.allowed_nodes.iter().any(|allowed| allowed == node)
    }

    pub(crate) fn allows_namespace(&self, namespace: &str) -> bool {
        self.allowed_namespaces.iter().any(|allowed| allowed == namespace)
    }

    pub(crate) fn refuses_image(&self, image: &str) -> bool {
        !self.allowed_registries.is_empty()
            && !self.allowed_registries.iter().any(|prefix| image.starts_with(prefix.as_str()))
    }

    pub(crate) fn is_blocked(&self, address: &str) -> bool {
        is_within(&self.blocked_addresses, address)
    }

    pub(crate) fn is_of_cluster(&self, address: &str) -> bool {
        is_within(&self.cluster_networks, address)
    }

    /// The list a placeholder of this name stands for.
    pub(crate) fn list(&self, name: &str) -> Option<&[String]> {
        Some(match name {
            "allowed_users" => &self.allowed_users,
            "allowed_registries" => &self.allowed_registries,
            "allowed_nodes" => &self.allowed_nodes,
            "allowed_namespaces" => &self.allowed_namespaces,
            "blocked_addresses" => &self.blocked_addresses,
            "cluster_networks" => &self.cluster_networks,
            name => self.lists.get(name)?,
        })
    }

    /// Names of all lists.
    pub(crate) fn list_names(&self) -> Vec<&str> {
        let own = self.lists.keys().map(String::as_str);
        [
            "allowed_users",
            "allowed_registries",
            "allowed_nodes",
            "allowed_namespaces",
            "blocked_addresses",
            "cluster_networks",
        ]
        .into_iter()
        .chain(own)
        .collect()
    }
}

fn is_block(block: &str) -> bool {
    let (base, bits) = block.split_once('/').map_or((block, None), |(base, bits)| (base, Some(bits)));
    let most = match base.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.is_none_or(|bits| bits.parse::<u32>().is_ok_and(|bits| bits <= most))
}

fn is_within(blocks: &[String], address: &str) -> bool {
    !blocks.is_empty()
        && address.parse::<IpAddr>().is_ok_and(|address| blocks.iter().any(|block| contains(block, address)))
}

fn contains(block: &str, address: IpAddr) -> bool {
    let (base, bits) = block.split_once('/').map_or((block, None), |(base, bits)| (base, Some(bits)));
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.map_or(Ok(128), str::parse::<u32>)) else { return false };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}
