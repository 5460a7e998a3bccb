//! Keywords of rules that must all be somewhere in the event, each in a value of its own.

use rsigma_parser::{Detection, DetectionItem, Detections, Modifier};

/// Parts `'|all': [a, b]` without a field into one keyword each: the library asks for all of them in one value.
pub(crate) fn part(detections: &mut Detections) {
    detections.named.values_mut().for_each(part_search);
}

fn part_search(search: &mut Detection) {
    match search {
        Detection::AllOf(items) => *items = std::mem::take(items).into_iter().flat_map(parted).collect(),
        Detection::AnyOf(searches) | Detection::And(searches) => searches.iter_mut().for_each(part_search),
        Detection::Conditional { named, .. } => named.values_mut().for_each(part_search),
        // In an array what has no field is about one and the same member.
        Detection::ArrayMatch { .. } | Detection::Keywords(_) => {}
    }
}

fn parted(mut item: DetectionItem) -> Vec<DetectionItem> {
    if item.field.name.is_some() || !item.field.has_modifier(Modifier::All) || item.values.is_empty() {
        return vec![item];
    }
    item.field.modifiers.retain(|modifier| *modifier != Modifier::All);
    let values = std::mem::take(&mut item.values);
    values.into_iter().map(|value| DetectionItem { field: item.field.clone(), values: vec![value] }).collect()
}
