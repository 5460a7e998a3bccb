//! What whole-system tests are made of: sample nodes, the real binaries, conditions to wait for.

pub mod node;
