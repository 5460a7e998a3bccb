//! How `picketd` is linked when it is built to be shipped: an edge box pays for every page.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Nothing unwinds in a release (`panic = "abort"`), so nobody reads the tables for it: a tenth of the program.
const NO_UNWIND_TABLES: &str =
    "SECTIONS { /DISCARD/ : { *(.eh_frame .gcc_except_table .gcc_except_table.*) } } INSERT AFTER .text;\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|v| v == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return Ok(());
    }
    let script = Path::new(&env::var("OUT_DIR")?).join("no-unwind-tables.ld");
    fs::write(&script, NO_UNWIND_TABLES)?;
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}", script.display());
    if links_with_lld()? {
        // Functions of the same machine code become one. Rust promises no function an address of its own.
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
    Ok(())
}

/// Whether this rustc brings its own lld and uses it for the target; that of some distributions does not.
fn links_with_lld() -> Result<bool, Box<dyn std::error::Error>> {
    let target = env::var("TARGET")?;
    let printed = Command::new(env::var("RUSTC")?).args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(printed.stdout)?.trim());
    let lld = sysroot.join("lib/rustlib").join(&target).join("bin/gcc-ld/ld.lld");
    Ok(target == "x86_64-unknown-linux-gnu" && lld.exists())
}
