//! kubelet and kube-proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use picket_model::Role;

use super::{Defaults, Inputs, get_args, kubelet_args, put};
use crate::effective::Flags;

/// Socket of the containerd inside K3s.
const CONTAINERD: &str = "/run/k3s/containerd/containerd.sock";

pub(super) fn add(inputs: &Inputs<'_>, out: &mut BTreeMap<String, Flags>) {
    out.insert("kubelet".to_owned(), kubelet(inputs));
    if !inputs.on("disable-kube-proxy") {
        out.insert("kube-proxy".to_owned(), kube_proxy(inputs));
    }
}

fn kube_proxy(inputs: &Inputs<'_>) -> Flags {
    let mut d = Defaults::new();
    put(
        &mut d,
        [
            ("proxy-mode", "iptables".to_owned()),
            ("healthz-bind-address", inputs.node_loopback().to_owned()),
            ("kubeconfig", format!("{}/agent/kubeproxy.kubeconfig", inputs.data_dir())),
            ("cluster-cidr", inputs.cluster_cidrs()),
            ("conntrack-max-per-core", "0".to_owned()),
            ("conntrack-tcp-timeout-established", "0s".to_owned()),
            ("conntrack-tcp-timeout-close-wait", "0s".to_owned()),
        ],
    );
    if let Some(name) = inputs.node_name() {
        put(&mut d, [("hostname-override", name)]);
    }
    if let Some(log) = inputs.text("log") {
        put(&mut d, [("log_file", log)]);
    }
    if inputs.on("alsologtostderr") {
        put(&mut d, [("alsologtostderr", "true")]);
    }
    inputs.verbosity(&mut d);
    get_args(&d, &inputs.user_args(&["kube-proxy-arg"]))
}

fn kubelet(inputs: &Inputs<'_>) -> Flags {
    let agent = format!("{}/agent", inputs.data_dir());
    let mut d = Defaults::new();
    put(&mut d, [("kubeconfig", format!("{agent}/kubelet.kubeconfig")), ("node-labels", labels(inputs))]);
    if inputs.closes_read_only_port() {
        put(&mut d, [("read-only-port", "0")]);
    }
    if inputs.on("rootless") {
        put(&mut d, [("root-dir", format!("{agent}/kubelet")), ("cert-dir", format!("{agent}/kubelet/pki"))]);
    }
    // Whether an agent gets this flag is decided by its server.
    if inputs.role == Role::Server && !inputs.on("disable-cloud-controller") {
        put(&mut d, [("cloud-provider", "external")]);
    }
    let socket = socket(inputs);
    if socket.contains("containerd") {
        put(&mut d, [("containerd", socket)]);
    }
    if let Some(name) = inputs.node_name() {
        put(&mut d, [("hostname-override", name)]);
    }
    if let Some(address) = node_ip(inputs) {
        put(&mut d, [("node-ip", address)]);
    }
    let provider =
        inputs.text("image-credential-provider-bin-dir").zip(inputs.text("image-credential-provider-config"));
    if let Some((folder, config)) = provider
        && inputs.files.has_dir(folder)
        && inputs.files.has_file(config)
    {
        put(&mut d, [("image-credential-provider-bin-dir", folder), ("image-credential-provider-config", config)]);
    }
    if inputs.on("rootless") {
        // K3s keeps this under a name of its own, beside other feature gates.
        put(&mut d, [("feature-gates=KubeletInUserNamespace", "true")]);
    }
    let user = inputs.user_args(&["kubelet-arg"]);
    if inputs.kubelet_has_files() {
        put(&mut d, [("config-dir", format!("{agent}/etc/kubelet.conf.d"))]);
        get_args(&d, &kubelet_args(user).kept)
    } else {
        before_files(inputs, &agent, socket, &mut d);
        get_args(&d, &user)
    }
}

/// The flags that became a file in 1.32.
fn before_files(inputs: &Inputs<'_>, agent: &str, socket: &str, d: &mut Defaults) {
    let address = inputs.text("bind-address").unwrap_or(if inputs.node_is_v6() { "::" } else { "0.0.0.0" });
    put(
        d,
        [
            ("client-ca-file", format!("{agent}/client-ca.crt")),
            ("tls-cert-file", format!("{agent}/serving-kubelet.crt")),
            ("tls-private-key-file", format!("{agent}/serving-kubelet.key")),
            ("pod-manifest-path", format!("{agent}/pod-manifests")),
            ("container-runtime-endpoint", unix(socket)),
            ("cluster-dns", cluster_dns(inputs)),
            ("cluster-domain", inputs.text("cluster-domain").unwrap_or("cluster.local").to_owned()),
        ],
    );
    put(
        d,
        [
            ("address", address),
            ("healthz-bind-address", inputs.node_loopback()),
            ("anonymous-auth", "false"),
            ("authentication-token-webhook", "true"),
            ("authorization-mode", "Webhook"),
            ("eviction-hard", "imagefs.available<5%,nodefs.available<5%"),
            ("eviction-minimum-reclaim", "imagefs.available=10%,nodefs.available=10%"),
            ("fail-swap-on", "false"),
            ("serialize-image-pulls", "false"),
        ],
    );
    if !(inputs.role == Role::Server && inputs.on("disable-cloud-controller")) {
        put(d, [("feature-gates", "CloudDualStackNodeIPs=true")]);
    }
    if let Some(socket) = inputs.text("image-service-endpoint") {
        put(d, [("image-service-endpoint", unix(socket))]);
    }
    inputs.verbosity(d);
    if !(inputs.role == Role::Server && inputs.split_list("disable").contains(&"servicelb")) {
        put(d, [("allowed-unsafe-sysctls", "net.ipv4.ip_forward,net.ipv6.conf.all.forwarding")]);
    }
    if inputs.on("protect-kernel-defaults") {
        put(d, [("protect-kernel-defaults", "true")]);
    }
    if let Some(path) = inputs.text("resolv-conf") {
        put(d, [("resolv-conf", path)]);
    }
    let taints: Vec<String> =
        inputs.user_args(&["node-taint"]).into_iter().map(|a| a.text).filter(|t| !t.is_empty()).collect();
    if !taints.is_empty() {
        put(d, [("register-with-taints", taints.join(","))]);
    }
}

fn labels(inputs: &Inputs<'_>) -> String {
    inputs.user_args(&["node-label"]).into_iter().map(|a| a.text).collect::<Vec<_>>().join(",")
}

fn socket<'a>(inputs: &Inputs<'a>) -> &'a str {
    if inputs.on("docker") {
        return "unix:///run/k3s/cri-dockerd/cri-dockerd.sock";
    }
    inputs.text("container-runtime-endpoint").unwrap_or(CONTAINERD)
}

fn unix(socket: &str) -> String {
    if socket.starts_with("unix://") { socket.to_owned() } else { format!("unix://{socket}") }
}

/// Depends on the running host; none where a folder stands for it.
fn node_ip(inputs: &Inputs<'_>) -> Option<String> {
    let host = inputs.host?;
    let given = inputs.split_list("node-ip");
    let ips: Vec<&str> = if given.is_empty() { host.node_ips.iter().map(String::as_str).collect() } else { given };
    let v6 = |ip: &&str| ip.contains(':');
    let dual = ips.iter().any(v6) && !ips.iter().all(v6);
    let external_cloud = inputs.role == Role::Server && inputs.on("disable-cloud-controller");
    match (ips.first(), external_cloud) {
        (None, _) => None,
        (Some(_), true) if dual => None,
        (Some(first), true) => Some((*first).to_owned()),
        (Some(_), false) => Some(ips.join(",")),
    }
}

/// The tenth address of the service network, unless the option is set.
fn cluster_dns(inputs: &Inputs<'_>) -> String {
    let given = inputs.split_list("cluster-dns");
    if !given.is_empty() {
        return given.join(",");
    }
    let address = |cidr: &str| {
        let (ip, _) = cidr.split_once('/')?;
        match ip.parse().ok()? {
            IpAddr::V4(ip) => Some(Ipv4Addr::from_bits(ip.to_bits().saturating_add(10)).to_string()),
            IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits().saturating_add(10)).to_string()),
        }
    };
    inputs.service_cidrs().split(',').filter_map(address).collect::<Vec<_>>().join(",")
}
