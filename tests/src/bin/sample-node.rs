//! `sample-node PROFILE DIR`: builds a sample node's tree, as of now.

use std::path::Path;

use anyhow::Context as _;
use picket_tests::node::{Profile, SampleNode};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, dir] = &arguments[..] else { anyhow::bail!("usage: sample-node PROFILE DIR") };
    let names: Vec<&str> = Profile::ALL.into_iter().map(Profile::name).collect();
    let profile = Profile::ALL
        .into_iter()
        .find(|p| p.name() == profile)
        .with_context(|| format!("unknown profile {profile}: use one of {}", names.join(", ")))?;
    let node = SampleNode::build_now(profile, Path::new(dir))?;
    println!("{}", node.root().display());
    Ok(())
}
