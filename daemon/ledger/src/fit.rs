//! Bodies are cut to what the wire takes before they get a number: an event that the collector must refuse would
//! stop everything behind it for good. Limits are those of picket.v1 (proto/src/limits.rs).

use picket_model::{EventBody, Evidence, Finding, Verdict};

const TEXT: usize = 16 * 1024;
const PATH: usize = 4096;
const NAME: usize = 1024;
const EVIDENCE: usize = 64;
const AUDIT_IDS: usize = 100;
const SMALL_LIST: usize = 16;
const MARK: &str = "… (cut)";

fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let mut end = limit - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
}

fn cut_list(list: &mut Vec<String>, limit: usize) {
    list.truncate(limit);
    for text in list {
        cut(text, NAME);
    }
}

fn evidence(list: &mut Vec<Evidence>) {
    if list.len() > EVIDENCE {
        let more = list.len() - EVIDENCE + 1;
        list.truncate(EVIDENCE - 1);
        list.push(Evidence::note(format!("and {more} more")));
    }
    for one in list {
        if let Some(path) = &mut one.path {
            cut(path, PATH);
        }
        if let Some(layer) = &mut one.layer {
            cut(layer, 64);
        }
        cut(&mut one.detail, PATH);
    }
}

/// Cuts a verdict, so that the finding made from it keeps one identity.
pub(crate) fn verdict(verdict: &mut Verdict) {
    cut(&mut verdict.control, 128);
    cut(&mut verdict.subject, PATH);
    cut(&mut verdict.title, NAME);
    cut(&mut verdict.observed, TEXT);
    cut(&mut verdict.expected, TEXT);
    cut(&mut verdict.remedy, TEXT);
    evidence(&mut verdict.evidence);
}

fn finding(finding: &mut Finding) {
    cut(&mut finding.control, 128);
    cut(&mut finding.subject, PATH);
    cut(&mut finding.title, NAME);
    cut(&mut finding.observed, TEXT);
    cut(&mut finding.expected, TEXT);
    cut(&mut finding.remedy, TEXT);
    evidence(&mut finding.evidence);
}

/// Cuts a body.
pub(crate) fn body(body: &mut EventBody) {
    match body {
        EventBody::FindingOpened { finding: f }
        | EventBody::FindingChanged { finding: f }
        | EventBody::FindingResolved { finding: f } => finding(f),
        EventBody::Detection { detection } => {
            cut(&mut detection.rule, 128);
            cut(&mut detection.title, NAME);
            cut(&mut detection.file, PATH);
            cut(&mut detection.audit_id, NAME);
            cut_list(&mut detection.audit_ids, AUDIT_IDS);
            cut(&mut detection.user, NAME);
            if let Some(user) = &mut detection.impersonated {
                cut(user, NAME);
            }
            if let Some(source) = &mut detection.source {
                cut(source, 256);
            }
            cut_list(&mut detection.forgeable_sources, SMALL_LIST);
            cut(&mut detection.verb, 64);
            cut(&mut detection.outcome, 64);
            cut_list(&mut detection.mitre, SMALL_LIST);
            let object = &mut detection.object;
            for part in [
                &mut object.group,
                &mut object.resource,
                &mut object.subresource,
                &mut object.namespace,
                &mut object.name,
            ] {
                cut(part, NAME);
            }
        }
        EventBody::Inventory { node } => {
            cut(&mut node.hostname, 253);
            if let Some(version) = &mut node.k3s_version {
                cut(version, 128);
            }
            cut(&mut node.picket_version, 128);
            cut(&mut node.kernel, 256);
        }
        EventBody::Gap { gap } => cut(&mut gap.detail, PATH),
    }
}
