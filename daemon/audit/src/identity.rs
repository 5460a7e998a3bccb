//! Identities that a stock K3s uses itself. Case matters, and a user agent alone never counts (E5).

/// What every service account of kube-system starts with.
pub(crate) const KUBE_SYSTEM: &str = "system:serviceaccount:kube-system:";

/// Users of the K3s server itself (`pkg/daemons/control/deps/deps.go` makes their certificates).
pub(crate) fn is_core(text: &str) -> bool {
    matches!(
        text,
        "system:k3s-supervisor"
            | "system:k3s-controller"
            | "k3s-cloud-controller-manager"
            | "system:kube-controller-manager"
            | "system:kube-scheduler"
            | "system:apiserver"
            | "system:kube-proxy"
            | "system:kube-controller-manager-leader-election"
    )
}

/// Whether a user agent is written as those of K3s' own components are: `k3s/v1.36.2+k3s1 (linux/amd64) kubernetes/…`,
/// with any base name of the program, and no kubectl. It says who is not K3s, never who is.
pub(crate) fn is_component(agent: &str) -> bool {
    !agent.starts_with("kubectl") && memchr::memmem::find(agent.as_bytes(), b" (").is_some()
}

/// Accounts of kube-system that the in-process controller manager uses, without their common start.
pub(crate) fn is_controller_account(text: &str) -> bool {
    matches!(
        text,
        "attachdetach-controller"
            | "certificate-controller"
            | "clusterrole-aggregation-controller"
            | "cronjob-controller"
            | "daemon-set-controller"
            | "deployment-controller"
            | "disruption-controller"
            | "endpoint-controller"
            | "endpointslice-controller"
            | "endpointslicemirroring-controller"
            | "ephemeral-volume-controller"
            | "expand-controller"
            | "generic-garbage-collector"
            | "horizontal-pod-autoscaler"
            | "job-controller"
            | "legacy-service-account-token-cleaner"
            | "namespace-controller"
            | "node-controller"
            | "persistent-volume-binder"
            | "pod-garbage-collector"
            | "pv-protection-controller"
            | "pvc-protection-controller"
            | "replicaset-controller"
            | "replication-controller"
            | "resourcequota-controller"
            | "root-ca-cert-publisher"
            | "service-account-controller"
            | "service-controller"
            | "statefulset-controller"
            | "ttl-after-finished-controller"
            | "ttl-controller"
            | "validatingadmissionpolicy-status-controller"
            | "bootstrap-signer"
            | "token-cleaner"
            | "device-taint-eviction-controller"
            | "resource-claim-controller"
            | "service-cidrs-controller"
            | "volumeattributesclass-protection-controller"
    )
}

/// Accounts of kube-system that packaged components use, without their common start.
pub(crate) fn is_packaged_account(text: &str) -> bool {
    matches!(
        text,
        "helm-traefik"
            | "helm-traefik-crd"
            | "traefik"
            | "coredns"
            | "local-path-provisioner-service-account"
            | "metrics-server"
            | "svclb"
    )
}

/// Namespaces that K3s fills.
pub(crate) fn is_system_namespace(text: &str) -> bool {
    matches!(text, "kube-system" | "kube-public" | "kube-node-lease")
}
