//! All flags of all components, over the versions that are possible on a node.

use std::collections::{BTreeMap, BTreeSet};

use crate::effective::{AcrossVersions, EffectiveConfig};

impl EffectiveConfig {
    /// Every flag that any possible version passes, by component and name. A component is there if it runs in every
    /// possible version.
    pub fn flags_across(&self) -> BTreeMap<String, BTreeMap<String, AcrossVersions>> {
        let mut names: BTreeMap<&str, BTreeSet<&str>> =
            self.components.keys().map(|component| (component.as_str(), BTreeSet::new())).collect();
        for (_, components) in &self.variants {
            for (component, flags) in components {
                if let Some(names) = names.get_mut(component.as_str()) {
                    names.extend(flags.keys().map(String::as_str));
                }
            }
        }
        names
            .into_iter()
            .map(|(component, names)| {
                let flags =
                    names.into_iter().map(|name| (name.to_owned(), self.flag_across(component, name))).collect();
                (component.to_owned(), flags)
            })
            .collect()
    }
}
