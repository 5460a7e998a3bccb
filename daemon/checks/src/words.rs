//! What a control expects, in words.

use crate::catalogue::{Control, Modifier, Op};
use crate::context::Context;
use crate::judge_files::limit;

/// The requirement as a person would say it.
pub(crate) fn expected(ctx: Context<'_>, control: &Control) -> String {
    let expected = &control.expected;
    let value = expected.text();
    let owner = |text: String| match expected.list(Modifier::AndOwner).first() {
        Some(owner) => format!("{text}, owner {owner}"),
        None => text,
    };
    let first = |modifier| expected.list(modifier).into_iter().next().unwrap_or_default();
    match expected.op {
        Op::Eq | Op::EqAll => ctx.path(&value),
        Op::Ne => format!("not {value}"),
        Op::In => format!("one of {value}"),
        Op::Has => format!("has {value}"),
        Op::NotHas => format!("does not have {value}"),
        Op::SubsetOf => format!("nothing but {value}"),
        Op::Ge => format!("at least {value}"),
        Op::Gt => format!("more than {value}"),
        Op::Prefix => format!("begins with {value}"),
        Op::NotPrefix => format!("does not begin with {value}"),
        Op::NotMatches => "no token on the command line".to_owned(),
        Op::HostIn => format!("an address among {value}"),
        Op::DurationBetween => format!("between {} and {}", first(Modifier::Min), first(Modifier::Max)),
        Op::Empty => "empty".to_owned(),
        Op::Set => match expected.get(Modifier::Range).map(crate::catalogue::texts) {
            Some(range) => format!("set, in {}", range.join(" to ")),
            None => "set".to_owned(),
        },
        Op::Unset => "not set".to_owned(),
        Op::ModeAtMost => {
            let mode = limit(ctx, control).unwrap_or_default();
            owner(format!("mode {mode:04o} or stricter"))
        }
        Op::OwnerIs => format!("owner {value}"),
        Op::SymlinkTo => format!("a link to {}", ctx.path(&value)),
        Op::NotSymlink => "a file of its own with a token of its own".to_owned(),
        Op::MtimeAgeAtMost => format!("written within {value}"),
        Op::MtimeBeforeStart => "not changed since K3s started".to_owned(),
        Op::MtimeBeforeStartOrEqual => format!("not changed later than {} after K3s started", first(Modifier::Grace)),
        Op::PersistedEquals => match expected.value.as_object() {
            Some(map) => {
                let parts: Vec<String> = map
                    .iter()
                    .map(|(key, value)| format!("{key} = {}", crate::document::scalar(value).unwrap_or_default()))
                    .collect();
                parts.join(", ")
            }
            None => value,
        },
        Op::FieldsNotWeaker => "no drop-in weakens what K3s sets".to_owned(),
        Op::DaysLeftGe => format!("at least {value} days left"),
        Op::NotBeforeLeNow => "valid already".to_owned(),
        Op::ValidityDaysAtMost => format!("valid for at most {value} days"),
        Op::DistinctPublicKeys => "a key of its own".to_owned(),
        Op::FirstProviderIn => format!("the first provider is one of {value}"),
        Op::StageIn => format!("stage {}", expected.values().join(" or ")),
        Op::Sha256EqualsState => "the hash K3s noted".to_owned(),
        Op::AgeDaysAtMost => format!("at most {value} days old"),
        Op::MaxLevel => format!("{} at most {value}", crate::judge_audit::resource_words(control)),
        Op::MinLevel => format!("{} at least {value}", crate::judge_audit::resource_words(control)),
        Op::DefaultLevelGe => format!("everything else at least {value}"),
        Op::DetectionsSee => format!("no detection lacks the {value} it looks for"),
        Op::RulesCanMatch => "every rule can match".to_owned(),
        Op::CountEq => format!("{value} such entries"),
        Op::UrisSubsetOf => format!("anonymous requests only on {value}"),
        Op::OldestEntryAgeGeDays => format!("entries of the last {value} days are kept"),
        Op::DatastoreTls => "an encrypted connection".to_owned(),
        Op::StoredSecrets => crate::judge_stored::expected(control),
        Op::LeafFirst => "the certificate of the node itself stands first".to_owned(),
        Op::IssuedByNext => "each certificate is followed by the one that signed it".to_owned(),
        Op::SignedByCa => "signed with the key of the cluster's CA".to_owned(),
        Op::MatchesKey => "certificate and key belong together".to_owned(),
        Op::NoCaKeys => "no key of a root or intermediate CA on the node".to_owned(),
        Op::NoKeysInBackups => "no private keys in folders left by a rotation".to_owned(),
        Op::Served => "what is served is what stands in the file".to_owned(),
        Op::PssLevelAtLeast => format!("Pod Security level {value} or stricter"),
        Op::AllOf if expected.values().is_empty() => control.title.clone(),
        Op::AllOf => format!("all of: {value}"),
        Op::AnyOf => format!("one of: {value}"),
        Op::CountGe => format!("at least {value}"),
        Op::NamesSubsetOf | Op::Only => format!("nothing but {value}"),
        Op::Denied => format!("denied to {}", first(Modifier::Subject)),
        Op::Exists => "exists".to_owned(),
        Op::Never => "does not occur".to_owned(),
        Op::Manual => "a person's judgement".to_owned(),
        Op::Report => "for information".to_owned(),
        Op::ReportEach | Op::AnonymousPathsSubsetOf => value,
    }
}
