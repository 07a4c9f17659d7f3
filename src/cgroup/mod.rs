//! What a container may use: memory, processor time, processes, disk weight (`man 7 cgroups`).

use crate::plan::{Plan, Room, Spec};
use anyhow::Result;

/// The room.
pub struct Cgroup;

impl Room for Cgroup {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn plan(&self, _spec: &Spec, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
}
