//! A plan in words: for people while it happens (`--explain`, `--step`), for programs (`--explain=json`), and as the
//! shell commands that would do the same (`--dry-run`). Makes text; the front prints it.

use super::{Phase, Plan, Spec, Step, When};
use nix::errno::Errno;
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Turns steps into paragraphs, counting them.
#[derive(Default)]
pub struct Narrator {
    told: usize,
    /// What the steps so far have found out, and the child's number.
    known: Vec<(String, String)>,
}

impl Narrator {
    /// What is about to happen.
    pub fn before(&mut self, step: &Step) -> String {
        self.told += 1;
        let side = side(step.phase);
        let mut text = format!("{:>3} {side:<5} {}\n", self.told, step.name);
        text.push_str(&format!("          do    {}\n", self.fill(&step.op.shell)));
        if !step.why.is_empty() {
            text.push_str(&format!("          why   {}\n", step.why));
        }
        text
    }

    /// What came of it, with the real process and its namespaces.
    pub fn after(&mut self, step: &Step, child: Option<Pid>, result: Result<(), Errno>) -> String {
        let mut text = match result {
            Ok(()) => String::from("          ok"),
            Err(errno) => format!("          FAILED with {errno:?}: {}", errno.desc()),
        };
        for (name, value) in step.tells.iter().filter_map(|told| Some((told.name(), told.value()?))) {
            text.push_str(&format!(": {name}={value}"));
            self.learn(name, value);
        }
        let pid = child.map_or("$PID".to_string(), |pid| pid.to_string());
        if step.phase == Phase::Clone
            && let Some(child) = child
        {
            text.push_str(&format!(": process {pid}{}", namespaces(child)));
            self.learn("PID", &pid);
        }
        text.push('\n');
        if !step.look.is_empty() {
            text.push_str(&format!("          look  {}\n", self.fill(&step.look)));
        }
        text
    }

    fn learn(&mut self, name: &str, value: &str) {
        self.known.push((format!("${name}"), value.to_string()));
        // `$ADDRESS1` is not `$ADDRESS` and a 1.
        self.known.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    fn fill(&self, text: &str) -> String {
        self.known.iter().fold(text.to_string(), |text, (name, value)| text.replace(name, value))
    }
}

fn side(phase: Phase) -> &'static str {
    match phase.in_child() {
        true => "child",
        false => "host",
    }
}

/// The child's namespaces that differ from ours, as `/proc/PID/ns` names them.
fn namespaces(child: Pid) -> String {
    let inode = |process: &str, kind: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).ok();
    let mut text = String::new();
    for kind in ["uts", "pid_for_children", "pid", "mnt", "ipc", "net", "cgroup", "user"] {
        let (theirs, ours) = (inode(&child.to_string(), kind), inode("self", kind));
        if let Some(theirs) = theirs.filter(|theirs| Some(theirs) != ours.as_ref() && kind != "pid_for_children") {
            text.push_str(&format!("\n                {}", theirs.display()));
        }
    }
    text
}

/// One step as one line of JSON: `{"step","phase","side","call","args","shell","why","look","pid","errno"}`.
pub fn narrate_json(step: &Step, child: Option<Pid>, result: Option<Result<(), Errno>>) -> String {
    let mut line: Value = json!({
        "step": step.name,
        "phase": format!("{:?}", step.phase).to_lowercase(),
        "side": side(step.phase),
        "call": step.op.call,
        "args": step.op.args,
        "shell": step.op.shell,
        "why": step.why,
        "look": step.look,
        "undo": step.undo,
    });
    let told = step.tells.iter().filter_map(|told| Some((told.name().to_string(), json!(told.value()?))));
    let told: serde_json::Map<_, _> = told.collect();
    if !told.is_empty() {
        line["told"] = told.into();
    }
    if let Some(child) = child {
        line["pid"] = child.as_raw().into();
        if step.phase == Phase::Clone {
            let kinds = ["uts", "pid", "mnt", "ipc", "net", "cgroup", "user"];
            let inode = |kind| std::fs::read_link(format!("/proc/{child}/ns/{kind}")).ok();
            let inodes = kinds.into_iter().filter_map(|kind| Some((kind, inode(kind)?)));
            line["namespaces"] = inodes.map(|(kind, link)| (kind.to_string(), json!(link))).collect();
        }
    }
    match result {
        Some(Ok(())) => line["result"] = "ok".into(),
        Some(Err(errno)) => line["result"] = format!("{errno:?}").into(),
        None => {}
    }
    line.to_string()
}

/// The whole plan as a shell script: what would be done, in order, and how it would be taken back. What every line
/// would repeat, the container's id and folder, stands once at the top.
pub fn dry_run(plan: &Plan, spec: &Spec) -> String {
    let folder = spec.folder().display().to_string();
    let script = dry_run_on_host(plan).replace(&folder, "$BOX").replace(spec.id.as_str(), "$ID");
    format!("ID={}\nBOX={}\n{script}", spec.id, folder.replace(spec.id.as_str(), "$ID"))
}

/// The same for a plan that is about no container.
pub fn dry_run_on_host(plan: &Plan) -> String {
    let mut script = String::new();
    let mut phase = None;
    for step in plan.steps() {
        if phase != Some(step.phase) {
            phase = Some(step.phase);
            script.push_str(&format!("\n#### {:?}, by the {}\n", step.phase, side(step.phase)));
        }
        script.push_str(&format!("# {}: {}\n{}\n", step.name, step.why, step.op.shell));
    }
    for (when, title) in [(When::End, "when it has ended"), (When::Volumes, "with rm -v"), (When::Removal, "with rm")] {
        let undos: Vec<_> = plan.steps().iter().rev().filter(|step| step.undo_when == when).collect();
        let mut title = Some(title);
        for undo in undos.iter().filter_map(|step| step.undo.as_ref()) {
            if let Some(title) = title.take() {
                script.push_str(&format!("\n#### {title}\n"));
            }
            script.push_str(&format!("{}\n", undo.shell()));
        }
    }
    script
}
