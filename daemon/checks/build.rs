//! Packs the catalogue: the YAML people edit becomes JSON without what only people read. Parsing 200 kB of YAML at every
//! start would cost a small node more than judging all its controls. Both parts are compressed: text is a sixth of itself
//! then, in the program and in memory.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde_json::Value;

/// Fields of an entry that never decide anything at run time.
const FOR_PEOPLE: [&str; 6] = ["k3s_default", "notes", "kube_bench_1_9", "unverified", "verified", "evidence"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=catalogue");
    println!("cargo::rerun-if-changed=build.rs");
    let mut catalogue: Vec<Value> = Vec::new();
    for source in sources()? {
        catalogue.extend(serde_saphyr::from_str::<Vec<Value>>(&fs::read_to_string(source)?)?);
    }
    let mut background = serde_json::Map::new();
    for entry in &mut catalogue {
        let entry = entry.as_object_mut().ok_or("every entry of the catalogue is a map")?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let behaviour = text(entry.get("k3s_default").and_then(|d| d.get("behaviour")));
        let notes = text(entry.get("notes"));
        background.insert(text(entry.get("id")), Value::from(vec![behaviour, notes]));
        for field in FOR_PEOPLE {
            entry.remove(field);
        }
    }
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?;
    write(&Path::new(&out).join("controls.json.z"), &serde_json::to_vec(&catalogue)?)?;
    write(&Path::new(&out).join("background.json.z"), &serde_json::to_vec(&background)?)?;
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
    packed.write_all(text)?;
    fs::write(path, packed.finish()?)
}

/// The main file first, then the others by name: their order is the order of every output.
fn sources() -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir("catalogue")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort_by_key(|path| (!path.ends_with("controls.yaml"), path.clone()));
    Ok(files)
}
