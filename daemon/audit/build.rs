//! Packs the Sigma rules of `rules/` so that they are compiled in: name and text of each, a zero after either, compressed.

use std::io::Write as _;
use std::path::Path;
use std::{env, fs};

use flate2::Compression;
use flate2::write::DeflateEncoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&here).join("rules");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
    for file in files {
        let path = file.path();
        if path.extension().is_some_and(|ext| ext == "yml") {
            println!("cargo::rerun-if-changed={}", path.display());
            write!(packed, "{}\0{}\0", file.file_name().to_string_lossy(), fs::read_to_string(path)?)?;
        }
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("rules.z"), packed.finish()?)?;
    Ok(())
}
