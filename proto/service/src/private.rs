//! A process that keeps its memory to itself.

use std::io;

/// From now on the kernel writes no core of this process, and no other process of the same user can attach to it or
/// read its memory (`PR_SET_DUMPABLE`, prctl(2)): keys and tokens stay where they are. Call it first in `main` of
/// whatever holds a secret; the units also say `LimitCORE=0`.
///
/// # Errors
/// What the kernel says.
pub fn keep_private() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn afterwards_the_kernel_dumps_nothing() {
        assert!(nix::sys::prctl::get_dumpable().unwrap());
        super::keep_private().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }
}
