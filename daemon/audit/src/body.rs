//! What rules ask of request and response bodies: the object, its PodSpec, RBAC rules and subjects.
//!
//! Bodies are decoded once per event and only when a rule asks. Lists made from them are bounded.

use std::borrow::Cow;

use serde_json::Value;

/// Bodies larger than this are not decoded: the API server's own limit for a request is 3 MiB.
pub(crate) const MAX_BODY: usize = 4 * 1024 * 1024;
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

/// The PodSpec inside an object of this resource.
pub(crate) fn podspec<'v>(resource: &str, body: &'v Value) -> Option<&'v Value> {
    let spec = match resource {
        "pods" => body.get("spec"),
        "deployments" | "daemonsets" | "statefulsets" | "replicasets" | "jobs" | "replicationcontrollers" => {
            body.pointer("/spec/template/spec")
        }
        "cronjobs" => body.pointer("/spec/jobTemplate/spec/template/spec"),
        "podtemplates" => body.pointer("/template/spec"),
        _ => None,
    }?;
    spec.is_object().then_some(spec)
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

/// The workload behind an object: its controller's name (a ReplicaSet's less the template hash, a CronJob's Job less
/// the minutes), else its own, else `generateName`. A Deployment, its ReplicaSets and their Pods give one answer.
pub(crate) fn owner(body: &Value) -> Option<String> {
    let metadata = body.get("metadata")?;
    let controller = metadata
        .get("ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|reference| reference.get("controller").and_then(Value::as_bool) == Some(true));
    if let Some(controller) = controller {
        let name = controller.get("name")?.as_str()?;
        return Some(
            match controller.get("kind").and_then(Value::as_str) {
                Some("ReplicaSet") => without_last(name, |tail| {
                    !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                }),
                Some("Job") => without_last(name, |tail| tail.len() >= 6 && tail.bytes().all(|b| b.is_ascii_digit())),
                _ => name,
            }
            .to_owned(),
        );
    }
    let own = |field: &str| metadata.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
    own("name").or_else(|| own("generateName")).map(|name| name.trim_end_matches('-').to_owned())
}

fn without_last(name: &str, is_suffix: impl Fn(&str) -> bool) -> &str {
    match name.rsplit_once('-') {
        Some((stem, tail)) if is_suffix(tail) && !stem.is_empty() => stem,
        _ => name,
    }
}

/// The Pod Security level that a change of a Namespace sets: the value, or empty when the label is taken away.
/// `None` when the change does not touch it.
pub(crate) fn pss_enforce(request: &Value) -> Option<String> {
    const LABEL: &str = "pod-security.kubernetes.io/enforce";
    if let Value::Array(operations) = request {
        // A JSON patch: the label's slash is written ~1.
        return operations.iter().rev().find_map(|operation| {
            let path = operation.get("path")?.as_str()?.replace("~1", "/");
            (path == format!("/metadata/labels/{LABEL}"))
                .then(|| operation.get("value").and_then(Value::as_str).unwrap_or("").to_owned())
        });
    }
    let value = request.get("metadata")?.get("labels")?.get(LABEL)?;
    Some(value.as_str().unwrap_or("").to_owned())
}

/// Whether a NetworkPolicy holds an empty rule, which allows everything.
pub(crate) fn allows_all(request: &Value) -> bool {
    ["/spec/ingress", "/spec/egress"].iter().any(|list| {
        request
            .pointer(list)
            .and_then(Value::as_array)
            .is_some_and(|rules| rules.iter().any(|rule| rule.as_object().is_some_and(serde_json::Map::is_empty)))
    })
}
