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
const FOR_PEOPLE: [&str; 7] = ["k3s_default", "why", "notes", "kube_bench_1_9", "unverified", "verified", "evidence"];

/// The fields that decide, in the order in which `Control` declares them: an entry is packed as the list of their values.
const FIELDS: [&str; 13] = [
    "id",
    "title",
    "cis",
    "level",
    "assessment",
    "scope",
    "source",
    "what",
    "expected",
    "how_to_fix",
    "severity",
    "applies_when",
    "status",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=catalogue");
    println!("cargo::rerun-if-changed=build.rs");
    let mut catalogue: Vec<Value> = Vec::new();
    for source in sources()? {
        catalogue.extend(serde_saphyr::from_str::<Vec<Value>>(&fs::read_to_string(source)?)?);
    }
    // Three columns, a line for each control in the order of the catalogue: like text beside like packs best, and the
    // names of the controls are in the other part.
    let mut background = [String::new(), String::new(), String::new()];
    let mut controls: Vec<Value> = Vec::new();
    for entry in &mut catalogue {
        let entry = entry.as_object_mut().ok_or("every entry of the catalogue is a map")?;
        let behaviour = entry.get("k3s_default").and_then(|d| d.get("behaviour"));
        for (column, text) in background.iter_mut().zip([entry.get("why"), behaviour, entry.get("notes")]) {
            let text = text.and_then(Value::as_str).unwrap_or_default().trim();
            if text.contains('\n') {
                return Err(format!("one line, please: {text}").into());
            }
            column.push_str(text);
            column.push('\n');
        }
        for field in FOR_PEOPLE {
            entry.remove(field);
        }
        let mut values = Vec::new();
        for field in FIELDS {
            values.push(entry.remove(field).ok_or_else(|| format!("{:?} has no {field}", values.first()))?);
        }
        if let Some(field) = entry.keys().next() {
            return Err(format!("{:?}: {field} is no field of a control", values.first()).into());
        }
        controls.push(Value::from(values));
    }
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?;
    write(&Path::new(&out).join("controls.json.z"), &serde_json::to_vec(&controls)?)?;
    write(&Path::new(&out).join("background.z"), background.concat().as_bytes())?;
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
