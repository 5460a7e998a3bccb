//! A process that does not keep in memory what it only needed to start.

use std::fs;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

#[cfg(target_env = "gnu")]
use nix::libc::{M_MMAP_THRESHOLD, malloc_trim, mallopt};
use nix::sys::mman::{MmapAdvise, madvise};

/// Buffers of at least so many bytes go back to the kernel as soon as they are freed.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 1 << 20;

/// From now on, large buffers do not stay in the process once they are freed. By itself glibc keeps up to 64 MiB after the
/// first one: it takes what was needed once as what is needed all the time.
pub fn keep_no_large_buffers() {
    // SAFETY: it changes a number in the allocator, which takes its own lock for that.
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator's settings are C's")]
    unsafe {
        // Where it is refused, memory is only larger.
        mallopt(M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back the pages of programs and libraries that are mapped into this process. Whatever is still needed comes back
/// by itself, page by page, when it is next used; what was only needed to start does not, and is the first thing the
/// kernel lets go of when memory is short. Worth it after a start, for a service that then mostly waits.
///
/// The same goes for pages of the heap on which nothing is left: thousands of small things, such as the names of rotated
/// logs, leave more of them than stay in use.
///
/// How many bytes of address space of programs and libraries it was done for.
///
/// # Errors
/// What the kernel says; nothing is lost then.
pub fn let_go() -> io::Result<usize> {
    // SAFETY: it gives back what is free, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator is C's")]
    unsafe {
        // Whether there was anything to give back does not matter.
        malloc_trim(0);
    }
    let mut bytes = 0;
    for part in unwritten(&fs::read_to_string("/proc/self/smaps")?) {
        let Some(start) = NonNull::new(ptr::with_exposed_provenance_mut(part.start)) else { continue };
        // SAFETY: the range is a mapping of a file that cannot be written to and none of whose pages ever was: each page
        // is as in the file, and the kernel reads it from there again when it is touched. Nobody can tell the difference.
        #[expect(unsafe_code, reason = "the call is unsafe for memory that holds anything but what the file does")]
        unsafe {
            madvise(start, part.len(), MmapAdvise::MADV_DONTNEED)?;
        }
        bytes += part.len();
    }
    Ok(bytes)
}

/// The private mappings of files that are read-only and without a page of their own, from `/proc/self/smaps`.
fn unwritten(smaps: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut part: Option<Range<usize>> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        if let Some(range) = addresses(first) {
            parts.extend(part.take());
            // offset, device, inode
            let of_file = words.nth(2).is_some_and(|inode| inode != "0");
            let read_only = matches!(second, Some("r-xp" | "r--p"));
            part = (of_file && read_only).then_some(range);
        } else if matches!(first, "Anonymous:" | "Swap:" | "Locked:") && second != Some("0") {
            part = None;
        }
    }
    parts.extend(part);
    parts
}

/// `55d0c0a00000-55d0c0b00000`
fn addresses(word: &str) -> Option<Range<usize>> {
    let (start, end) = word.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::{let_go, unwritten};

    #[test]
    fn only_what_is_as_in_its_file_is_let_go() {
        let smaps = "\
1000-2000 r--p 00000000 fe:00 12   /usr/bin/picketd
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
2000-9000 r-xp 00001000 fe:00 12   /usr/bin/picketd
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
9000-a000 r--p 00008000 fe:00 12   /usr/bin/picketd
Anonymous:             4 kB
Swap:                  0 kB
a000-b000 r--p 00009000 fe:00 12   /usr/bin/picketd
Anonymous:             0 kB
Swap:                  4 kB
b000-c000 rw-p 0000a000 fe:00 12   /usr/bin/picketd
Anonymous:             0 kB
c000-d000 rw-p 00000000 00:00 0    [heap]
Anonymous:             4 kB
d000-e000 r-xp 00000000 00:00 0    [vdso]
Anonymous:             0 kB
e000-f000 r--s 00000000 fe:00 13   /dev/shm/x
Anonymous:             0 kB
f000-f800 r-xp 00000000 fe:00 14   /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(unwritten(smaps), [0x1000..0x2000, 0x2000..0x9000, 0xf000..0xf800]);
        assert_eq!(unwritten(""), []);
    }

    #[test]
    fn the_process_goes_on_as_before() {
        for _ in 0..3 {
            assert!(let_go().unwrap() > 0);
            assert_eq!("3 1 2".split(' ').filter_map(|n| n.parse::<u32>().ok()).max(), Some(3));
        }
    }
}
