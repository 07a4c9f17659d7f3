//! # mydocker: a container engine that can be read
//!
//! A container is a **plan**: an ordered list of steps, each one kernel operation with its reason, a place to look
//! and its undo. Flags become a spec (*what*), every room turns its part of the spec into steps (*how*), and `launch`
//! performs them. The same list is narrated by `--explain`, printed by `--dry-run`, paced by `--step`, written to the
//! journal, and compared with `strace` by the tests.
//!
//! The rooms, in the order in which the chapters open them:
//!
//! | chapter | room | holds |
//! |---|---|---|
//! | 01 | [`sys`] | the system calls that no crate wraps; the only `unsafe` |
//! | 01 | [`plan`] | step, plan, launch, explain; later the journal |
//! | 01 | [`process`] | the command: its words, environment, terminal, limits, and how it is exec'ed |
//! | 01 | [`namespaces`] | what the container cannot see: uts, pid, mnt, ipc, net, cgroup |
//! | 02 | [`cgroup`] | what it may use: v1 hierarchies and the unified v2 tree |
//! | 03 | [`rootfs`] | its own `/`: pivot_root, /proc, /sys, /dev; the default image |
//! | 03 | [`security`] | what root may still do in there: 14 capabilities |
//! | 04 | [`tree`] | several trees seen as one, walked and copied |
//! | 04 | [`layers`] | a writable layer over read-only ones: overlay, aufs, vfs |
//! | 05 | [`volume`] | files that outlive the container: bind mounts and volumes |
//! | 06 | [`image`] | images at rest: an OCI layout, archives, commit |
//! | 07 | [`container`] | a container at rest: id, name, record, lock, log |
//! | 09 | [`network`] | its wire: veth, bridge, addresses, NAT, ports, names |
//! | 07 | [`engine`] | runs a plan in the foreground: stdio, signals, exit status, undo |
//! | – | [`cli`] | words in, words out; the only room that prints |
//!
//! Arrows point down only: `cli → engine → the capability rooms → plan → sys`, and the capability rooms do not know
//! each other. `tests/house.rs` reads the `use` lines and fails on an arrow that runs up.

pub mod cgroup;
pub mod cli;
pub mod container;
pub mod engine;
pub mod image;
pub mod layers;
pub mod namespaces;
pub mod network;
pub mod plan;
pub mod process;
pub mod rootfs;
pub mod security;
pub mod sys;
pub mod tree;
pub mod volume;
