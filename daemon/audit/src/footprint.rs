//! What the detector's memory costs, as the budget counts it: by what is held and not by what was once reserved, so that
//! a memory that was stored and restored costs the same.

use std::io;
use std::mem::size_of;

use picket_model::Detection;

use crate::window::{Waiting, Window};

/// What an allocator adds to a block, roughly.
const BLOCK: usize = 16;
/// A window's places in the table and in the order of ends.
const PLACES: usize = 64;

/// A window with all it holds, in bytes. File names are shared between matches and not counted with each.
pub(crate) fn of_window(window: &Window) -> usize {
    let waiting: usize = window.waiting.iter().map(of_waiting).sum();
    let open = window.open.as_ref().map_or(0, |open| of_detection(&open.detection));
    let pending = window.pending.as_ref().map_or(0, of_detection);
    size_of::<Window>() + PLACES + BLOCK + text(&window.rule) + waiting + open + pending
}

fn of_waiting(waiting: &Waiting) -> usize {
    size_of::<Waiting>()
        + text(&waiting.audit_id)
        + texts(&waiting.chain)
        + texts(&waiting.others)
        + waiting.told.as_ref().map_or(0, |told| text(told.text()))
}

/// What a detection holds besides itself.
fn of_detection(detection: &Detection) -> usize {
    let object = &detection.object;
    let own =
        [&detection.rule, &detection.title, &detection.file, &detection.audit_id, &detection.user, &detection.verb];
    let objects = [&object.group, &object.resource, &object.subresource, &object.namespace, &object.name];
    let some = [&detection.impersonated, &detection.source];
    own.into_iter().chain(objects).chain(some.into_iter().flatten()).map(|it| text(it)).sum::<usize>()
        + text(&detection.outcome)
        + [&detection.audit_ids, &detection.forgeable_sources, &detection.mitre]
            .into_iter()
            .map(|it| texts(it))
            .sum::<usize>()
}

fn texts(list: &[String]) -> usize {
    list.iter().map(|it| size_of::<String>() + text(it)).sum()
}

const fn text(text: &str) -> usize {
    if text.is_empty() { 0 } else { text.len() + BLOCK }
}

/// Counts the bytes that are written to it.
#[derive(Debug, Default)]
pub(crate) struct Length(pub(crate) usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
