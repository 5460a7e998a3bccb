//! Flags no component has: each component ends at an unknown flag, and takes K3s with it (facts 2.1).
//!
//! Not every flag of every version stands here. What is told is sure: a name no flag can have, one that was removed long
//! before the versions judged here, and one that differs from a flag's name in dashes, underscores or capitals alone.

/// Options with arguments for a component, and the component.
const COMPONENTS: [(&str, &str); 8] = [
    ("kube-apiserver-arg", "kube-apiserver"),
    ("kube-controller-manager-arg", "kube-controller-manager"),
    ("kube-controller-arg", "kube-controller-manager"),
    ("kube-cloud-controller-manager-arg", "cloud-controller-manager"),
    ("kube-cloud-controller-arg", "cloud-controller-manager"),
    ("kube-scheduler-arg", "kube-scheduler"),
    ("kube-proxy-arg", "kube-proxy"),
    ("kubelet-arg", "kubelet"),
];

/// Flags the components had before Kubernetes 1.25.
const REMOVED: [(&str, &str); 8] = [
    ("kube-apiserver", "basic-auth-file"),
    ("kube-apiserver", "insecure-bind-address"),
    ("kube-apiserver", "insecure-port"),
    ("kube-apiserver", "kubelet-https"),
    ("kube-controller-manager", "address"),
    ("kube-controller-manager", "port"),
    ("kube-scheduler", "address"),
    ("kube-scheduler", "port"),
];

/// Flags people set, as their components spell them.
const SPELLED: [&str; 58] = [
    "admission-control-config-file",
    "allowed-unsafe-sysctls",
    "anonymous-auth",
    "audit-log-compress",
    "audit-log-format",
    "audit-log-maxage",
    "audit-log-maxbackup",
    "audit-log-maxsize",
    "audit-log-mode",
    "audit-log-path",
    "audit-policy-file",
    "audit-webhook-config-file",
    "authentication-config",
    "authentication-token-webhook",
    "authorization-config",
    "authorization-mode",
    "bind-address",
    "client-ca-file",
    "container-log-max-files",
    "container-log-max-size",
    "disable-admission-plugins",
    "enable-admission-plugins",
    "enable-bootstrap-token-auth",
    "encryption-provider-config",
    "etcd-cafile",
    "etcd-certfile",
    "etcd-keyfile",
    "event-qps",
    "eviction-hard",
    "feature-gates",
    "hostname-override",
    "kube-reserved",
    "kubelet-certificate-authority",
    "kubelet-client-certificate",
    "kubelet-client-key",
    "make-iptables-util-chains",
    "max-pods",
    "metrics-bind-address",
    "node-status-update-frequency",
    "oidc-client-id",
    "oidc-issuer-url",
    "pod-max-pids",
    "profiling",
    "protect-kernel-defaults",
    "read-only-port",
    "request-timeout",
    "root-ca-file",
    "rotate-certificates",
    "rotate-server-certificates",
    "seccomp-default",
    "secure-port",
    "service-account-extend-token-expiration",
    "service-account-key-file",
    "service-account-private-key-file",
    "streaming-connection-idle-timeout",
    "system-reserved",
    "terminated-pod-gc-threshold",
    "use-service-account-credentials",
];

/// Why K3s does not start with this argument in this option; none where that is not sure.
pub(crate) fn refused(option: &str, argument: &str) -> Option<String> {
    let (_, component) = COMPONENTS.iter().find(|(name, _)| *name == option)?;
    let (name, ..) = super::components::cut(argument);
    // The kubelet takes underscores for dashes.
    let name = if *component == "kubelet" { name.replace('_', "-") } else { name.to_owned() };
    let ends = format!("{component} ends at it, and K3s with it");
    if REMOVED.contains(&(*component, &name)) {
        return Some(format!("`{name}` was removed from {component} before Kubernetes 1.25: {ends}; remove it"));
    }
    let bare = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    if let Some(spelled) = SPELLED.iter().find(|spelled| **spelled != name && bare(spelled) == bare(&name)) {
        return Some(format!("no flag of {component} is spelled like this: {ends}; write `{spelled}=…`"));
    }
    let can_be = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    // A map in the list is a trap of its own, and told as that.
    let can_be = can_be || name.starts_with("[{");
    // What has no such form may be anything, also a secret: it is not repeated.
    (!can_be).then(|| {
        format!(
            "an argument that does not begin with a flag's name (small letters, digits, dashes): {ends}; correct it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{SPELLED, refused};

    #[test]
    fn what_no_component_takes_is_told_and_nothing_else() {
        for (option, argument, told) in [
            ("kube-apiserver-arg", "audit-log-max-age=30", Some("write `audit-log-maxage=…`")),
            ("kube-apiserver-arg", "audit_log_maxage=30", Some("write `audit-log-maxage=…`")),
            (
                "kube-apiserver-arg",
                "enableAdmissionPlugins+=NodeRestriction",
                Some("write `enable-admission-plugins=…`"),
            ),
            ("kubelet-arg", "readOnlyPort=0", Some("write `read-only-port=…`")),
            ("kubelet-arg", "read_only_port=0", None),
            ("kubelet-arg", "--read-only-port=0", None),
            ("kube-apiserver-arg", "insecure-port=8080", Some("removed")),
            ("kube-scheduler-arg", "address=0.0.0.0", Some("removed")),
            ("kube-apiserver-arg", "anonymous-auth =true", Some("write `anonymous-auth=…`")),
            ("kube-apiserver-arg", "----anonymous-auth=true", Some("write `anonymous-auth=…`")),
            ("kube-apiserver-arg", "-v=2", Some("does not begin with a flag's name")),
            ("kube-apiserver-arg", "v=2", None),
            ("kube-apiserver-arg", "some-flag-of-tomorrow", None),
            ("kube-controller-arg", "port=0", Some("removed")),
            ("etcd-arg", "Whatever=1", None),
            ("kube-apiserver-arg", "", Some("does not begin")),
            ("kubelet-arg", "[{event-qps 0}]", None),
        ] {
            let said = refused(option, argument);
            assert_eq!(said.is_some(), told.is_some(), "{option} {argument}: {said:?}");
            assert!(said.unwrap_or_default().contains(told.unwrap_or_default()), "{option} {argument}");
        }
        let secret = refused("kube-apiserver-arg", "S3CRET/value").unwrap();
        assert!(!secret.contains("S3CRET"), "{secret}");
        assert!(SPELLED.is_sorted());
    }
}
