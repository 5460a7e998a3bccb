//! Placeholders of rules: `field|expand: '%name%'` stands for the values of a list of the site.

use rsigma_parser::{Detection, DetectionItem, Detections, Modifier, SigmaString, SigmaValue};

use crate::site::Site;

/// Most values that one item of a rule may stand for.
const MOST_VALUES: usize = 10_000;
/// What an empty list stands for: no text of a log holds it, since a NUL ends no name, path or address.
const NOTHING: &str = "\u{0}\u{0}";

/// Puts the site's lists in place of the placeholders.
pub(crate) fn expand(detections: &mut Detections, site: &Site) -> Result<(), String> {
    detections.named.values_mut().try_for_each(|search| expand_search(search, site))
}

fn expand_search(search: &mut Detection, site: &Site) -> Result<(), String> {
    match search {
        Detection::AllOf(items) => items.iter_mut().try_for_each(|item| expand_item(item, site)),
        Detection::AnyOf(searches) | Detection::And(searches) => {
            searches.iter_mut().try_for_each(|search| expand_search(search, site))
        }
        Detection::ArrayMatch { body, .. } => expand_search(body, site),
        Detection::Conditional { named, .. } => named.values_mut().try_for_each(|search| expand_search(search, site)),
        Detection::Keywords(_) => Ok(()),
    }
}

fn expand_item(item: &mut DetectionItem, site: &Site) -> Result<(), String> {
    if !item.field.has_modifier(Modifier::Expand) {
        return Ok(());
    }
    item.field.modifiers.retain(|modifier| *modifier != Modifier::Expand);
    let mut values = Vec::new();
    for value in std::mem::take(&mut item.values) {
        match value {
            SigmaValue::String(text) => {
                let texts = replaced(&text.original, site)?;
                if texts.len() + values.len() > MOST_VALUES {
                    return Err(format!(
                        "the placeholders of {:?} stand for more than {MOST_VALUES} values",
                        text.original
                    ));
                }
                values.extend(texts.iter().map(|text| SigmaValue::String(SigmaString::new(text))));
            }
            other => values.push(other),
        }
    }
    if values.is_empty() {
        if item.field.has_modifier(Modifier::Cidr) {
            return Err("the lists of the placeholders of a |cidr are empty".into());
        }
        values.push(SigmaValue::String(SigmaString::new(NOTHING)));
    }
    item.values = values;
    Ok(())
}

/// All texts that come from putting each value of its list in place of each placeholder.
fn replaced(text: &str, site: &Site) -> Result<Vec<String>, String> {
    let mut texts = vec![String::new()];
    let mut rest = text;
    while let Some((name, before, after)) = next(rest) {
        let list = site.list(name).ok_or_else(|| {
            let known = site.list_names().join(", ");
            format!("the placeholder %{name}% is no list under site: in tuning.yml; those are {known}")
        })?;
        if texts.len().saturating_mul(list.len()) > MOST_VALUES {
            return Err(format!("the placeholders of {text:?} stand for more than {MOST_VALUES} values"));
        }
        texts = texts.iter().flat_map(|text| list.iter().map(move |value| format!("{text}{before}{value}"))).collect();
        rest = after;
    }
    texts.iter_mut().for_each(|text| text.push_str(rest));
    Ok(texts)
}

/// The first placeholder, with what is before and behind it.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let start = from + text.get(from..)?.find('%')?;
        let (name, after) = text.get(start + 1..)?.split_once('%')?;
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
            return Some((name, text.get(..start)?, after));
        }
        from = start + 1;
    }
}
