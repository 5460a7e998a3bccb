//! What whole-system tests are made of: sample nodes, the real binaries, conditions to wait for.

pub mod binaries;
pub mod collector;
pub mod daemon;
pub mod fleet;
pub mod live;
pub mod node;
pub mod process;
pub mod wait;
pub mod yardstick;
