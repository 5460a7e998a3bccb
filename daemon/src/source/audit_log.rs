//! The audit log as the controls see it: when it was last written, what was rotated away, how far back it goes, and
//! running totals of what its entries say. What happened in them is the tail's affair.

mod entries;

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use jiff::Timestamp;
use picket_checks::{AuditLogFacts, Needs, Snapshot};
use picket_host::{Host, ReadError};
use picket_model::Observation;

use self::entries::Counts;
use super::memory::Memory;

/// How much of the oldest file is read in order to find its first entry.
const HEAD: u64 = 256 * 1024;
/// The most names in a log folder.
const MOST_FILES: usize = 16_384;

/// How many bytes of entries one look of the daemon reads: it goes on with the next one.
const STEP: u64 = 64 << 20;
/// How many bytes of entries a look that is the only one reads.
const AT_ONCE: u64 = 4 << 30;

/// What was counted so far in the files of each log.
#[derive(Debug, Clone, Default)]
pub struct Kept(BTreeMap<String, Counts>);

/// Looks at every audit log the configuration names.
pub fn observe(host: &Host, needs: &Needs, memory: &Memory, kept: &mut Kept, snapshot: &mut Snapshot) {
    let now = snapshot.at;
    let budget = if memory.seen.is_some() { STEP } else { AT_ONCE };
    kept.0.retain(|path, _| needs.audit_logs.contains(path));
    snapshot.audit_logs = needs
        .audit_logs
        .iter()
        .map(|path| {
            let counts = kept.0.entry(path.clone()).or_default();
            let seen = match look(host, path, counts, budget) {
                Ok(mut facts) => {
                    facts.first_seen = memory.first_seen(&format!("audit-log:{path}"), "", now).map(|f| f.at);
                    Observation::from(facts)
                }
                Err(ReadError::Absent) => Observation::Absent,
                Err(reason) => Observation::unreadable(reason.to_string()),
            };
            (path.clone(), seen)
        })
        .collect();
}

fn look(host: &Host, path: &str, counts: &mut Counts, budget: u64) -> Result<AuditLogFacts, ReadError> {
    // The current file may be missing for a moment in a rotation; then the log as a whole counts as missing too.
    let meta = host.stat(path.as_ref())?;
    if meta.kind != picket_host::Kind::File {
        return Err(ReadError::NotRegular(meta.kind));
    }
    let rotated = rotated(host, path)?;
    // Names carry the time of the rotation, so the first one in byte order is the oldest.
    let oldest = rotated.first().map_or(path, String::as_str);
    let files: Vec<&str> = rotated.iter().map(String::as_str).chain([path]).collect();
    let mut entries = counts.bring_up(host, &files, budget);
    // A file that was renamed between being listed and being opened is missing or counted twice.
    if self::rotated(host, path)? != rotated {
        entries.unread.get_or_insert_with(|| "the log was rotated while it was read".to_owned());
    }
    Ok(AuditLogFacts {
        mtime: meta.mtime,
        oldest_entry: first_entry(host, oldest),
        rotated,
        first_seen: None,
        entries: Some(entries),
    })
}

/// `audit-2026-01-15T10-00-00.123.log` and the same with `.gz`, beside `audit.log`.
fn rotated(host: &Host, path: &str) -> Result<Vec<String>, ReadError> {
    let Some((folder, name)) = path.rsplit_once('/') else { return Ok(Vec::new()) };
    let (stem, extension) = name.rsplit_once('.').map_or((name, String::new()), |(s, e)| (s, format!(".{e}")));
    let prefix = format!("{stem}-");
    let folder = if folder.is_empty() { "/" } else { folder };
    let mut found: Vec<String> = host
        .list(folder.as_ref(), MOST_FILES)?
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| {
            let plain = name.strip_suffix(".gz").unwrap_or(name);
            plain.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(extension.as_str())).is_some_and(|stamp| {
                stamp.len() >= 19 && stamp.starts_with(|c: char| c.is_ascii_digit()) && stamp.contains('T')
            })
        })
        .map(|name| format!("{}/{name}", folder.trim_end_matches('/')))
        .collect();
    found.sort();
    Ok(found)
}

/// The time of the first entry that can be read near the beginning of a log.
fn first_entry(host: &Host, path: &str) -> Option<Timestamp> {
    let file = host.open_file(path.as_ref()).ok()?;
    let mut head = Vec::new();
    if path.ends_with(".gz") {
        // The limit is on what comes out: a few bytes can unpack into gigabytes.
        GzDecoder::new(file.take(HEAD)).take(HEAD).read_to_end(&mut head).ok().or(Some(0))?;
    } else {
        file.take(HEAD).read_to_end(&mut head).ok()?;
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "requestReceivedTimestamp")]
        at: Timestamp,
    }
    head.split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii_start())
        .find_map(|line| serde_json::from_slice::<Entry>(line).ok())
        .map(|entry| entry.at)
}
