//! `mydocker doctor`: what each room needs of this machine, what it found, and so which chapters work here; and what an
//! engine that was killed has left behind.

use super::{Command, Context, print};
use crate::engine;
use crate::plan::{Orphan, leftovers};
use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches};

pub const DOCTOR: Command = Command {
    name: "doctor",
    about: "Tell what this machine has of what the chapters need",
    flags: |command, _| {
        let repair = Arg::new("repair").long("repair").action(ArgAction::SetTrue);
        command.arg(repair.help("Remove what a killed engine has left behind and can be proved ours"))
    },
    act,
};

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let mut text = String::new();
    let names = nix::sys::utsname::uname()?;
    let (release, machine) = (names.release().to_string_lossy(), names.machine().to_string_lossy());
    text.push_str(&format!("kernel {release} {machine}, data root {}\n", context.dirs.root.display()));
    let mut works = true;
    for room in context.rooms {
        let facts = room.doctor(&context.dirs);
        let missing: Vec<_> = facts.iter().filter_map(|fact| fact.missing.as_deref()).collect();
        works &= missing.is_empty();
        text.push_str(&format!(
            "\n{:<12} {}\n",
            room.name(),
            if missing.is_empty() { "works here" } else { "DOES NOT WORK HERE" }
        ));
        for fact in &facts {
            let mark = if fact.missing.is_some() { "✗" } else { "✓" };
            text.push_str(&format!("  {mark} {:<18} {}\n", fact.what, fact.found));
            if let Some(why) = &fact.missing {
                text.push_str(&format!("    {:<18} {why}\n", "why"));
            }
        }
    }
    text.push_str(&remains(context, said.get_flag("repair")));
    text.push_str(&orphans(context, said.get_flag("repair")));
    print(&text)?;
    Ok(u8::from(!works))
}

/// What of the kernel's bears our mark and is nobody's, and what became of it.
fn orphans(context: &Context<'_>, repair: bool) -> String {
    let mut text = String::new();
    for Orphan { what, why, undo } in context.rooms.iter().flat_map(|room| room.orphans()) {
        text.push_str(&format!("\nleft over: {what}: {why}\n"));
        let mut outcome = if repair { "  removed\n" } else { "  `mydocker doctor --repair` removes it\n" };
        for undo in undo {
            text.push_str(&format!("    {}\n", undo.shell()));
            if let Some(Err(error)) = repair.then(|| undo.perform()) {
                text.push_str(&format!("    could not be removed: {error}\n"));
                outcome = "  not all of it is removed\n";
            }
        }
        text.push_str(outcome);
    }
    text
}

/// What is left over from engines that died, and what became of it.
fn remains(context: &Context<'_>, repair: bool) -> String {
    let leftovers = leftovers(&context.dirs, usize::MAX);
    if leftovers.is_empty() {
        return "\nnothing is left over from a killed engine\n".to_string();
    }
    let mut text = String::new();
    for leftover in leftovers {
        text.push_str(&format!("\nleft over: container {}, whose engine was killed\n", leftover.id.short()));
        for undo in leftover.journal.undos() {
            text.push_str(&format!("    {}\n", undo.undo.shell()));
        }
        match repair.then(|| engine::take_over(&context.dirs, leftover)) {
            None => text.push_str("  the next `mydocker run` removes it, or `mydocker doctor --repair`\n"),
            Some(Ok(())) => text.push_str("  removed\n"),
            Some(Err(error)) => text.push_str(&format!("  could not be removed: {error:#}\n")),
        }
    }
    text
}
