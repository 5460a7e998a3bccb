//! kube-apiserver, kube-controller-manager, kube-scheduler, cloud-controller-manager.

use std::collections::BTreeMap;

use super::{Defaults, Inputs, UserArg, arg_value, get_args, put};
use crate::argv::{Given, port_range};
use crate::effective::{Flags, Layer, Problem};
use crate::files::NodeFiles;
use picket_model::flag_value::boolean;

/// The cipher suites K3s gives port 6443 and the API server unless the user names some.
const CIPHERS: &str = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,\
                       TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,\
                       TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305";

/// Where the cluster's state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Datastore {
    Sqlite,
    /// Another database behind kine.
    Kine,
    EmbeddedEtcd,
    ExternalEtcd,
}

struct Paths {
    data: String,
    tls: String,
    cred: String,
}

pub(super) fn add(inputs: &Inputs<'_>, out: &mut BTreeMap<String, Flags>) {
    let data = inputs.data_dir();
    let paths = Paths { tls: format!("{data}/server/tls"), cred: format!("{data}/server/cred"), data };
    let store = datastore(inputs, &paths);
    let service_lb_off = inputs.split_list("disable").contains(&"servicelb");
    let ccm_off = inputs.on("disable-cloud-controller");
    if !inputs.on("disable-apiserver") {
        out.insert("kube-apiserver".to_owned(), apiserver(inputs, &paths, store));
    }
    if !inputs.on("disable-scheduler") {
        out.insert("kube-scheduler".to_owned(), scheduler(inputs, &paths, store));
    }
    if !inputs.on("disable-controller-manager") {
        out.insert("kube-controller-manager".to_owned(), controller_manager(inputs, &paths, store, ccm_off));
    }
    if !ccm_off || !service_lb_off {
        let flags = cloud_controller(inputs, &paths, store, ccm_off, service_lb_off);
        out.insert("cloud-controller-manager".to_owned(), flags);
    }
}

fn datastore(inputs: &Inputs<'_>, paths: &Paths) -> Datastore {
    match inputs.text("datastore-endpoint") {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => Datastore::ExternalEtcd,
        Some(url) if url.starts_with("sqlite://") => Datastore::Sqlite,
        Some(_) => Datastore::Kine,
        None => {
            let etcd = format!("{}/server/db/etcd", paths.data);
            let joined = inputs.on("cluster-init") || inputs.text("server").is_some();
            let initialised =
                inputs.files.has_dir(&format!("{etcd}/member")) || inputs.files.has_file(&format!("{etcd}/config"));
            if joined || initialised { Datastore::EmbeddedEtcd } else { Datastore::Sqlite }
        }
    }
}

/// Why it is not known which datastore K3s uses; none where options decide, or the folder shows it.
pub(crate) fn unseen_datastore(files: &dyn NodeFiles, data_dir: &str, given: &[Given]) -> Option<Problem> {
    let last = |name: &str| given.iter().rev().find(|g| g.known && g.name == name).map(|g| g.value.as_str());
    let set = |name: &str| last(name).is_some_and(|value| !value.is_empty());
    if set("datastore-endpoint") || set("server") || last("cluster-init").and_then(boolean) == Some(true) {
        return None;
    }
    let path = format!("{data_dir}/server/db/etcd/member");
    let reason = files.list(&path).err()?;
    let detail = format!("cannot be listed: {reason}; whether K3s uses embedded etcd is not known");
    Some(Problem { path: Some(path), line: None, detail })
}

fn storage(inputs: &Inputs<'_>, paths: &Paths, store: Datastore, defaults: &mut Defaults) {
    put(defaults, [("storage-backend", "etcd3")]);
    let etcd = format!("{}/etcd", paths.tls);
    match store {
        Datastore::EmbeddedEtcd => put(
            defaults,
            [
                ("etcd-servers", "https://127.0.0.1:2379".to_owned()),
                ("etcd-cafile", format!("{etcd}/server-ca.crt")),
                ("etcd-certfile", format!("{etcd}/client.crt")),
                ("etcd-keyfile", format!("{etcd}/client.key")),
            ],
        ),
        Datastore::ExternalEtcd => {
            let options = [
                ("etcd-servers", "datastore-endpoint"),
                ("etcd-cafile", "datastore-cafile"),
                ("etcd-certfile", "datastore-certfile"),
                ("etcd-keyfile", "datastore-keyfile"),
            ];
            for (flag, option) in options {
                if let Some(value) = inputs.text(option) {
                    put(defaults, [(flag, value)]);
                }
            }
        }
        Datastore::Sqlite | Datastore::Kine if inputs.on("kine-tls") => put(
            defaults,
            [("etcd-servers", "unixs://kine.sock".to_owned()), ("etcd-cafile", format!("{etcd}/server-ca.crt"))],
        ),
        Datastore::Sqlite | Datastore::Kine => put(defaults, [("etcd-servers", "unix://kine.sock")]),
    }
}

fn apiserver(inputs: &Inputs<'_>, paths: &Paths, store: Datastore) -> Flags {
    let Paths { data, tls, cred } = paths;
    let mut user = inputs.user_args(&["kube-apiserver-arg"]);
    let mut d = Defaults::new();
    storage(inputs, paths, store, &mut d);
    let https = inputs.number("https-listen-port").unwrap_or(6443);
    let domain = inputs.text("cluster-domain").unwrap_or("cluster.local");
    let issuer = format!("https://kubernetes.default.svc.{domain}");
    put(
        &mut d,
        [
            ("cert-dir", format!("{tls}/temporary-certs")),
            ("client-ca-file", format!("{tls}/client-ca.crt")),
            ("tls-cert-file", format!("{tls}/serving-kube-apiserver.crt")),
            ("tls-private-key-file", format!("{tls}/serving-kube-apiserver.key")),
            ("service-account-key-file", format!("{tls}/service.key")),
            ("service-account-signing-key-file", format!("{tls}/service.current.key")),
            ("api-audiences", format!("{issuer},k3s")),
            ("service-account-issuer", issuer),
            ("service-cluster-ip-range", inputs.service_cidrs()),
            ("service-node-port-range", node_ports(inputs)),
            ("kubelet-certificate-authority", format!("{tls}/server-ca.crt")),
            ("kubelet-client-certificate", format!("{tls}/client-kube-apiserver.crt")),
            ("kubelet-client-key", format!("{tls}/client-kube-apiserver.key")),
            ("requestheader-client-ca-file", format!("{tls}/request-header-ca.crt")),
            ("proxy-client-cert-file", format!("{tls}/client-auth-proxy.crt")),
            ("proxy-client-key-file", format!("{tls}/client-auth-proxy.key")),
            ("bind-address", inputs.text("apiserver-bind-address").unwrap_or(inputs.loopback()).to_owned()),
            ("secure-port", inputs.number("apiserver-port").unwrap_or(https + 1).to_string()),
            ("advertise-port", inputs.number("advertise-port").unwrap_or(https).to_string()),
        ],
    );
    put(
        &mut d,
        [
            ("allow-privileged", "true"),
            ("enable-bootstrap-token-auth", "true"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("profiling", "false"),
            ("requestheader-allowed-names", "system:auth-proxy"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-username-headers", "X-Remote-User"),
        ],
    );
    let addresses = if inputs.on("flannel-external-ip") {
        "ExternalIP,InternalIP,Hostname"
    } else {
        "InternalIP,ExternalIP,Hostname"
    };
    put(&mut d, [("kubelet-preferred-address-types", addresses)]);
    if !(inputs.since_april_2025() && arg_value("authorization-config", &user).is_some()) {
        put(&mut d, [("authorization-mode", "Node,RBAC")]);
    }
    if !(inputs.since_may_2025() && arg_value("authentication-config", &user).is_some()) {
        put(&mut d, [("anonymous-auth", "false")]);
    }
    if inputs.text("egress-selector-mode") != Some("disabled") {
        put(
            &mut d,
            [
                ("enable-aggregator-routing", "true".to_owned()),
                ("egress-selector-config-file", format!("{data}/server/etc/egress-selector-config.yaml")),
            ],
        );
    }
    if inputs.on("secrets-encryption") {
        put(
            &mut d,
            [
                ("encryption-provider-config", format!("{cred}/encryption-config.json")),
                ("encryption-provider-config-automatic-reload", "true".to_owned()),
            ],
        );
    }
    if let Some(address) = advertise_address(inputs) {
        put(&mut d, [("advertise-address", address)]);
    }
    inputs.verbosity(&mut d);
    if arg_value("tls-cipher-suites", &user).is_none() {
        // K3s puts its own list behind the user's arguments, so that `+=` and the empty form get both.
        let text = format!("tls-cipher-suites={CIPHERS}");
        user.push(UserArg { text, path: None, line: None, layer: Layer::K3sDefault });
    }
    get_args(&d, &user)
}

/// The range as Go prints it: both ends, be it given as one port or with a count.
fn node_ports(inputs: &Inputs<'_>) -> String {
    inputs
        .text("service-node-port-range")
        .and_then(port_range)
        .map_or_else(String::new, |(from, to)| format!("{from}-{to}"))
}

/// Depends on the running host unless the option itself is set.
fn advertise_address(inputs: &Inputs<'_>) -> Option<String> {
    if let Some(address) = inputs.text("advertise-address") {
        return Some(address.to_owned());
    }
    inputs.host?;
    let first = |name| inputs.split_list(name).first().map(|v| (*v).to_owned());
    first("node-external-ip").or_else(|| first("node-ip"))
}

fn controller_manager(inputs: &Inputs<'_>, paths: &Paths, store: Datastore, ccm_off: bool) -> Flags {
    let Paths { tls, cred, .. } = paths;
    let mut d = Defaults::new();
    let kubeconfig = format!("{cred}/controller.kubeconfig");
    put(
        &mut d,
        [
            ("kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig),
            ("service-account-private-key-file", format!("{tls}/service.current.key")),
            ("service-cluster-ip-range", inputs.service_cidrs()),
            ("cluster-cidr", inputs.cluster_cidrs()),
            ("root-ca-file", format!("{tls}/server-ca.crt")),
            ("bind-address", inputs.loopback().to_owned()),
            ("cluster-signing-kube-apiserver-client-cert-file", format!("{tls}/client-ca.nochain.crt")),
            ("cluster-signing-kube-apiserver-client-key-file", format!("{tls}/client-ca.key")),
            ("cluster-signing-kubelet-client-cert-file", format!("{tls}/client-ca.nochain.crt")),
            ("cluster-signing-kubelet-client-key-file", format!("{tls}/client-ca.key")),
            ("cluster-signing-kubelet-serving-cert-file", format!("{tls}/server-ca.nochain.crt")),
            ("cluster-signing-kubelet-serving-key-file", format!("{tls}/server-ca.key")),
            ("cluster-signing-legacy-unknown-cert-file", format!("{tls}/server-ca.nochain.crt")),
            ("cluster-signing-legacy-unknown-key-file", format!("{tls}/server-ca.key")),
        ],
    );
    put(
        &mut d,
        [
            ("allocate-node-cidrs", "true"),
            ("controllers", "*,tokencleaner"),
            ("profiling", "false"),
            ("secure-port", "10257"),
            ("use-service-account-credentials", "true"),
        ],
    );
    if !ccm_off {
        put(
            &mut d,
            [
                ("configure-cloud-routes", "false"),
                ("controllers", "*,tokencleaner,-service,-route,-cloud-node-lifecycle"),
            ],
        );
    }
    serving_pair(inputs, tls, "kube-controller-manager", &mut d);
    leader(store, &mut d);
    inputs.verbosity(&mut d);
    get_args(&d, &inputs.user_args(&["kube-controller-manager-arg", "kube-controller-arg"]))
}

fn scheduler(inputs: &Inputs<'_>, paths: &Paths, store: Datastore) -> Flags {
    let mut d = Defaults::new();
    let kubeconfig = format!("{}/scheduler.kubeconfig", paths.cred);
    put(
        &mut d,
        [
            ("kubeconfig", kubeconfig.as_str()),
            ("authorization-kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("bind-address", inputs.loopback()),
            ("secure-port", "10259"),
            ("profiling", "false"),
        ],
    );
    serving_pair(inputs, &paths.tls, "kube-scheduler", &mut d);
    leader(store, &mut d);
    inputs.verbosity(&mut d);
    get_args(&d, &inputs.user_args(&["kube-scheduler-arg"]))
}

fn cloud_controller(
    inputs: &Inputs<'_>,
    paths: &Paths,
    store: Datastore,
    ccm_off: bool,
    service_lb_off: bool,
) -> Flags {
    let mut d = Defaults::new();
    let kubeconfig = format!("{}/cloud-controller.kubeconfig", paths.cred);
    let mut controllers = "*,-route".to_owned();
    if ccm_off {
        controllers.push_str(",-cloud-node,-cloud-node-lifecycle");
        put(&mut d, [("secure-port", "0")]);
    }
    if service_lb_off {
        controllers.push_str(",-service");
    }
    put(
        &mut d,
        [
            ("kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig),
            ("cloud-config", format!("{}/server/etc/cloud-config.yaml", paths.data)),
            ("cluster-cidr", inputs.cluster_cidrs()),
            ("bind-address", inputs.loopback().to_owned()),
            ("controllers", controllers),
        ],
    );
    put(
        &mut d,
        [
            ("allocate-node-cidrs", "true"),
            ("cloud-provider", "k3s"),
            ("configure-cloud-routes", "false"),
            ("leader-elect-resource-name", "k3s-cloud-controller-manager"),
            ("node-status-update-frequency", "1m0s"),
            ("profiling", "false"),
        ],
    );
    if !inputs.version.at_least(32, 0) {
        put(&mut d, [("feature-gates", "CloudDualStackNodeIPs=true")]);
    }
    leader(store, &mut d);
    inputs.verbosity(&mut d);
    get_args(&d, &inputs.user_args(&["kube-cloud-controller-manager-arg", "kube-cloud-controller-arg"]))
}

/// Serving certificate of its own since the May 2025 patches.
fn serving_pair(inputs: &Inputs<'_>, tls: &str, name: &str, d: &mut Defaults) {
    if inputs.since_may_2025() {
        put(
            d,
            [
                ("tls-cert-file", format!("{tls}/{name}/{name}.crt")),
                ("tls-private-key-file", format!("{tls}/{name}/{name}.key")),
            ],
        );
    }
}

/// No leader election where there can be one server only.
fn leader(store: Datastore, d: &mut Defaults) {
    if store == Datastore::Sqlite {
        put(d, [("leader-elect", "false")]);
    }
}
