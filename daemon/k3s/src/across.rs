//! All flags of all components, over the versions that are possible on a node.

use std::collections::{BTreeMap, BTreeSet};

use crate::effective::{AcrossVersions, EffectiveConfig, FlagValue, Flags};
use crate::version::K3sVersion;

impl EffectiveConfig {
    /// Every flag that any possible version passes, by component and name. A component is there if it runs in every
    /// possible version.
    pub fn flags_across(&self) -> BTreeMap<String, BTreeMap<String, AcrossVersions>> {
        self.across(|_, flags| flags.clone())
    }

    /// The same by the names the components read: to a kubelet `anonymous_auth` is `anonymous-auth`. The others know no
    /// flag of such a name, since K3s starts them without what turns `_` into `-` in their own programs.
    pub fn flags_as_read(&self) -> BTreeMap<String, BTreeMap<String, AcrossVersions>> {
        self.across(|component, flags| if component == "kubelet" { folded(flags) } else { flags.clone() })
    }

    /// Values of a component's flag in every version that is possible on this node.
    pub fn flag_across(&self, component: &str, name: &str) -> AcrossVersions {
        over_versions(self.variants.iter().map(|(version, components)| {
            (*version, components.get(component).and_then(|flags| flags.get(name)).cloned().unwrap_or_default())
        }))
    }

    fn across(&self, read: impl Fn(&str, &Flags) -> Flags) -> BTreeMap<String, BTreeMap<String, AcrossVersions>> {
        let of = |component: &String| {
            let variants: Vec<(K3sVersion, Flags)> = self
                .variants
                .iter()
                .map(|(version, components)| {
                    (*version, components.get(component).map(|flags| read(component, flags)).unwrap_or_default())
                })
                .collect();
            let names: BTreeSet<&String> = variants.iter().flat_map(|(_, flags)| flags.keys()).collect();
            names
                .into_iter()
                .map(|name| {
                    let values = variants.iter().map(|(v, flags)| (*v, flags.get(name).cloned().unwrap_or_default()));
                    (name.clone(), over_versions(values))
                })
                .collect()
        };
        self.components.keys().map(|component| (component.clone(), of(component))).collect()
    }
}

/// Flags with `-` for `_` in their names. K3s passes them in the order of the names as they are written, so that of two
/// spellings the values of the one with `_` come later.
fn folded(flags: &Flags) -> Flags {
    let mut out = Flags::new();
    for (name, values) in flags {
        out.entry(name.replace('_', "-")).or_default().extend(values.iter().cloned());
    }
    out
}

fn over_versions(values: impl Iterator<Item = (K3sVersion, Vec<FlagValue>)>) -> AcrossVersions {
    let mut runs: Vec<(K3sVersion, Vec<FlagValue>)> = Vec::new();
    for (version, values) in values {
        if runs.last().is_none_or(|(_, before)| *before != values) {
            runs.push((version, values));
        }
    }
    if runs.len() > 1 {
        return AcrossVersions::Differs(runs);
    }
    AcrossVersions::Same(runs.pop().map(|(_, values)| values).unwrap_or_default())
}
