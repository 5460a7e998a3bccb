//! From a node's files to its effective configuration.

use std::borrow::Cow;
use std::collections::BTreeMap;

use picket_model::Role;
use picket_model::flag_value::boolean;

use crate::argv::{self, Given, Parsed};
use crate::components::{self, Inputs};
use crate::effective::{EffectiveConfig, FlagValue, Flags, Layer, OptionValue, Problem, Trap, Warning};
use crate::files::NodeFiles;
use crate::kubelet_config::{KubeletFolder, OwnFile};
use crate::merge::{self, Merged};
use crate::options::{Known, without_tokens};
use crate::unit::{self, Start};
use crate::version::K3sVersion;
use crate::{Ask, journal, kubelet_config, refusals, traps};

/// The variable with which somebody changes the life of certificates K3s makes.
const CERTIFICATE_DAYS: &str = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS";

/// The first versions of each set of defaults, oldest first: what may run on a node whose version is not known.
const STEPS: [K3sVersion; 10] = [
    K3sVersion::new(1, 31, 0),
    K3sVersion::new(1, 31, 8),
    K3sVersion::new(1, 31, 9),
    K3sVersion::new(1, 32, 0),
    K3sVersion::new(1, 32, 4),
    K3sVersion::new(1, 32, 5),
    K3sVersion::new(1, 33, 0),
    K3sVersion::new(1, 33, 1),
    K3sVersion::new(1, 35, 0),
    K3sVersion::new(1, 36, 0),
];

/// The configuration K3s will start with on this node, as far as its files tell.
pub fn effective(files: &dyn NodeFiles, ask: &Ask<'_>) -> EffectiveConfig {
    let unit::Found { start, looked: mut sources, blind: mut warnings } = unit::find(files, ask.role, ask.host);
    let mut problems: Vec<Problem> = Vec::new();
    let main = argv::config_path(start.as_ref(), &mut warnings);
    let past_wrapper = argv::past_wrapper(start.as_ref());
    let mut merged = main.as_deref().map_or_else(Merged::default, |path| merge::merge(files, path, past_wrapper));
    if let Some(path) = argv::wrapper_file(start.as_ref(), main.as_deref()) {
        // Its values do not count, but K3s ends if it cannot be read.
        let read = merge::merge(files, path, false);
        problems.extend(read.problems);
        sources.extend(read.sources);
        merged.files.extend(read.files);
    }
    let role = ask
        .role
        .or_else(|| start.as_ref().and_then(Start::role).map(|(r, _)| r))
        .or_else(|| role_from_files(files, &merged));
    let files_understood = merged.problems.is_empty();
    problems.append(&mut merged.problems);
    sources.append(&mut merged.sources);

    let known = Known::of(role.unwrap_or(Role::Server));
    // What K3s makes of the value of a key it does not know is no trap of its own.
    let of_a_value = |trap| matches!(trap, Trap::NestedList | Trap::MapValue | Trap::ListReplaced | Trap::DuplicateKey);
    let is_known = |option: Option<&String>| option.is_none_or(|name| known.get(name).is_some());
    warnings.extend(merged.warnings.drain(..).filter(|w| !of_a_value(w.trap) || is_known(w.option.as_ref())));
    let mut parsed = Parsed::default();
    parsed.files(&merged.args, &known, role, filtered(role, start.as_ref()));
    if let Some(start) = &start {
        if let Some((_, at)) = start.role() {
            parsed.command_line(start.words.get(at + 1..).unwrap_or_default(), &known);
        }
        parsed.environment(start, &known);
        problems.extend(start.problems.iter().cloned());
        warnings.extend(start.warnings.iter().cloned());
        sources.extend(start.sources.iter().cloned());
    }
    parsed.old_names();

    let data_dir = components::data_dir(last(&parsed.given, "data-dir"));
    let folder = format!("{data_dir}/agent/etc/kubelet.conf.d");
    let no_kubelet = role == Some(Role::Server) && last(&parsed.given, "disable-agent") == Some("true");
    let kubelet = kubelet_config::read(files, &folder);
    sources.push(folder.clone());
    let version = ask.version.or_else(|| ask.journal.and_then(journal::started_version));
    let variants = match role {
        Some(role) if files_understood => {
            let versions = version.map_or_else(|| possible(files, &data_dir, kubelet.folder), |v| vec![v]);
            versions
                .into_iter()
                .map(|version| {
                    let inputs = Inputs { files, role, version, given: &parsed.given, known: &known, host: ask.host };
                    (version, components::components(&inputs))
                })
                .collect()
        }
        _ => Vec::new(),
    };
    let kubelet_args = components::kubelet_args(components::user_args(&parsed.given, &["kubelet-arg"]));
    if let Some(role) = role {
        traps::judge(&parsed.given, &kubelet_args, &kubelet, &variants, &mut warnings);
        let judged = refusals::Judged { files, role, given: &parsed.given, kubelet: &kubelet, args: &kubelet_args };
        refusals::judge(&judged, &variants, &mut problems);
    }
    problems.append(&mut parsed.problems);
    warnings.append(&mut parsed.warnings);
    problems.extend(kubelet.problems.iter().filter(|_| !no_kubelet).cloned());
    let kubelet_folder = match role {
        Some(role) if !no_kubelet && files_understood && variants.iter().any(|(v, _)| v.at_least(32, 0)) => {
            let on = |name| last(&parsed.given, name).and_then(boolean).unwrap_or(false);
            let off = |g: &Given| g.known && g.name == "disable" && g.value.split(',').any(|v| v.trim() == "servicelb");
            let service_lb = role == Role::Agent || !parsed.given.iter().any(off);
            let own = OwnFile { data_dir: &data_dir, protect: on("protect-kernel-defaults"), service_lb };
            Some(kubelet.at_next_start(&kubelet_args, &own))
        }
        _ => None,
    };
    let etcd_config = match kubelet_config::yaml_file(files, &format!("{data_dir}/server/db/etcd/config")) {
        Ok(value) if role != Some(Role::Agent) => value,
        _ => None,
    };
    let certificate_days = start.as_ref().and_then(|start| {
        let (variable, path) = start.environment.get(CERTIFICATE_DAYS)?;
        Some((variable.value.clone(), path.clone(), variable.line)).filter(|(value, ..)| !value.is_empty())
    });
    let mut unread: Vec<Problem> = problems.iter().filter(|p| p.is_blindness()).cloned().collect();
    unread.extend(warnings.iter().filter_map(Warning::unread));
    if role == Some(Role::Server) {
        unread.extend(components::unseen_datastore(files, &data_dir, &parsed.given));
    }
    unread.truncate(LISTED);
    bound(&mut problems, &mut warnings);
    let named = problems.iter_mut().map(|p| &mut p.path).chain(warnings.iter_mut().map(|w| &mut w.path));
    for path in named.flatten().chain(&mut sources).chain(&mut merged.files) {
        if let Cow::Owned(shown) = without_tokens(path) {
            *path = shown;
        }
    }
    sources.sort();
    sources.dedup();
    EffectiveConfig {
        role,
        version,
        defaults: known.iter().filter_map(|o| Some((o.name.clone(), o.default.clone()?))).collect(),
        options: options(parsed.given),
        components: common(&variants),
        kubelet_config: kubelet.merged().filter(|_| !no_kubelet),
        kubelet_folder,
        etcd_config,
        problems,
        unread,
        warnings,
        program: start.as_ref().and_then(|s| s.words.first()).map(|(word, _)| without_tokens(&word.text).into_owned()),
        unit_files: start.iter().flat_map(|s| std::iter::once(&s.path).chain(&s.drop_ins)).cloned().collect(),
        environment_files: start.iter().flat_map(|s| &s.environment_files).cloned().collect(),
        config_files: merged.files,
        unit: start.map(|s| s.path),
        certificate_days,
        variants,
        files_understood,
        sources,
    }
}

/// Problems and warnings listed at most; a last entry says how many more there are.
const LISTED: usize = 500;

fn bound(problems: &mut Vec<Problem>, warnings: &mut Vec<Warning>) {
    let more = |count: usize| format!("{} more of the kind are not listed", count - LISTED);
    if problems.len() > LISTED {
        let detail = more(problems.len());
        problems.truncate(LISTED);
        problems.push(Problem { path: None, line: None, detail });
    }
    if warnings.len() > LISTED {
        let detail = more(warnings.len());
        warnings.truncate(LISTED);
        warnings.push(Warning { trap: Trap::More, path: None, line: None, option: None, detail });
    }
}

/// Whether K3s drops unknown keys: only on a server, and only if the role is the first word after the program.
fn filtered(role: Option<Role>, start: Option<&Start>) -> bool {
    role != Some(Role::Agent) && start.is_none_or(|s| s.role().is_none_or(|(_, at)| at == 1))
}

fn last<'a>(given: &'a [Given], name: &str) -> Option<&'a str> {
    given.iter().rev().find(|g| g.known && g.name == name).map(|g| g.value.as_str())
}

/// The role, where no unit tells: from K3s' folders, then from the configuration itself.
fn role_from_files(files: &dyn NodeFiles, merged: &Merged) -> Option<Role> {
    let value =
        |names: [&str; 2]| merged.args.iter().rev().find(|a| names.contains(&a.key.as_str())).map(|a| a.value.as_str());
    let data_dir = components::data_dir(value(["data-dir", "d"]));
    if files.has_dir(&format!("{data_dir}/server")) {
        return Some(Role::Server);
    }
    if files.has_dir(&format!("{data_dir}/agent")) {
        return Some(Role::Agent);
    }
    // Without `server` K3s can be nothing but a server; with it, only an option agents do not know tells.
    let agent = Known::of(Role::Agent);
    let server = Known::of(Role::Server);
    let server_only = merged.args.iter().any(|a| server.get(&a.key).is_some() && agent.get(&a.key).is_none());
    let joins = value(["server", "s"]).is_some_and(|v| !v.is_empty());
    (merged.present && (server_only || !joins)).then_some(Role::Server)
}

/// Versions that may run here, by what K3s left behind.
fn possible(files: &dyn NodeFiles, data_dir: &str, kubelet_folder: bool) -> Vec<K3sVersion> {
    let own_certificates = files.has_dir(&format!("{data_dir}/server/tls/kube-scheduler"));
    STEPS
        .into_iter()
        .filter(|v| !kubelet_folder || v.at_least(32, 0))
        .filter(|v| {
            let may = match v.minor {
                31 => v.at_least(31, 9),
                32 => v.at_least(32, 5),
                _ => v.at_least(33, 1),
            };
            !own_certificates || may
        })
        .collect()
}

fn options(given: Vec<Given>) -> BTreeMap<String, Vec<OptionValue>> {
    let mut options: BTreeMap<String, Vec<OptionValue>> = BTreeMap::new();
    for g in given {
        let value = OptionValue { value: g.value, path: g.path, line: g.line, layer: g.layer, known: g.known };
        options.entry(g.name).or_default().push(value);
    }
    options
}

/// Components and flags all versions agree on.
fn common(variants: &[(K3sVersion, BTreeMap<String, Flags>)]) -> BTreeMap<String, Flags> {
    let Some(((_, first), rest)) = variants.split_first() else { return BTreeMap::new() };
    let mut components = first.clone();
    for (_, other) in rest {
        components.retain(|name, _| other.contains_key(name));
        for (name, flags) in &mut components {
            if let Some(theirs) = other.get(name) {
                flags.retain(|flag, values| theirs.get(flag) == Some(values));
            }
        }
    }
    components
}

impl EffectiveConfig {
    /// Values of an option by its long name, in the order K3s sees them; empty if it is not set.
    pub fn values(&self, name: &str) -> &[OptionValue] {
        self.options.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value in force of a single-valued option, if it is set.
    pub fn option(&self, name: &str) -> Option<&OptionValue> {
        self.values(name).iter().rev().find(|v| v.known)
    }

    /// The value in force, K3s' default included; none if neither is there. An empty value counts as set.
    pub fn option_or_default(&self, name: &str) -> Option<String> {
        if let Some(value) = self.option(name) {
            return Some(value.value.clone());
        }
        self.defaults.get(name).cloned()
    }

    /// A boolean option, its default included.
    pub fn bool_option(&self, name: &str) -> bool {
        self.option_or_default(name).as_deref().and_then(boolean).unwrap_or(false)
    }

    /// All values of a list option, split at commas, as K3s does for `disable`, `tls-san`, `node-ip` and the like.
    pub fn split_list(&self, name: &str) -> Vec<&str> {
        self.values(name)
            .iter()
            .filter(|v| v.known)
            .flat_map(|v| v.value.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .collect()
    }

    /// K3s' data dir, without a slash at its end.
    pub fn data_dir(&self) -> String {
        components::data_dir(self.option("data-dir").map(|v| v.value.as_str()))
    }

    /// The program that starts K3s, by the unit.
    pub fn program(&self) -> Option<&str> {
        self.program.as_deref()
    }

    /// Whether the component runs in this configuration, in every version that is possible here.
    pub fn runs(&self, component: &str) -> bool {
        self.components.contains_key(component)
    }

    /// Whether this configuration starts a kubelet.
    pub fn has_kubelet(&self) -> bool {
        self.role.is_some() && !(self.role == Some(Role::Server) && self.bool_option("disable-agent"))
    }

    /// Values of a component's flag; empty if it is not passed, or if possible versions differ.
    pub fn flag(&self, component: &str, name: &str) -> Vec<FlagValue> {
        self.components.get(component).and_then(|flags| flags.get(name)).cloned().unwrap_or_default()
    }

    /// Versions that are possible here: one where it is known, none where nothing can be said of components.
    pub fn possible_versions(&self) -> Vec<K3sVersion> {
        self.variants.iter().map(|(v, _)| *v).collect()
    }

    /// What the next start does to the folder of the kubelet's drop-ins; none without one.
    /// [`Self::kubelet_config`] is what lies there now.
    pub const fn kubelet_folder(&self) -> Option<&KubeletFolder> {
        self.kubelet_folder.as_ref()
    }

    /// Whether the configuration files could be read and merged. If not, only command line and environment are known.
    pub const fn files_understood(&self) -> bool {
        self.files_understood
    }

    /// The life of new certificates in days as the service's environment sets it, with path and
    /// line.
    pub fn certificate_days(&self) -> Option<(&str, &str, u32)> {
        self.certificate_days.as_ref().map(|(value, path, line)| (value.as_str(), path.as_str(), *line))
    }

    /// The configuration files with their drop-ins, present or not.
    pub fn config_files(&self) -> &[String] {
        &self.config_files
    }

    /// The unit or script that starts K3s, and the drop-ins of the unit.
    pub fn unit_files(&self) -> &[String] {
        &self.unit_files
    }

    /// Files with the environment of the service, present or not.
    pub fn environment_files(&self) -> &[String] {
        &self.environment_files
    }

    /// Files and folders this rests on, present or not: what to watch.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Whether any value comes from this layer.
    pub fn uses(&self, layer: Layer) -> bool {
        self.options.values().flatten().any(|v| v.layer == layer)
    }
}
