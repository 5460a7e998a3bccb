//! Kernel parameters, live and persisted.

use picket_model::{Evidence, Observation, Status};

use crate::catalogue::{Control, Op};
use crate::context::Context;
use crate::judge_files::{absent, subject};
use crate::row::Row;
use crate::sysctl::same_value;

pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    match control.expected.op {
        Op::PersistedEquals => persisted(ctx, control),
        _ => control.what.iter().map(|key| live(ctx, control, key)).collect(),
    }
}

fn live(ctx: Context<'_>, control: &Control, key: &str) -> Row {
    let place = format!("/proc/sys/{}", key.replace('.', "/"));
    match ctx.snap.sysctls.get(key) {
        None => Row::unknown(key, format!("{place} was not looked at")),
        Some(Observation::Unreadable { reason }) => Row::unknown(key, format!("{place} cannot be read: {reason}")),
        Some(Observation::Absent) => {
            let status = match absent(control, key, String::new()).status {
                // Without `if_absent` a missing key is a failed comparison.
                Status::Unknown => Status::Fail,
                status => status,
            };
            Row::new(key, status, "this kernel has no such parameter")
                .with(Evidence::at(place, "does not exist").layer("kernel"))
        }
        Some(Observation::Value { value }) => {
            let good = control.expected.values().iter().any(|wanted| same_value(value, wanted));
            Row::pass_if(key, good, value.clone()).with(Evidence::at(place, format!("{key} = {value}")).layer("kernel"))
        }
    }
}

fn persisted(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let sysctls = match &ctx.snap.persisted_sysctls {
        Observation::Value { value } => value,
        Observation::Absent => return vec![Row::unknown(subject(ctx, control), "none of the sysctl folders exists")],
        Observation::Unreadable { reason } => {
            return vec![Row::unknown(subject(ctx, control), format!("the sysctl folders cannot be read: {reason}"))];
        }
    };
    let Some(wanted) = control.expected.value.as_object() else {
        return vec![Row::unknown(subject(ctx, control), "the catalogue gives no values")];
    };
    wanted
        .iter()
        .map(|(key, wanted)| {
            let wanted = crate::document::scalar(wanted).unwrap_or_default();
            if let Some((path, reason)) = sysctls.unreadable.first() {
                // A file that cannot be read may set any key.
                return Row::unknown(key, format!("{path} cannot be read: {reason}"));
            }
            match sysctls.get(key) {
                None => absent(control, key.clone(), "no file in the sysctl folders sets it".to_owned()),
                Some(found) => Row::pass_if(key, same_value(&found.value, &wanted), found.value.clone()).with(
                    Evidence::at(found.path.clone(), format!("{key} = {}", found.value))
                        .line(found.line)
                        .layer("persisted"),
                ),
            }
        })
        .collect()
}
