//! Generates the code of picket.v1 without an installed `protoc`.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 5] = [
        "picket/v1/types.proto",
        "picket/v1/enrollment.proto",
        "picket/v1/uplink.proto",
        "picket/v1/fleet.proto",
        "picket/v1/admin.proto",
    ];
    println!("cargo::rerun-if-changed=picket");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("picket.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
