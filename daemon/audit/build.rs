//! Lists the Sigma rules of `rules/` so that they are compiled in.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&here).join("rules");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut out =
        String::from("/// Name and text of every rule that is compiled in.\nconst BUILTIN: &[(&str, &str)] = &[\n");
    for file in files {
        let path = file.path();
        if path.extension().is_some_and(|ext| ext == "yml") {
            println!("cargo::rerun-if-changed={}", path.display());
            let name = file.file_name();
            writeln!(out, "    ({:?}, include_str!({:?})),", name.to_string_lossy(), path)?;
        }
    }
    out.push_str("];\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("rules.rs"), out)?;
    Ok(())
}
