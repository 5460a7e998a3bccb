//! The field taxonomy: an audit event as Sigma rules see it. FIELDS.md lists the names.
//!
//! Raw fields carry their audit names (`objectRef.resource`), so that public rules load unchanged. Derived fields
//! (`actor`, `ok`, `final`, …) say once, in code, what every rule would have to say again. Cheap ones are computed
//! when the view is made, the others when a rule asks.

mod address;
mod flags;
mod query;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::net::IpAddr;

use rsigma_eval::EventValue;
use serde_json::Value;

use self::address::{is_public, network_of};
pub(crate) use self::flags::Flags;
use self::query::query_values;
use crate::body;
use crate::decode::Body;
use crate::event::{Event, Text};
use crate::identity::is_controller_account;
use crate::known::Before;
use crate::patch;
use crate::site::Site;

/// An event with what is derived from it.
pub(crate) struct View<'e> {
    pub(crate) event: &'e Event<'e>,
    site: &'e Site,
    pub(crate) flags: Flags,
    /// What is known from earlier events.
    pub(crate) before: Before,
    user: Option<&'e str>,
    request: OnceCell<Body>,
    response: OnceCell<Body>,
    patch: OnceCell<Body>,
    /// More places were patched than are told.
    places_cut: Cell<bool>,
    command: OnceCell<Option<String>>,
}

fn some<'e>(text: &'e Option<Text<'_>>) -> Option<&'e str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl<'e> View<'e> {
    /// `first_final` is false for a ResponseComplete whose ResponseStarted was seen (E2).
    pub(crate) fn new(event: &'e Event<'e>, site: &'e Site, first_final: bool) -> Self {
        let mut view = Self {
            event,
            site,
            flags: Flags::default(),
            before: Before::default(),
            user: event.user.as_ref().and_then(|user| user.username.as_deref()),
            request: OnceCell::new(),
            response: OnceCell::new(),
            patch: OnceCell::new(),
            places_cut: Cell::new(false),
            command: OnceCell::new(),
        };
        view.flags = view.derive(first_final);
        view
    }

    fn is_dry_run(&self, verb: &str) -> bool {
        let query = self.query().unwrap_or("");
        if query.contains("dryRun=") && query_values(query, "dryRun").any(|value| value == "All") {
            return true;
        }
        matches!(verb, "delete" | "deletecollection")
            && self.event.request_object.is_some_and(|raw| raw.get().contains("\"dryRun\""))
            && self
                .request()
                .and_then(|request| request.get("dryRun")?.as_array())
                .is_some_and(|list| list.iter().any(|item| item == "All"))
    }

    /// Whether any of these bits is set.
    pub(crate) fn flag(&self, bits: u32) -> bool {
        self.flags.0 & bits != 0
    }

    pub(crate) fn stage(&self) -> Option<&'e str> {
        some(&self.event.stage)
    }

    pub(crate) fn verb(&self) -> Option<&'e str> {
        some(&self.event.verb)
    }

    pub(crate) fn code(&self) -> Option<i64> {
        self.event.response_status.as_ref()?.code.filter(|code| *code != 0)
    }

    pub(crate) fn user(&self) -> Option<&'e str> {
        self.user
    }

    pub(crate) fn impersonated(&self) -> Option<&'e str> {
        let user = self.event.impersonated_user.as_ref()?;
        Some(user.username.as_deref().unwrap_or(""))
    }

    pub(crate) fn actor(&self) -> Option<&'e str> {
        self.impersonated().or(self.user)
    }

    pub(crate) fn ip(&self) -> Option<&'e str> {
        self.event.source_ips.as_ref()?.last().map(|ip| &**ip)
    }

    pub(crate) fn res(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.resource)
    }

    pub(crate) fn group(&self) -> Option<&'e str> {
        Some(self.event.object_ref.as_ref()?.api_group.as_deref().unwrap_or(""))
    }

    pub(crate) fn sub(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.subresource)
    }

    pub(crate) fn ns(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.namespace)
    }

    pub(crate) fn object_name(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.name)
    }

    /// The object's name; of an object created with `generateName` the one it got (E8).
    pub(crate) fn name(&self) -> Option<Cow<'_, str>> {
        if let Some(name) = self.object_name() {
            return Some(Cow::Borrowed(name));
        }
        if self.verb() != Some("create") || self.sub().is_some() || self.event.response_object.is_none() {
            return None;
        }
        let response = self.response()?;
        if response.get("kind").and_then(Value::as_str) == Some("Status") {
            return None;
        }
        response.pointer("/metadata/name")?.as_str().filter(|name| !name.is_empty()).map(Cow::Borrowed)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.event.annotations.as_ref()?.get(key).map(|value| &**value)
    }

    pub(crate) fn message(&self) -> Option<&'e str> {
        some(&self.event.response_status.as_ref()?.message)
    }

    pub(crate) fn uri(&self) -> Option<&'e str> {
        some(&self.event.request_uri)
    }

    fn query(&self) -> Option<&'e str> {
        self.uri()?.split_once('?').map(|(_, query)| query)
    }

    pub(crate) fn path(&self) -> Option<&'e str> {
        self.uri().map(|uri| uri.split_once('?').map_or(uri, |(path, _)| path))
    }

    fn decode(raw: Option<&serde_json::value::RawValue>) -> Body {
        raw.map(|raw| Body::decode(raw.get())).unwrap_or_default()
    }

    pub(crate) fn request(&self) -> Option<&Value> {
        self.request.get_or_init(|| Self::decode(self.event.request_object)).value.as_ref()
    }

    pub(crate) fn response(&self) -> Option<&Value> {
        self.response.get_or_init(|| Self::decode(self.event.response_object)).value.as_ref()
    }

    /// The object that was sent; of a patch what it puts into the object.
    fn sent(&self) -> Option<&Value> {
        match self.request() {
            Some(Value::Array(operations)) if self.verb() == Some("patch") => {
                self.patch.get_or_init(|| patch::put_by(operations)).value.as_ref()
            }
            request => request,
        }
    }

    fn patched(&self) -> Vec<String> {
        let (places, cut) = self.request().map(patch::places).unwrap_or_default();
        self.places_cut.set(self.places_cut.get() || cut);
        places
    }

    /// A rule asked for a body of which some part could not be read.
    pub(crate) fn is_unread(&self) -> bool {
        let bodies = [&self.request, &self.response, &self.patch];
        self.places_cut.get() || bodies.iter().any(|body| body.get().is_some_and(|body| body.cut))
    }

    /// The object that the request was about: what was sent, or for a patch what it produced.
    pub(crate) fn body(&self) -> Option<&Value> {
        if self.event.request_object.is_none() && self.event.response_object.is_none() {
            return None;
        }
        let produced =
            || self.response().filter(|response| response.get("kind").and_then(Value::as_str) != Some("Status"));
        if self.verb() == Some("patch") {
            return produced().or_else(|| self.sent().filter(|sent| sent.is_object()));
        }
        self.request().or_else(produced)
    }

    pub(crate) fn podspec(&self) -> Option<&Value> {
        // Most objects have none, and their bodies need not be decoded.
        body::place_of_podspec(self.res()?)?;
        body::podspec(self.res()?, self.body()?)
    }

    /// The command line of an exec, from the query (at every level) or the body.
    pub(crate) fn command(&self) -> Option<&str> {
        self.command
            .get_or_init(|| {
                let from_query = self.query().map(|query| {
                    query_values(query, "command").map(Cow::into_owned).take(1024).collect::<Vec<_>>().join(" ")
                });
                from_query.filter(|command| !command.is_empty()).or_else(|| {
                    let words = self.request()?.get("command")?.as_array()?;
                    Some(words.iter().filter_map(Value::as_str).take(1024).collect::<Vec<_>>().join(" "))
                })
            })
            .as_deref()
    }

    /// A pod of a packaged component: made in kube-system by K3s itself, and only from rancher's images.
    fn packaged_pod(&self) -> bool {
        let by_k3s = self.flag(Flags::CORE | Flags::KCM | Flags::PACKAGED | Flags::HELM_JOB);
        self.ns() == Some("kube-system")
            && by_k3s
            && self.images().is_some_and(|images| {
                images.iter().all(|image| {
                    image.starts_with("rancher/")
                        || image.strip_prefix("docker.io/").is_some_and(|image| image.starts_with("rancher/"))
                })
            })
    }

    fn images(&self) -> Option<Vec<&str>> {
        let images: Vec<&str> =
            body::containers(self.podspec()?).filter_map(|container| container.get("image")?.as_str()).collect();
        (!images.is_empty()).then_some(images)
    }

    /// The workload behind the object. Anybody can write an owner into an object of his own: only Kubernetes itself is
    /// believed.
    pub(crate) fn owner(&self) -> Option<String> {
        let controller = |body| self.flag(Flags::KCM | Flags::CORE).then(|| body::controller(body)).flatten();
        self.body()
            .and_then(|body| controller(body).or_else(|| body::own_name(body)))
            .or_else(|| self.name().map(Cow::into_owned))
    }

    /// The value of a key field of a rule's `by` or `distinct`, as text.
    pub(crate) fn key_part(&self, field: &str) -> Cow<'_, str> {
        match field {
            "owner" => return Cow::Owned(self.owner().unwrap_or_default()),
            "responseStatus.code" => return self.key_part("code"),
            "name" => return self.name().unwrap_or_default(),
            _ => {}
        }
        match self.field(field) {
            EventValue::Str(text) => text,
            EventValue::Int(number) => Cow::Owned(number.to_string()),
            EventValue::Bool(yes) => Cow::Owned(yes.to_string()),
            EventValue::Array(items) => {
                let texts: Vec<_> = items.iter().filter_map(EventValue::as_str).collect();
                Cow::Owned(texts.join(","))
            }
            _ => Cow::Borrowed(""),
        }
    }

    /// A field by name; absent is null.
    pub(crate) fn field(&self, field: &str) -> EventValue<'_> {
        if let Some(bit) = Flags::bit(field) {
            return EventValue::Bool(self.flags.0 & bit != 0);
        }
        let text = |value: Option<&'e str>| value.map_or(EventValue::Null, |v| EventValue::Str(Cow::Borrowed(v)));
        let event = self.event;
        match field {
            "kind" => text(some(&event.kind)),
            "apiVersion" => text(some(&event.api_version)),
            "stage" => text(self.stage()),
            "level" => text(some(&event.level)),
            "audit_id" | "auditID" => text(some(&event.audit_id)),
            "verb" => text(self.verb()),
            "uri" | "requestURI" => text(self.uri()),
            "path" => text(self.path()),
            "user" | "user.username" => text(self.user),
            "has_user" => EventValue::Bool(event.user.is_some()),
            "uid" | "user.uid" => text(event.user.as_ref().and_then(|user| some(&user.uid))),
            "groups" | "user.groups" => list(event.user.as_ref().and_then(|user| user.groups.as_ref())),
            "imp" | "impersonatedUser.username" => text(self.impersonated()),
            "imp_groups" | "impersonatedUser.groups" => {
                list(event.impersonated_user.as_ref().and_then(|user| user.groups.as_ref()))
            }
            "actor" => text(self.actor()),
            "actor_groups" => {
                list(event.impersonated_user.as_ref().or(event.user.as_ref()).and_then(|user| user.groups.as_ref()))
            }
            "ip" => text(self.ip()),
            "ips" | "sourceIPs" => list(event.source_ips.as_ref()),
            "ip_24" => self.ip().map_or(EventValue::Null, |ip| EventValue::Str(Cow::Owned(network_of(ip)))),
            "ip_family" => EventValue::Str(Cow::Borrowed(match self.ip().map(str::parse::<IpAddr>) {
                Some(Ok(IpAddr::V4(_))) => "4",
                Some(Ok(IpAddr::V6(_))) => "6",
                _ => "",
            })),
            "loopback" => EventValue::Bool(self.is_from_loopback()),
            "public_ip" => EventValue::Bool(self.is_from_public_ip()),
            "outside_cluster" => EventValue::Bool(self.ip().is_some_and(|ip| self.is_outside_cluster(ip))),
            "ua" | "userAgent" => text(some(&event.user_agent)),
            "ua_prefix" => text(some(&event.user_agent).map(product)),
            "group" | "objectRef.apiGroup" | "apiGroup" => text(self.group()),
            "res" | "objectRef.resource" | "resource" => text(self.res()),
            "sub" | "objectRef.subresource" | "subresource" => text(self.sub()),
            "ns" | "objectRef.namespace" | "namespace" => text(self.ns()),
            "objectRef.name" => text(self.object_name()),
            "objectRef.apiVersion" => text(event.object_ref.as_ref().and_then(|object| some(&object.api_version))),
            "name" => self.name().map_or(EventValue::Null, EventValue::Str),
            "uri_gvr" => EventValue::Str(Cow::Owned(format!(
                "{}/{}/{}",
                self.group().unwrap_or(""),
                event.object_ref.as_ref().and_then(|object| some(&object.api_version)).unwrap_or(""),
                self.res().unwrap_or("")
            ))),
            "code" => self.code().map_or(EventValue::Null, EventValue::Int),
            "responseStatus.code" => self.code().map_or(EventValue::Null, |code| self.code_and_decision(code)),
            "reason" | "responseStatus.reason" => {
                text(event.response_status.as_ref().and_then(|status| some(&status.reason)))
            }
            "responseStatus.status" => text(event.response_status.as_ref().and_then(|status| some(&status.status))),
            "msg" | "responseStatus.message" => text(self.message()),
            "msg_webhook" => text(self.message().and_then(|message| message.split('"').nth(1))),
            "decision" => self.borrowed(self.annotation("authorization.k8s.io/decision")),
            "annotation_keys" => event.annotations.as_ref().map_or(EventValue::Null, |pairs| {
                EventValue::Array(pairs.iter().map(|(key, _)| EventValue::Str(Cow::Borrowed(key))).collect())
            }),
            "failed_open" => self.borrowed(event.annotations.as_ref().and_then(|pairs| {
                pairs.iter().find(|(key, _)| key.starts_with("failed-open.")).map(|(_, value)| &**value)
            })),
            "cmd" => self.borrowed(self.command()),
            "allowed_user" => EventValue::Bool(self.user.is_some_and(|user| self.site.allows_user(user))),
            "allowed_node" => EventValue::Bool(self.name().is_some_and(|name| self.site.allows_node(&name))),
            "allowed_namespace" => EventValue::Bool(self.name().is_some_and(|name| self.site.allows_namespace(&name))),
            "has_podspec" => EventValue::Bool(self.podspec().is_some()),
            "packaged_pod" => EventValue::Bool(self.packaged_pod()),
            "podspec.controller_sa" => EventValue::Bool(
                self.podspec()
                    .and_then(|spec| spec.get("serviceAccountName")?.as_str())
                    .is_some_and(is_controller_account),
            ),
            "controller_sa" => EventValue::Bool(self.name().is_some_and(|name| is_controller_account(&name))),
            "hostpaths" | "hostPath" => owned_list(self.podspec().map(body::hostpaths)),
            "caps" | "capabilities" => owned_list(self.podspec().map(body::capabilities)),
            "images" => owned_list(self.images().map(|images| images.into_iter().map(str::to_owned).collect())),
            "images.outside_allowed" => owned_list(self.images().map(|images| {
                images
                    .into_iter()
                    .map(body::full_image)
                    .filter(|image| self.site.refuses_image(image))
                    .map(Cow::into_owned)
                    .collect()
            })),
            "pv_hostpath" => self
                .body()
                .and_then(|body| body.pointer("/spec/hostPath/path")?.as_str())
                .map_or(EventValue::Null, |path| EventValue::Str(Cow::Owned(body::normal_path(path)))),
            "subjects" => owned_list(self.body().map(body::subjects)),
            "grants" => owned_list(self.body().and_then(|body| body.get("rules")).map(body::grants)),
            "pss_enforce" => self
                .request()
                .and_then(|request| patch::pss_enforce(request, self.verb() == Some("patch")))
                .map_or(EventValue::Null, |level| EventValue::Str(Cow::Owned(level))),
            "pss_weakened" => self.before.pss_weakened.map_or(EventValue::Null, EventValue::Bool),
            "template_changed" => self.before.template_changed.map_or(EventValue::Null, EventValue::Bool),
            "denied_elsewhere" => EventValue::Bool(self.before.denied_elsewhere),
            "pod_gone" => EventValue::Bool(self.before.pod_gone),
            "node_pods" => EventValue::Int(self.before.node_pods),
            "wildcard" => self
                .body()
                .and_then(|body| body::wildcard(body.get("rules")?))
                .map_or(EventValue::Null, |reach| EventValue::Str(Cow::Borrowed(reach))),
            "patched" => owned_list((self.verb() == Some("patch")).then(|| self.patched())),
            "csr.user" => owned_list(self.body().and_then(body::csr_subject).map(|(names, _)| names)),
            "csr.groups" => owned_list(self.body().and_then(body::csr_subject).map(|(_, groups)| groups)),
            "chart.outside_allowed" => owned_list(self.body().map(|body| self.refused_chart(body))),
            "netpol.allow_all" => EventValue::Bool(self.sent().is_some_and(patch::allows_all)),
            "unread_body" => EventValue::Bool(self.is_unread()),
            "data.keys" | "data.values" => self.config_data(field == "data.keys"),
            _ => self.path_field(field),
        }
    }

    /// The code, and whether the request was allowed: a public rule asks for the word.
    fn code_and_decision(&self, code: i64) -> EventValue<'_> {
        let word = if self.flag(Flags::DENIED) { "FORBID" } else { "ALLOW" };
        EventValue::Array(vec![EventValue::Int(code), EventValue::Str(Cow::Borrowed(word))])
    }

    /// Whether the request came from the machine itself.
    pub(crate) fn is_from_loopback(&self) -> bool {
        let own = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        // Most addresses are seen not to be without being read.
        self.ip().is_some_and(|ip| (ip.starts_with("127.") || ip.contains(':')) && own(ip))
    }

    /// Whether the address is one the whole world can reach, and none of the cluster's own.
    pub(crate) fn is_from_public_ip(&self) -> bool {
        self.ip().is_some_and(|ip| is_public(ip) && !self.site.is_of_cluster(ip))
    }

    fn is_outside_cluster(&self, ip: &str) -> bool {
        if self.site.cluster_networks.is_empty() {
            return is_public(ip);
        }
        ip.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback()) && !self.site.is_of_cluster(ip)
    }

    /// What a HelmChart runs or fetches from elsewhere than the allowed registries.
    fn refused_chart(&self, body: &Value) -> Vec<String> {
        let text = |field: &str| body.get("spec")?.get(field)?.as_str();
        let fetched = ["repo", "chart"]
            .into_iter()
            .filter_map(|field| text(field)?.split_once("://").map(|(_, rest)| rest.to_owned()));
        let image = text("jobImage").map(|image| body::full_image(image).into_owned());
        fetched.chain(image).filter(|from| self.site.refuses_image(from)).collect()
    }

    fn borrowed<'v>(&self, value: Option<&'v str>) -> EventValue<'v> {
        value.map_or(EventValue::Null, |value| EventValue::Str(Cow::Borrowed(value)))
    }

    /// Keys or values of a ConfigMap; never of a Secret (E11).
    fn config_data(&self, keys: bool) -> EventValue<'_> {
        let data = (self.res() == Some("configmaps"))
            .then(|| self.body().and_then(|body| body.get("data")?.as_object()))
            .flatten();
        let Some(data) = data else { return EventValue::Null };
        EventValue::Array(if keys {
            data.keys().map(|key| EventValue::Str(Cow::Borrowed(key.as_str()))).collect()
        } else {
            data.values().filter_map(Value::as_str).map(|value| EventValue::Str(Cow::Borrowed(value))).collect()
        })
    }

    /// `annotations.<key>`, `extra.<key>`, `q.<key>`, and paths into bodies.
    fn path_field(&self, field: &str) -> EventValue<'_> {
        let Some((head, rest)) = field.split_once('.') else {
            return match field {
                "requestObject" | "req" => exists(self.request()),
                "responseObject" | "resp" => exists(self.response()),
                "body" => exists(self.body()),
                "podspec" => exists(self.podspec()),
                "containers" => self.each_container(""),
                _ => EventValue::Null,
            };
        };
        match head {
            "annotations" => self.borrowed(self.annotation(rest)),
            "extra" => {
                list(self.event.user.as_ref().and_then(|user| user.extra.as_ref()).and_then(|extra| extra.get(rest)))
            }
            "user" => rest.strip_prefix("extra.").map_or(EventValue::Null, |key| {
                list(self.event.user.as_ref().and_then(|user| user.extra.as_ref()).and_then(|extra| extra.get(key)))
            }),
            "q" => self
                .query()
                .and_then(|query| query_values(query, rest).next())
                .map_or(EventValue::Null, EventValue::Str),
            "req" | "requestObject" => match (at(self.sent(), rest), self.request()) {
                // Of a JSON patch the operations themselves.
                (EventValue::Null, Some(operations @ Value::Array(_))) => at(Some(operations), rest),
                (value, _) => value,
            },
            "resp" | "responseObject" => at(self.response(), rest),
            "body" => at(self.body(), rest),
            "podspec" => at(self.podspec(), rest),
            "containers" => self.each_container(rest),
            "rules" | "roleref" | "subjects" => {
                let name = if head == "roleref" { "roleRef" } else { head };
                at(self.body().and_then(|body| body.get(name)), rest)
            }
            _ => EventValue::Null,
        }
    }

    fn each_container(&self, path: &str) -> EventValue<'_> {
        let Some(spec) = self.podspec() else { return EventValue::Null };
        let mut found = Vec::new();
        for container in body::containers(spec) {
            body::collect(container, path, &mut found);
        }
        values(found)
    }
}

/// Whether a rule may ask for a field of this name.
pub(crate) fn is_field(field: &str) -> bool {
    const PATHS: [&str; 13] = [
        "annotations",
        "extra",
        "q",
        "req",
        "requestObject",
        "resp",
        "responseObject",
        "body",
        "podspec",
        "containers",
        "rules",
        "roleref",
        "subjects",
    ];
    const NAMES: &str = " kind apiVersion stage level audit_id auditID verb uri requestURI path user user.username uid \
        user.uid groups user.groups imp impersonatedUser.username imp_groups impersonatedUser.groups actor \
        actor_groups ip ips sourceIPs ip_24 ip_family loopback public_ip ua userAgent ua_prefix group \
        objectRef.apiGroup apiGroup res objectRef.resource resource sub objectRef.subresource subresource ns \
        objectRef.namespace namespace objectRef.name objectRef.apiVersion name uri_gvr code responseStatus.code \
        reason responseStatus.reason responseStatus.status msg responseStatus.message msg_webhook decision \
        annotation_keys failed_open cmd allowed_user allowed_node allowed_namespace has_podspec packaged_pod hostpaths \
        hostPath caps capabilities images images.outside_allowed pv_hostpath grants pss_enforce netpol.allow_all \
        has_user controller_sa pss_weakened template_changed denied_elsewhere node_pods pod_gone wildcard patched csr.user csr.groups \
        chart.outside_allowed outside_cluster \
        data.keys data.values owner unread_body ";
    let head = field.split('.').next().unwrap_or(field);
    Flags::bit(field).is_some()
        || PATHS.contains(&head)
        || field.starts_with("user.extra.")
        || NAMES.split_ascii_whitespace().any(|name| name == field)
}

impl rsigma_eval::Event for View<'_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        // Absent is null: `field: null` and lists holding null then match either.
        Some(self.field(path))
    }

    fn any_string_value(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        self.all_string_values().iter().any(|value| pred(value))
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        ["verb", "uri", "user", "imp", "ua", "res", "sub", "ns", "name", "msg", "cmd", "ip"]
            .iter()
            .filter_map(|field| match self.field(field) {
                EventValue::Str(text) => Some(text),
                _ => None,
            })
            .collect()
    }

    fn to_json(&self) -> Value {
        // Asked for only by rules that want the whole event in their result. Ours never carry a body.
        serde_json::json!({ "auditID": self.event.audit_id.as_deref() })
    }
}

fn exists(value: Option<&Value>) -> EventValue<'_> {
    if value.is_some() { EventValue::Map(Vec::new()) } else { EventValue::Null }
}

fn at<'v>(value: Option<&'v Value>, path: &str) -> EventValue<'v> {
    let Some(value) = value else { return EventValue::Null };
    let mut found = Vec::new();
    body::collect(value, path, &mut found);
    values(found)
}

fn values(found: Vec<&Value>) -> EventValue<'_> {
    let mut out: Vec<EventValue<'_>> = found
        .into_iter()
        .filter_map(|value| match value {
            Value::Null => None,
            Value::Bool(yes) => Some(EventValue::Bool(*yes)),
            Value::Number(number) => Some(
                number.as_i64().map_or_else(|| EventValue::Float(number.as_f64().unwrap_or(f64::NAN)), EventValue::Int),
            ),
            Value::String(text) => Some(EventValue::Str(Cow::Borrowed(text))),
            Value::Array(_) | Value::Object(_) => Some(EventValue::Map(Vec::new())),
        })
        .collect();
    match out.len() {
        0 => EventValue::Null,
        1 => out.pop().unwrap_or(EventValue::Null),
        _ => EventValue::Array(out),
    }
}

fn list<'v>(texts: Option<&'v Vec<Text<'_>>>) -> EventValue<'v> {
    match texts {
        Some(texts) if !texts.is_empty() => {
            EventValue::Array(texts.iter().map(|text| EventValue::Str(Cow::Borrowed(&**text))).collect())
        }
        _ => EventValue::Null,
    }
}

fn owned_list<'v>(texts: Option<Vec<String>>) -> EventValue<'v> {
    match texts {
        Some(texts) if !texts.is_empty() => {
            EventValue::Array(texts.into_iter().map(|text| EventValue::Str(Cow::Owned(text))).collect())
        }
        _ => EventValue::Null,
    }
}

/// A user agent's product, without its version.
pub(crate) fn product(agent: &str) -> &str {
    agent.split(['/', ' ', '@']).next().unwrap_or(agent)
}
