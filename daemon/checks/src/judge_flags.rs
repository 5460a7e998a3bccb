//! Options of K3s and flags of its components.

use picket_model::flag_value::{boolean, whole};
use picket_model::{Evidence, Observation, Status};
use serde_json::Value;

use crate::catalogue::{Control, IfAbsent, Modifier, Op, Source, texts};
use crate::context::{Context, Forgotten, Unseen};
use crate::judge_dropins;
use crate::judge_etcd;
use crate::judge_files::{Unnamed, named, subject};
use crate::node_config::Setting;
use crate::places::{REGISTRIES_FILE, registries_file};
use crate::row::Row;
use crate::values::{elements, host, odd_element, same, same_element, seconds};

/// What was found of one value.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// Its occurrences, in order.
    Values(Vec<Setting>),
    /// A readable source without it.
    Absent,
    /// It cannot be told.
    Unknown(String),
    /// It cannot be told how it was at the start.
    Forgotten(String),
}

/// Judges a control on flags or options.
pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    if let Some(reason) = control.source.component().and_then(|c| ctx.disabled(c)) {
        return vec![Row::new(subject(ctx, control), Status::NotApplicable, reason)];
    }
    let mut rows = match control.id.as_str() {
        // These compare more than one value; the shape of their entries is their own.
        "psa-defaults-enforced" => vec![psa_defaults(ctx, control)],
        "psa-exemptions-minimal" => psa_exemptions(ctx, control),
        "registries-tls-verified" => registries(ctx, control),
        "etcd-unique-ca" => judge_etcd::ca(ctx, control),
        "k3s-etcd-expose-metrics" => vec![judge_etcd::metrics(ctx, control)],
        "k3s-write-kubeconfig-mode" => vec![kubeconfig_mode(ctx, control)],
        "kubelet-dropin-no-security-override" => judge_dropins::judge(ctx, control),
        "kubelet-defaults-file-intact" => vec![judge_dropins::own(ctx, control)],
        _ => values(ctx, control),
    };
    // With something K3s would refuse on disk nothing is sure to come into force.
    if control.source != Source::Etcd
        && let Ok(config) = ctx.config()
        && let Some(problem) = config.problems.first()
    {
        for row in rows.iter_mut().filter(|row| row.status == Status::Pass) {
            row.status = Status::Unknown;
            row.observed = format!("{}, but K3s would refuse this configuration: {}", row.observed, problem.detail);
            row.evidence.push(problem.clone());
        }
    }
    rows
}

fn values(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let items = items(ctx, control);
    if items.is_empty() {
        return vec![Row::unknown(subject(ctx, control), "the catalogue names nothing that can be looked at")];
    }
    let wanted = control.expected.values();
    items
        .into_iter()
        .enumerate()
        .map(|(index, (name, possible))| {
            let wanted = if control.expected.op == Op::EqAll {
                wanted.get(index).map(|w| ctx.path(w)).into_iter().collect()
            } else {
                wanted.clone()
            };
            one(ctx, control, &name, possible, &wanted)
        })
        .collect()
}

/// Judges one value in each form it may have; only what all agree on counts.
pub(crate) fn one(ctx: Context<'_>, control: &Control, name: &str, possible: Vec<Found>, wanted: &[String]) -> Row {
    let mut rows = possible.into_iter().map(|found| compare(ctx, control, name, found, wanted));
    let Some(first) = rows.next() else { return Row::unknown(name, "nothing was looked at") };
    for other in rows {
        if other.status != first.status {
            return Row::unknown(
                name,
                format!("K3s versions differ ({} or {}), and the version is not known", first.observed, other.observed),
            )
            .with_all(first.evidence);
        }
    }
    first
}

/// The values a control looks at: name of the subject, and what it may be.
fn items(ctx: Context<'_>, control: &Control) -> Vec<(String, Vec<Found>)> {
    match control.source {
        Source::Etcd => control.what.iter().filter_map(|what| judge_etcd::item(ctx, what)).collect(),
        Source::Kubelet => kubelet_items(ctx, control),
        Source::K3s => {
            // Where one option decides, the others are named as evidence for a person.
            let key = control.expected.list(Modifier::Key);
            let all = control.what.iter().filter_map(|what| option_item(ctx, what));
            all.filter(|(name, _)| key.is_empty() || key.contains(name)).collect()
        }
        _ => {
            let component = control.source.component().unwrap_or_default();
            let flags: Vec<&String> = control.what.iter().filter(|w| w.starts_with("--")).collect();
            // Only what is judged as a value of its own gives a row; the rest is where else to look.
            let take = if control.expected.is(Modifier::All) { flags.len() } else { 1 };
            flags.into_iter().take(take).map(|flag| (flag.clone(), flag_found(ctx, component, flag))).collect()
        }
    }
}

fn flag_found(ctx: Context<'_>, component: &str, flag: &str) -> Vec<Found> {
    if (component, flag) == ("kube-scheduler", "--profiling")
        && let Some(path) = own_file(ctx, component)
    {
        // This flag of the scheduler is one of those its file takes the place of; its addresses are not.
        return vec![Found::Unknown(format!("{component} takes this setting from {path}, which is not read"))];
    }
    match ctx.flag(component, flag.trim_start_matches('-')) {
        Err(reason) => vec![Found::Unknown(reason)],
        Ok(possible) => possible.into_iter().map(found).collect(),
    }
}

/// The file a component takes its settings from, if its flags name one.
fn own_file(ctx: Context<'_>, component: &str) -> Option<String> {
    let mut named = ctx.flag(component, "config").ok()?.into_iter().filter_map(|values| values.last());
    named.find(|s| !s.value.is_empty()).map(|s| s.value.clone())
}

fn found(values: &[Setting]) -> Found {
    if values.is_empty() { Found::Absent } else { Found::Values(values.to_vec()) }
}

fn option_item(ctx: Context<'_>, what: &str) -> Option<(String, Vec<Found>)> {
    if let Some(flag) = what.strip_prefix("kube-proxy-arg: ") {
        // A file of its own stands in for the flags of kube-proxy.
        let found = match own_file(ctx, "kube-proxy") {
            Some(path) => vec![Found::Unknown(format!("kube-proxy takes its settings from {path}, which is not read"))],
            None => flag_found(ctx, "kube-proxy", flag),
        };
        return Some((what.to_owned(), found));
    }
    if what.starts_with("K3S_") || what.contains(' ') && !what.starts_with("config.yaml: ") {
        // A variable is another way to set an option that is listed too.
        return None;
    }
    let name = what.trim_start_matches("config.yaml: ").trim_start_matches('-');
    let found = match ctx.config() {
        Err(reason) => Found::Unknown(reason),
        Ok(config) => config.options.get(name).map_or(Found::Absent, |values| found(values)),
    };
    Some((name.to_owned(), vec![found]))
}

fn kubelet_items(ctx: Context<'_>, control: &Control) -> Vec<(String, Vec<Found>)> {
    let flags: Vec<&str> = control.what.iter().filter_map(|w| w.strip_prefix("--")).collect();
    let leaves: Vec<&str> = control.what.iter().filter_map(|w| w.strip_prefix("KubeletConfiguration.")).collect();
    let option = control.what.iter().find(|w| !w.starts_with("--") && !w.contains(['.', ' ', '/']));
    let count = if control.expected.is(Modifier::All) { flags.len().max(leaves.len()) } else { 1 };
    (0..count)
        .map(|index| {
            let (flag, leaf) = (flags.get(index).copied(), leaves.get(index).copied());
            let name = match (flag, leaf, option) {
                (_, _, Some(option)) => option.clone(),
                (Some(flag), ..) => format!("--{flag}"),
                (None, Some(leaf), None) => format!("KubeletConfiguration.{leaf}"),
                (None, None, None) => control.id.clone(),
            };
            (name, kubelet_found(ctx, flag, leaf, option.map(String::as_str)))
        })
        .collect()
}

/// The kubelet's own order: a flag, else the drop-ins, else its built-in default (absent here).
fn kubelet_found(ctx: Context<'_>, flag: Option<&str>, leaf: Option<&str>, option: Option<&str>) -> Vec<Found> {
    let flag_name = flag.or(option).unwrap_or_default();
    let possible = match ctx.flag("kubelet", flag_name) {
        Err(reason) => return vec![Found::Unknown(reason)],
        Ok(possible) => possible,
    };
    // One gate among the feature gates.
    let gate = leaf.and_then(|l| l.strip_prefix("featureGates.")).filter(|_| flag_name == "feature-gates");
    possible
        .into_iter()
        .map(|values| {
            let values: Vec<Setting> = match gate {
                None => values.to_vec(),
                Some(gate) => values
                    .iter()
                    .flat_map(|s| s.value.split(',').map(move |e| (e, s)))
                    .filter_map(|(element, s)| {
                        let (name, value) = element.split_once('=')?;
                        (name.trim() == gate).then(|| Setting::new(value.trim(), s.evidence.clone()))
                    })
                    .collect(),
            };
            if !values.is_empty() {
                return Found::Values(values);
            }
            from_dropins(ctx, leaf, option)
        })
        .collect()
}

/// The kubelet's port without authentication.
const READ_ONLY_PORT: &str = "readOnlyPort";

fn from_dropins(ctx: Context<'_>, leaf: Option<&str>, option: Option<&str>) -> Found {
    let Some(leaf) = leaf else { return Found::Absent };
    let leaves = match ctx.kubelet_leaves(ctx.kubelet_dropins().as_deref()) {
        Ok(leaves) => leaves.unwrap_or_default(),
        Err(Unseen::Forgotten(reason)) => return Found::Forgotten(reason),
        Err(Unseen::Unknown(reason)) => {
            // An option of K3s decides alone where it is set: K3s writes the drop-in from it.
            return match option.map(|o| from_option(ctx, o)) {
                Some(found @ Found::Values(_)) => found,
                _ => Found::Unknown(reason),
            };
        }
    };
    let setting = leaves.get(leaf);
    // Without such a file the kubelet opens this port by itself, and no drop-in can close it: a zero there is lost.
    if leaf == READ_ONLY_PORT
        && setting.is_none()
        && let Ok(Some(file)) = ctx.kubelet_config_file()
    {
        let closed = Evidence::at(&file.value, "sets no readOnlyPort: the default of such files is 0");
        return Found::Values(vec![Setting::new("0", closed)]);
    }
    match option {
        // K3s writes the option into its own file at the next start; what another drop-in says comes after it.
        Some(option) if setting.is_none_or(|s| s.evidence.layer.as_deref() == Some("k3s-default")) => {
            from_option(ctx, option)
        }
        _ => setting.map_or(Found::Absent, |s| Found::Values(vec![s.clone()])),
    }
}

fn from_option(ctx: Context<'_>, name: &str) -> Found {
    match ctx.config() {
        Err(reason) => Found::Unknown(reason),
        Ok(config) => config.options.get(name).map_or(Found::Absent, |values| found(values)),
    }
}

/// Compares what was found by the control's op.
fn compare(ctx: Context<'_>, control: &Control, name: &str, found: Found, wanted: &[String]) -> Row {
    let expected = &control.expected;
    let values = match found {
        Found::Unknown(reason) => return Row::unknown(name, reason),
        Found::Forgotten(reason) => return Row::forgotten(name, reason),
        Found::Absent => return absent(ctx, control, name),
        Found::Values(values) => values,
    };
    if values.iter().any(|s| s.value == Setting::HIDDEN) && !matches!(expected.op, Op::Set | Op::Unset) {
        return Row::unknown(name, "the value is a secret and is not looked at")
            .with_all(values.into_iter().map(|s| s.evidence));
    }
    let last = values.last().map(|s| s.value.clone()).unwrap_or_default();
    let mut list = elements(values.iter().map(|s| s.value.as_str()));
    // K3s takes blanks off its own lists, and the gates of components come without them too.
    if control.source.component().is_none() || name.trim_start_matches('-') == "feature-gates" {
        list.iter_mut().for_each(|element| *element = element.trim());
    } else if matches!(expected.op, Op::Has | Op::NotHas | Op::SubsetOf | Op::Empty)
        && let Some(odd) = odd_element(values.iter().map(|s| s.value.as_str()))
    {
        return Row::unknown(name, odd_words(odd)).with_all(values.into_iter().map(|s| s.evidence));
    }
    // To the API server a list of modes without any is none at all.
    if list.is_empty() && expected.if_absent == Some(IfAbsent::AuthorizationConfig) {
        return absent(ctx, control, name);
    }
    let verdict: Result<bool, String> = match expected.op {
        Op::Eq | Op::EqAll => Ok(wanted.iter().any(|w| same(&last, w))),
        Op::In => Ok(wanted.iter().any(|w| same(&last, w))),
        Op::Ne => match wanted.first() {
            Some(w) if matches!(w.as_str(), "true" | "false") && boolean(&last).is_none() => {
                Err(format!("{last:?} is neither true nor false"))
            }
            Some(w) => Ok(!same(&last, w)),
            None => Err("the catalogue gives no value".to_owned()),
        },
        Op::Has => {
            let has = wanted.iter().all(|w| holds(&list, w));
            match expected.list(Modifier::AndConfigSection).first() {
                Some(section) if has => return with_section(ctx, name, section, &values),
                _ => Ok(has),
            }
        }
        Op::NotHas => Ok(!wanted.iter().any(|w| holds(&list, w))),
        Op::SubsetOf => {
            if list.is_empty() {
                return absent(ctx, control, name);
            }
            let strays: Vec<&&str> = list.iter().filter(|e| !wanted.iter().any(|w| w == *e)).collect();
            if !strays.is_empty() {
                let strays: Vec<String> = strays.into_iter().map(|s| (*s).to_owned()).collect();
                return Row::new(name, Status::Fail, format!("also {}", strays.join(", ")))
                    .with_all(values.into_iter().map(|s| s.evidence));
            }
            Ok(true)
        }
        Op::Ge | Op::Gt => match (whole(&last), expected.number()) {
            (Some(found), Some(limit)) => Ok(if expected.op == Op::Ge { found >= limit } else { found > limit }),
            (None, _) => Err(format!("{last:?} is not a whole number")),
            (_, None) => Err("the catalogue gives no number".to_owned()),
        },
        Op::Set => match expected.get(Modifier::Range).and_then(Value::as_array).map(Vec::as_slice) {
            Some([low, high]) => match (whole(&last), low.as_i64(), high.as_i64()) {
                (Some(found), Some(low), Some(high)) => Ok((low..=high).contains(&found)),
                _ => Err(format!("{last:?} is not a whole number")),
            },
            _ => Ok(!last.is_empty()),
        },
        Op::Unset => Ok(last.is_empty()),
        Op::Prefix => Ok(wanted.iter().any(|w| last.starts_with(w.as_str()))),
        Op::NotPrefix => {
            // Both ways to speak plain HTTP count, whatever the case.
            let last = last.to_ascii_lowercase();
            Ok(!wanted.iter().any(|w| last.starts_with(&w.to_ascii_lowercase())))
        }
        Op::HostIn => Ok(wanted.iter().any(|w| w == host(&last))),
        Op::DurationBetween => {
            let limit = |m| expected.list(m).first().and_then(|t| seconds(t));
            match (seconds(&last), limit(Modifier::Min), limit(Modifier::Max)) {
                (Some(found), Some(min), Some(max)) => Ok(found >= min && found <= max),
                (None, ..) => Err(format!("{last:?} is not a duration")),
                _ => Err("the catalogue gives no limits".to_owned()),
            }
        }
        Op::Empty => Ok(list.is_empty()),
        other => Err(format!("op {other:?} does not compare flags")),
    };
    let shown = show(&values);
    let evidence = values.into_iter().map(|s| {
        let mut evidence = s.evidence;
        if evidence.detail.is_empty() {
            evidence.detail = format!("{name} = {}", clip(&s.value));
        }
        evidence
    });
    match verdict {
        Ok(good) => Row::pass_if(name, good, shown).with_all(evidence),
        Err(reason) => Row::unknown(name, reason).with_all(evidence),
    }
}

fn odd_words(element: &str) -> String {
    format!("{element:?} is no plain element of the list: components take blanks and quotes as they stand")
}

/// Whether a list has an element. Of `name=value` the last of that name counts, as in a component's map.
fn holds(list: &[&str], wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, _)) => {
            let named = |e: &&&str| e.split_once('=').is_some_and(|(key, _)| key.trim() == name);
            list.iter().rfind(named).is_some_and(|e| same_element(e, wanted))
        }
        None => list.contains(&wanted),
    }
}

fn show(values: &[Setting]) -> String {
    let text = values.iter().map(|s| s.value.as_str()).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "set to nothing".to_owned() } else { clip(&text) }
}

/// Long values are cut: a row is for people.
fn clip(text: &str) -> String {
    const LIMIT: usize = 400;
    if text.chars().count() <= LIMIT {
        text.to_owned()
    } else {
        text.chars().take(LIMIT).chain("…".chars()).collect()
    }
}

/// A readable source without the key.
fn absent(ctx: Context<'_>, control: &Control, name: &str) -> Row {
    let expected = &control.expected;
    let status = match expected.if_absent {
        Some(IfAbsent::Pass) => Status::Pass,
        Some(IfAbsent::Fail) => Status::Fail,
        Some(IfAbsent::NotApplicable) => Status::NotApplicable,
        Some(IfAbsent::AuthenticationConfig) => return authentication_config(ctx, control, name),
        Some(IfAbsent::AuthorizationConfig) => return authorization_config(ctx, control, name),
        None => match expected.op {
            Op::Unset | Op::Empty | Op::SubsetOf | Op::NotHas | Op::NotPrefix | Op::NotMatches => Status::Pass,
            Op::Set | Op::Eq | Op::EqAll | Op::Has => Status::Fail,
            _ => Status::Unknown,
        },
    };
    let words = match expected.list(Modifier::Default).first() {
        Some(default) => format!("not set; the default is {default}"),
        None => "not set".to_owned(),
    };
    Row::new(name, status, words.clone()).with(Evidence::note(format!("{name}: {words}")))
}

/// Without `--anonymous-auth` the authentication configuration decides, and without that the upstream default, true.
fn authentication_config(ctx: Context<'_>, control: &Control, name: &str) -> Row {
    let path = match named(ctx, "authentication-config") {
        Ok(path) => path,
        Err(Unnamed::NotSet(_)) => {
            let words = "not set, and the API server's own default is true";
            return Row::new(name, Status::Fail, words).with(Evidence::note(words));
        }
        Err(Unnamed::Unknown(reason)) => return Row::unknown(name, reason),
    };
    let config = match ctx.snap.authentication_configs.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return Row::unknown(name, why_not(&path, other)),
    };
    let allowed =
        control.expected.get(Modifier::Alternative).and_then(|a| a.get("value")).map(texts).unwrap_or_default();
    let (good, words) = match &config.anonymous {
        None => (false, "no anonymous block, and the API server's own default is true".to_owned()),
        Some(block) if !block.enabled => (true, "anonymous requests are refused".to_owned()),
        Some(block) if block.paths.is_empty() => (false, "anonymous requests may reach every path".to_owned()),
        Some(block) => (
            block.paths.iter().all(|p| allowed.contains(p)),
            format!("anonymous requests may reach {}", block.paths.join(", ")),
        ),
    };
    Row::pass_if(name, good, words.clone()).with(Evidence::at(path, words))
}

/// Without `--authorization-mode` the authorization configuration decides, and without that the upstream default,
/// AlwaysAllow.
fn authorization_config(ctx: Context<'_>, control: &Control, name: &str) -> Row {
    let path = match named(ctx, "authorization-config") {
        Ok(path) => path,
        Err(Unnamed::NotSet(_)) => {
            let words = "not set, and the API server's own default is AlwaysAllow";
            return Row::new(name, Status::Fail, words).with(Evidence::note(words));
        }
        Err(Unnamed::Unknown(reason)) => return Row::unknown(name, reason),
    };
    let config = match ctx.snap.authorization_configs.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return Row::unknown(name, why_not(&path, other)),
    };
    let wanted = control.expected.values();
    let has = config.authorizers.iter().any(|a| wanted.contains(a));
    let words = format!("authorizers {}", config.authorizers.join(", "));
    let good = if control.expected.op == Op::NotHas { !has } else { has };
    Row::pass_if(name, good, words.clone()).with(Evidence::at(path, words))
}

/// A plugin that is on but has no configuration does nothing.
fn with_section(ctx: Context<'_>, name: &str, section: &str, values: &[Setting]) -> Row {
    let evidence: Vec<Evidence> = values.iter().map(|s| s.evidence.clone()).collect();
    let path = match named(ctx, "admission-control-config-file") {
        Ok(path) => path,
        Err(Unnamed::NotSet(reason)) => {
            return Row::new(name, Status::Fail, format!("{section} is on without a configuration: {reason}"))
                .with_all(evidence);
        }
        Err(Unnamed::Unknown(reason)) => return Row::unknown(name, reason),
    };
    let seen = match ctx.admission_config(&path) {
        Ok(seen) => seen,
        Err(Forgotten(reason)) => return Row::forgotten(name, reason).with_all(evidence),
    };
    match seen {
        Some(Observation::Value { value }) => {
            let good = value.plugins.iter().any(|p| p == section);
            let words = if good { "on and configured" } else { "on, but its configuration has no section for it" };
            Row::pass_if(name, good, words).with_all(evidence).with(Evidence::at(path, format!("section {section}")))
        }
        other => Row::unknown(name, why_not(&path, other)),
    }
}

/// Why a document cannot be judged.
pub(crate) fn why_not<T>(path: &str, observation: Option<&Observation<T>>) -> String {
    match observation {
        Some(Observation::Unreadable { reason }) => format!("{path} cannot be read: {reason}"),
        Some(Observation::Absent) => format!("{path} does not exist"),
        _ => format!("{path} was not looked at"),
    }
}

/// The admission configuration, or the row of a control that cannot be judged without it.
fn psa_config<'a>(
    ctx: Context<'a>,
    name: &str,
    not_set: impl Fn(String) -> Row,
) -> Result<(String, &'a crate::admission::AdmissionConfig), Row> {
    let path = match named(ctx, "admission-control-config-file") {
        Ok(path) => path,
        Err(Unnamed::NotSet(reason)) => return Err(not_set(reason)),
        Err(Unnamed::Unknown(reason)) => return Err(Row::unknown(name, reason)),
    };
    match ctx.admission_config(&path) {
        Ok(Some(Observation::Value { value })) => Ok((path, value)),
        Ok(other) => Err(Row::unknown(name, why_not(&path, other))),
        Err(Forgotten(reason)) => Err(Row::forgotten(name, reason)),
    }
}

fn psa_defaults(ctx: Context<'_>, control: &Control) -> Row {
    let name = subject(ctx, control);
    let off = |found: &Found| match found {
        Found::Values(values) => elements(values.iter().map(|s| s.value.as_str())).contains(&"PodSecurity"),
        _ => false,
    };
    // Without its plugin the configuration enforces nothing.
    let disabled = flag_found(ctx, "kube-apiserver", "--disable-admission-plugins");
    if let Some(Found::Values(values)) = disabled.iter().find(|found| off(found)) {
        let words = "disable-admission-plugins turns PodSecurity off: its configuration enforces nothing";
        let status = if disabled.iter().all(off) { Status::Fail } else { Status::Unknown };
        return Row::new(name, status, words).with_all(values.iter().map(|s| s.evidence.clone()));
    }
    for found in disabled {
        match found {
            Found::Unknown(reason) => return Row::unknown(name, reason),
            Found::Forgotten(reason) => return Row::forgotten(name, reason),
            Found::Values(values) => {
                if let Some(odd) = odd_element(values.iter().map(|s| s.value.as_str())) {
                    return Row::unknown(name, format!("disable-admission-plugins: {}", odd_words(odd)));
                }
            }
            Found::Absent => {}
        }
    }
    let (path, config) = match psa_config(ctx, &name, |_| absent(ctx, control, &name)) {
        Ok(found) => found,
        Err(row) => return row,
    };
    let Some(pod_security) = &config.pod_security else {
        return Row::new(name, Status::Fail, "no section for PodSecurity: the default is privileged")
            .with(Evidence::at(path, "no PodSecurity"));
    };
    if let Some(elsewhere) = &pod_security.elsewhere {
        return Row::unknown(name, format!("the section for PodSecurity stands in {elsewhere}, which is not read"));
    }
    match pod_security.defaults.get("enforce") {
        Some(level) => {
            let good = control.expected.values().contains(level);
            Row::pass_if(name, good, format!("enforce = {level}"))
                .with(Evidence::at(path, format!("defaults.enforce = {level}")))
        }
        None => Row::new(name, Status::Fail, "no default for enforce: it is privileged")
            .with(Evidence::at(path, "no defaults.enforce")),
    }
}

fn psa_exemptions(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let name = subject(ctx, control);
    let (path, config) = match psa_config(ctx, &name, |reason| Row::unknown(&name, reason)) {
        Ok(found) => found,
        Err(row) => return vec![row],
    };
    let Some(pod_security) = &config.pod_security else {
        return vec![
            Row::new(name, Status::Pass, "no section for PodSecurity: nothing is exempted")
                .with(Evidence::at(path, "no PodSecurity")),
        ];
    };
    if let Some(elsewhere) = &pod_security.elsewhere {
        return vec![Row::unknown(
            name,
            format!("the section for PodSecurity stands in {elsewhere}, which is not read"),
        )];
    }
    let parts = control.expected.value.as_array().map(Vec::as_slice).unwrap_or_default();
    parts
        .iter()
        .filter_map(|part| {
            let key = part.get("key")?.as_str()?;
            let exempt = match key {
                "namespaces" => &pod_security.exempt_namespaces,
                "usernames" => &pod_security.exempt_usernames,
                "runtimeClasses" => &pod_security.exempt_runtime_classes,
                _ => return None,
            };
            let allowed = part.get("value").map(texts).unwrap_or_default();
            let good = exempt.iter().all(|e| allowed.contains(e));
            let words = if exempt.is_empty() { "none".to_owned() } else { exempt.join(", ") };
            Some(
                Row::pass_if(format!("exemptions.{key}"), good, clip(&words))
                    .with(Evidence::at(path.clone(), format!("exemptions.{key}"))),
            )
        })
        .collect()
}

fn registries(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let path = match (ctx.config(), &ctx.snap.declared) {
        (Ok(config), _) => registries_file(&[config]),
        (Err(_), Observation::Absent) => REGISTRIES_FILE.to_owned(),
        (Err(reason), _) => return vec![Row::unknown(REGISTRIES_FILE, reason)],
    };
    let path = path.as_str();
    if !path.starts_with('/') {
        let reason = format!("private-registry = {path}: relative to what, is not known");
        return vec![Row::unknown(REGISTRIES_FILE, reason)];
    }
    if path != ctx.snap.registries_file() {
        return vec![Row::unknown(path, "not looked at: another file takes its place at the next start")];
    }
    let seen = match ctx.registries(path) {
        Ok(seen) => seen,
        Err(Forgotten(reason)) => return vec![Row::forgotten(path, reason)],
    };
    match seen {
        Observation::Absent => vec![absent(ctx, control, path)],
        Observation::Unreadable { reason } => vec![Row::unknown(path, format!("cannot be read: {reason}"))],
        Observation::Value { value } => {
            let mut rows: Vec<Row> = value
                .unverified
                .iter()
                .map(|name| {
                    Row::new(format!("{path} {name}"), Status::Fail, "insecure_skip_verify = true")
                        .with(Evidence::at(path, format!("configs.{name}.tls")))
                })
                .collect();
            rows.extend(value.plain_http.iter().map(|(mirror, endpoint)| {
                Row::new(format!("{path} {mirror} {endpoint}"), Status::Fail, format!("endpoint {endpoint}"))
                    .with(Evidence::at(path, format!("mirrors.{mirror}.endpoint")))
            }));
            if rows.is_empty() {
                let words = format!("{} registries and mirrors, all verified", value.entries);
                rows.push(Row::new(path, Status::Pass, words.clone()).with(Evidence::at(path, words)));
            }
            rows
        }
    }
}

fn kubeconfig_mode(ctx: Context<'_>, control: &Control) -> Row {
    let name = "write-kubeconfig-mode";
    let config = match ctx.config() {
        Ok(config) => config,
        Err(reason) => return Row::unknown(name, reason),
    };
    let Some(setting) = config.option(name) else { return absent(ctx, control, name) };
    let Some(limit) = control.expected.mode() else { return Row::unknown(name, "the catalogue gives no mode") };
    let evidence = setting.evidence.clone();
    // K3s reads the text as octal, without a prefix; what YAML made of an unquoted number stands here already.
    let (good, observed) = match i64::from_str_radix(&setting.value, 8) {
        Ok(mode) => (mode & !i64::from(limit) & 0o777 == 0, setting.value.clone()),
        Err(_) if setting.value.is_empty() => (true, "set to nothing: the file gets 0600".to_owned()),
        Err(_) => {
            (true, format!("{} is no octal mode: K3s logs an error, and the file keeps 0600", clip(&setting.value)))
        }
    };
    Row::pass_if(name, good, observed).with(evidence)
}
