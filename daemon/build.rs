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
        if libc_packs_relocations() {
            // Half a megabyte of addresses that the loader adjusts becomes a few kilobytes.
            println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
    Ok(())
}

/// Whether the C library here reads packed relocations (glibc from 2.36 on). What is built on an older system runs on older
/// ones, and is larger.
fn libc_packs_relocations() -> bool {
    let Ok(printed) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let version = String::from_utf8(printed.stdout).unwrap_or_default();
    let Some((major, minor)) = version.trim().strip_prefix("glibc ").and_then(|v| v.split_once('.')) else {
        return false;
    };
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    (number(major), number(minor)) >= (2, 36)
}

/// Whether this rustc brings its own lld and uses it for the target; that of some distributions does not.
fn links_with_lld() -> Result<bool, Box<dyn std::error::Error>> {
    let target = env::var("TARGET")?;
    let printed = Command::new(env::var("RUSTC")?).args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(printed.stdout)?.trim());
    let lld = sysroot.join("lib/rustlib").join(&target).join("bin/gcc-ld/ld.lld");
    Ok(target == "x86_64-unknown-linux-gnu" && lld.exists())
}
