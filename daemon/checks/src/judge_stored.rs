//! How Secrets are stored, by the datastore's own word.

use picket_model::{Evidence, Observation, Status};

use crate::catalogue::Control;
use crate::context::{Answer, Context, external_datastore};
use crate::judge_files::{absent, select, subject};
use crate::judge_flags::why_not;
use crate::needs::FilePattern;
use crate::row::Row;
use crate::stored::StoredSecrets;

/// The requirement as a person would say it.
pub(crate) fn expected(control: &Control) -> String {
    match control.expected.text().as_str() {
        "encrypted" => "every Secret is stored encrypted",
        "history" => "no former value of a Secret is readable",
        "write_key" => "every Secret is encrypted with the key that writes",
        _ => "no readable Secret",
    }
    .to_owned()
}

/// Judges a control on what is stored.
pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Row {
    let path = subject(ctx, control);
    let kind = control.expected.text();
    if kind != "copy"
        && let Err(reason) = readable(ctx)
    {
        return Row::unknown(path, reason);
    }
    let selection = select(ctx, &[FilePattern::new(path.as_str())]);
    if let Some((_, reason)) = selection.unreadable.first() {
        return Row::unknown(path, reason.clone());
    }
    if let Some((_, folder)) = selection.missing.first() {
        return Row::unknown(path, format!("{folder} does not exist"));
    }
    if selection.found.is_empty() {
        return absent(control, path, "does not exist".to_owned());
    }
    let stored = match ctx.snap.datastores.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return Row::unknown(path.clone(), why_not(&path, other)),
    };
    let row = match kind.as_str() {
        "encrypted" => encrypted(&path, stored),
        "history" => history(&path, stored),
        "write_key" => write_key(ctx, &path, stored),
        "copy" => copy(&path, stored),
        other => Row::unknown(path.as_str(), format!("{other:?} is no question to a datastore")),
    };
    row.with(Evidence::at(
        path,
        format!(
            "Secrets: {}; former values: {}; of deleted Secrets: {}{}",
            stored.live.words(),
            stored.history.words(),
            stored.deleted.words(),
            if stored.complete { "" } else { " (not all rows were read)" }
        ),
    ))
}

/// Whether the datastore is one a node can read while it is in use.
fn readable(ctx: Context<'_>) -> Result<(), String> {
    if ctx.config().is_ok_and(external_datastore) {
        return Err("not decidable here: the datastore is external; ask its database, or compare \
                    `k3s secrets-encrypt status` on a server"
            .to_owned());
    }
    match ctx.sqlite() {
        Answer::Yes => Ok(()),
        Answer::Unknown(reason) => Err(reason),
        Answer::No(reason) => match ctx.embedded_etcd() {
            Answer::Yes => Err("not decidable here: embedded etcd keeps its file to itself while it runs; see \
                                `k3s secrets-encrypt status` on a server"
                .to_owned()),
            Answer::No(_) | Answer::Unknown(_) => Err(reason),
        },
    }
}

const CUT: &str = "not all rows could be read in the time allowed";

fn encrypted(path: &str, stored: &StoredSecrets) -> Row {
    let (live, total) = (&stored.live, stored.live.total());
    if live.plain > 0 {
        return Row::new(path, Status::Fail, format!("{} of {total} Secrets are stored in plain text", live.plain));
    }
    if !stored.complete {
        return Row::unknown(path, CUT);
    }
    if live.unclear > 0 {
        let words = format!("how {} of {total} Secrets are stored cannot be told", live.unclear);
        return Row::unknown(path, words);
    }
    if total == 0 {
        return Row::unknown(path, "holds no Secret at all, which no cluster does: is this the database in use?");
    }
    Row::new(path, Status::Pass, format!("all {total} Secrets are encrypted"))
}

fn history(path: &str, stored: &StoredSecrets) -> Row {
    let plain = stored.history.plain + stored.deleted.plain;
    if plain > 0 {
        let words = format!(
            "{} former values and {} values of deleted Secrets are in plain text",
            stored.history.plain, stored.deleted.plain
        );
        return Row::new(path, Status::Fail, words);
    }
    if !stored.complete {
        return Row::unknown(path, CUT);
    }
    let unclear = stored.history.unclear + stored.deleted.unclear;
    if unclear > 0 {
        return Row::unknown(path, format!("how {unclear} former values are stored cannot be told"));
    }
    if stored.live.total() == 0 {
        return Row::unknown(path, "holds no Secret at all, which no cluster does: is this the database in use?");
    }
    Row::new(path, Status::Pass, "no former value is in plain text")
}

/// Keys are compared by provider and name: names are what the prefix of a value holds.
fn write_key(ctx: Context<'_>, path: &str, stored: &StoredSecrets) -> Row {
    let file = format!("{}/server/cred/encryption-config.json", ctx.snap.data_dir);
    let config = match ctx.snap.encryption_configs.get(&file) {
        Some(Observation::Value { value }) => value,
        other => return Row::unknown(path, why_not(&file, other)),
    };
    let Some(first) = config.group_for("secrets").and_then(|group| group.providers.first()) else {
        return Row::unknown(path, format!("{file} names no provider for secrets"));
    };
    let Some(name) = first.key_names.first() else {
        return Row::new(path, Status::NotApplicable, format!("{} writes, which has no key here", first.kind));
    };
    let others: u64 = stored
        .live
        .encrypted
        .iter()
        .filter(|((provider, key), _)| *provider != first.kind || key != name)
        .map(|(_, count)| count)
        .sum();
    let evidence = Evidence::at(file, format!("{}, key {name} writes", first.kind));
    let total = stored.live.total();
    let unnamed = stored.live.encrypted.keys().any(|(provider, key)| *provider == first.kind && key.is_empty());
    let row = if unnamed {
        Row::unknown(path, "the name of a key could not be told from a stored value")
    } else if others > 0 {
        Row::new(path, Status::Fail, format!("{others} of {total} Secrets are encrypted with another key"))
    } else if !stored.complete {
        Row::unknown(path, CUT)
    } else if stored.live.encrypted.is_empty() {
        Row::unknown(path, "no Secret is encrypted")
    } else {
        Row::new(path, Status::Pass, format!("every encrypted Secret is under {name}"))
    };
    row.with(evidence)
}

fn copy(path: &str, stored: &StoredSecrets) -> Row {
    let plain = stored.live.plain + stored.history.plain + stored.deleted.plain;
    let unclear = stored.live.unclear + stored.history.unclear + stored.deleted.unclear;
    if plain > 0 {
        Row::new(path, Status::Fail, format!("{plain} values of Secrets in plain text"))
    } else if !stored.complete {
        Row::unknown(path, CUT)
    } else if unclear > 0 {
        Row::unknown(path, format!("how {unclear} values are stored cannot be told"))
    } else {
        Row::new(path, Status::Pass, "no value of a Secret in plain text")
    }
}
