//! What rules ask of request and response bodies: the object, its PodSpec, RBAC rules and subjects.
//!
//! Bodies are decoded once per event and only when a rule asks. Lists made from them are bounded.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// Longest list that is made from a body.
const MAX_ITEMS: usize = 4096;

/// Follows a dotted path through objects, and through arrays into each of their members.
pub(crate) fn collect<'v>(value: &'v Value, path: &str, out: &mut Vec<&'v Value>) {
    if out.len() >= MAX_ITEMS {
        return;
    }
    match value {
        Value::Array(members) => {
            for member in members {
                if path.is_empty() && !member.is_object() && !member.is_array() {
                    out.push(member);
                } else {
                    collect(member, path, out);
                }
            }
        }
        _ if path.is_empty() => out.push(value),
        Value::Object(fields) => {
            // The whole rest first: label and annotation keys hold dots themselves.
            if let Some(found) = fields.get(path) {
                collect(found, "", out);
            } else if let Some((head, rest)) = path.split_once('.')
                && let Some(found) = fields.get(head)
            {
                collect(found, rest, out);
            }
        }
        _ => {}
    }
}

/// Where the PodSpec is inside an object of this resource.
pub(crate) fn place_of_podspec(resource: &str) -> Option<&'static str> {
    match resource {
        "pods" => Some("/spec"),
        "deployments" | "daemonsets" | "statefulsets" | "replicasets" | "jobs" | "replicationcontrollers" => {
            Some("/spec/template/spec")
        }
        "cronjobs" => Some("/spec/jobTemplate/spec/template/spec"),
        "podtemplates" => Some("/template/spec"),
        _ => None,
    }
}

/// The PodSpec inside an object of this resource.
pub(crate) fn podspec<'v>(resource: &str, body: &'v Value) -> Option<&'v Value> {
    body.pointer(place_of_podspec(resource)?).filter(|spec| spec.is_object())
}

/// Containers, init containers and ephemeral containers.
pub(crate) fn containers(podspec: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .filter_map(|list| podspec.get(list)?.as_array())
        .flatten()
        .take(MAX_ITEMS)
}

/// Paths of hostPath volumes, normalised.
pub(crate) fn hostpaths(podspec: &Value) -> Vec<String> {
    podspec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.pointer("/hostPath/path")?.as_str())
        .take(MAX_ITEMS)
        .map(normal_path)
        .collect()
}

/// Added capabilities, upper case and without `CAP_`.
pub(crate) fn capabilities(podspec: &Value) -> Vec<String> {
    containers(podspec)
        .filter_map(|container| container.pointer("/securityContext/capabilities/add")?.as_array())
        .flatten()
        .filter_map(Value::as_str)
        .take(MAX_ITEMS)
        .map(|capability| {
            let upper = capability.to_ascii_uppercase();
            upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
        })
        .collect()
}

/// `//etc/../root/` is `/root`.
pub(crate) fn normal_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// An image reference with its registry: `nginx` is `docker.io/library/nginx`.
pub(crate) fn full_image(image: &str) -> Cow<'_, str> {
    match image.split_once('/') {
        None => Cow::Owned(format!("docker.io/library/{image}")),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => Cow::Borrowed(image),
        Some(_) => Cow::Owned(format!("docker.io/{image}")),
    }
}

/// What RBAC rules grant, as `verb resource`.
pub(crate) fn grants(rules: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let strings = |rule: &Value, list: &str| -> Vec<String> {
        rule.get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .take(256)
            .map(str::to_owned)
            .collect()
    };
    for rule in rules.as_array().into_iter().flatten() {
        let verbs = strings(rule, "verbs");
        for resource in strings(rule, "resources") {
            for verb in &verbs {
                if out.len() >= MAX_ITEMS {
                    return out;
                }
                out.push(format!("{verb} {resource}"));
            }
        }
    }
    out
}

/// Subjects of a binding, as `Kind/name`.
pub(crate) fn subjects(body: &Value) -> Vec<String> {
    body.get("subjects")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .take(MAX_ITEMS)
        .filter_map(|subject| Some(format!("{}/{}", subject.get("kind")?.as_str()?, subject.get("name")?.as_str()?)))
        .collect()
}

/// The workload that an object says it belongs to: its controller's name (a ReplicaSet's less the template hash, a
/// CronJob's Job less the minutes).
pub(crate) fn controller(body: &Value) -> Option<String> {
    let references = body.get("metadata")?.get("ownerReferences")?.as_array()?;
    let is_controller = |reference: &&Value| reference.get("controller").and_then(Value::as_bool) == Some(true);
    let controller = references.iter().find(is_controller)?;
    let name = controller.get("name")?.as_str()?;
    let name = match controller.get("kind").and_then(Value::as_str) {
        Some("ReplicaSet") => without_last(name, |tail| {
            !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        }),
        Some("Job") => without_last(name, |tail| tail.len() >= 6 && tail.bytes().all(|b| b.is_ascii_digit())),
        _ => name,
    };
    Some(name.to_owned())
}

/// An object's own name, else what its name is to be generated from.
pub(crate) fn own_name(body: &Value) -> Option<String> {
    let metadata = body.get("metadata")?;
    let own = |field: &str| metadata.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
    own("name").or_else(|| own("generateName")).map(|name| name.trim_end_matches('-').to_owned())
}

fn without_last(name: &str, is_suffix: impl Fn(&str) -> bool) -> &str {
    match name.rsplit_once('-') {
        Some((stem, tail)) if is_suffix(tail) && !stem.is_empty() => stem,
        _ => name,
    }
}

/// The Pod Security level that a whole Namespace has; empty without the label.
pub(crate) fn pss_level(namespace: &Value) -> &str {
    let labels = namespace.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get("pod-security.kubernetes.io/enforce")?.as_str()).unwrap_or("")
}

/// How far the wildcards of RBAC rules reach: `everything` (any verb on any resource of any group), `own_group` (each
/// within one group that is not Kubernetes' own), else `some`.
pub(crate) fn wildcard(rules: &Value) -> Option<&'static str> {
    let has = |rule: &Value, list: &str| {
        rule.get(list).and_then(Value::as_array).is_some_and(|items| items.iter().any(|item| item == "*"))
    };
    let within_own = |rule: &Value| {
        let groups = rule.get("apiGroups").and_then(Value::as_array);
        let group = groups.and_then(|groups| if let [one] = groups.as_slice() { one.as_str() } else { None });
        !has(rule, "nonResourceURLs") && group.is_some_and(|group| group.contains('.') && !group.ends_with(".k8s.io"))
    };
    let wild: Vec<&Value> = rules
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| ["verbs", "resources", "nonResourceURLs"].iter().any(|list| has(rule, list)))
        .take(MAX_ITEMS)
        .collect();
    let everything = |rule: &&Value| ["verbs", "resources", "apiGroups"].iter().all(|list| has(rule, list));
    if wild.is_empty() {
        None
    } else if wild.iter().any(everything) {
        Some("everything")
    } else if wild.iter().all(|rule| within_own(rule)) {
        Some("own_group")
    } else {
        Some("some")
    }
}

/// The user and the groups that a certificate signing request asks for.
pub(crate) fn csr_subject(body: &Value) -> Option<(Vec<String>, Vec<String>)> {
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let encoded = body.pointer("/spec/request")?.as_str()?;
    let pem = x509_parser::pem::parse_x509_pem(&BASE64_STANDARD.decode(encoded).ok()?).ok()?.1;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let texts = |values: &mut dyn Iterator<Item = String>| values.take(256).collect();
    let names = texts(&mut subject.iter_common_name().filter_map(|value| value.as_str().ok().map(str::to_owned)));
    let groups = texts(&mut subject.iter_organization().filter_map(|value| value.as_str().ok().map(str::to_owned)));
    Some((names, groups))
}
