//! `mydocker demo`: isolation shown to a class, scene by scene, with the commands that an instructor would type and the
//! kernel's own answers, inside and outside side by side. Every scene ends with a check: what it claims is so on this
//! machine, at this moment, or the demo says that it is not and fails.
//!
//! Try it: `mydocker demo`; `mydocker demo namespaces`; `LANG=zh_CN.UTF-8 mydocker demo cgroup --auto`

mod cgroup;
mod escape;
mod kernel;
mod keys;
mod layers;
mod made;
mod namespaces;
mod network;
mod page;
mod shell;
mod stage;
mod tiny;
mod words;

use super::{Command, Context, flag, print, string};
use crate::{engine, sys};
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use page::Page;
use shell::Stop;
use stage::{Pace, Stage};
use std::io::IsTerminal;
use words::{Language, SceneText, fill, word};

pub const DEMO: Command = Command {
    name: "demo",
    about: "Show to a class what the kernel makes of a container",
    flags: |command, _| {
        command.args([
            Arg::new("name").value_name("NAME").help("Which one; without it they are listed"),
            flag("list", "List the demos and the minutes that each takes"),
            flag("auto", "Do not wait; fail if a fact is not as the text claims").conflicts_with("step"),
            flag("step", "Wait before every command too, and before every step of the container's plan"),
            Arg::new("keep").long("keep").value_name("NAME").hide(true),
            flag("projector", "Big type: at most 60 columns, wide spacing, few colours"),
        ])
    },
    act,
};

/// One demo.
struct Demo {
    name: &'static str,
    /// What it takes in front of a class.
    minutes: u32,
    scenes: &'static [Scene],
}

/// One scene: its text stands under its name in the file of each language.
struct Scene {
    name: &'static str,
    play: fn(&mut Stage<'_>) -> Result<Verdict>,
}

/// What the check of a scene has found.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    /// The fact is not so; what was found instead.
    Wrong(String),
    /// This machine cannot show it, and why.
    Skipped(String),
}

impl Verdict {
    /// The fact holds if everything does; else the first that does not is told.
    fn of(facts: &[(bool, String)]) -> Self {
        match facts.iter().find(|(holds, _)| !holds) {
            None => Self::Holds,
            Some((_, found)) => Self::Wrong(found.clone()),
        }
    }
}

const DEMOS: [Demo; 5] = [namespaces::DEMO, cgroup::DEMO, layers::DEMO, network::DEMO, escape::DEMO];

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    if let Some(name) = string(said, "keep") {
        return stage::keep(context, name);
    }
    let name = string(said, "name");
    let names = || DEMOS.map(|demo| demo.name).join(", ");
    let demo = match name {
        None if ["auto", "step", "projector"].iter().any(|flag| said.get_flag(flag)) && !said.get_flag("list") => {
            bail!("which demo? there are {}", names())
        }
        None => return list(Language::of_caller()),
        Some(name) => DEMOS.iter().find(|demo| demo.name == name),
    };
    let Some(demo) = demo else {
        bail!("no demo `{}`; there are {}", name.unwrap_or_default().escape_debug(), names())
    };
    if said.get_flag("list") {
        return list(Language::of_caller());
    }
    engine::as_root()?;
    let pace = match (said.get_flag("auto"), said.get_flag("step")) {
        (true, _) => Pace::Auto,
        (_, true) => Pace::Steps,
        _ => Pace::Scenes,
    };
    if pace != Pace::Auto && !std::io::stdin().is_terminal() {
        bail!("stdin is no terminal, so nobody can press Enter\nhint: --auto plays without waiting");
    }
    let screen = std::io::stdout().is_terminal();
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let colour = screen && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let (rows, columns) = sys::get_winsize(std::io::stdout()).unwrap_or_default();
    let page = Page::new(if columns == 0 { 80 } else { columns.into() }, said.get_flag("projector"), colour);
    // A terminal that does not tell how many rows it has is taken for an old one.
    let rows = (screen && pace != Pace::Auto).then(|| if rows == 0 { 24 } else { rows.into() });
    let mut stage = Stage::new(context, page, pace, rows)?;
    finish(demo, &mut stage)
}

/// The demos, each with a sentence and its minutes.
fn list(language: Language) -> Result<u8> {
    let mut text = String::new();
    for demo in &DEMOS {
        let (about, _) = words::demo(demo.name, language);
        text.push_str(&format!("{:<12}{:>2} {}   {about}\n", demo.name, demo.minutes, word("minutes", language)));
    }
    print(&format!("{text}\n{}\n", word("usage", language)))
}

/// Plays it, and removes what it has made: the exit status.
fn finish(demo: &Demo, stage: &mut Stage<'_>) -> Result<u8> {
    let played = play(demo, stage);
    let clean = stage.clear_up();
    let wrong = match played {
        Ok(wrong) => wrong,
        Err(error) => match error.downcast_ref::<Stop>() {
            Some(Stop::Quit) => 0,
            Some(Stop::Signal(number)) => {
                // Whoever has closed the terminal does not read it.
                let _ = stage.show(|page| format!("\n{}", page.paragraph(word("gone", stage.language))));
                return Ok(128 + *number as u8);
            }
            None => return Err(error),
        },
    };
    if !clean {
        return Ok(1);
    }
    stage.show(|page| page.paragraph(word("gone", stage.language)))?;
    if wrong > 0 {
        stage.learn("wrong", wrong.to_string());
        super::tell(&format!("demo: {}", stage.word("wrong")));
    }
    Ok(u8::from(wrong > 0))
}

/// All scenes, one after the other: how many of their facts are not so.
fn play(demo: &Demo, stage: &mut Stage<'_>) -> Result<usize> {
    let (_, texts) = words::demo(demo.name, stage.language);
    let mut wrong = 0;
    for (number, scene) in demo.scenes.iter().enumerate() {
        let Some(text) = texts.iter().find(|text| text.name == scene.name) else {
            bail!("the scene `{}` has no text", scene.name)
        };
        stage.clear()?;
        stage.show(|page| page.heading(number + 1, demo.scenes.len(), text.heading))?;
        if number == 0 {
            stage.show_root()?;
        }
        for paragraph in &text.paragraphs {
            let paragraph = stage.fill(paragraph);
            stage.show(|page| page.paragraph(&paragraph))?;
        }
        let verdict = (scene.play)(stage)?;
        wrong += usize::from(matches!(verdict, Verdict::Wrong(_)));
        tell_verdict(stage, text, &verdict)?;
        if number + 1 < demo.scenes.len() {
            stage.pause("next")?;
        }
    }
    Ok(wrong)
}

fn tell_verdict(stage: &Stage<'_>, text: &SceneText, verdict: &Verdict) -> Result<()> {
    let fact = fill(&text.fact, &stage.values);
    let (not_so, found, skipped) = (stage.word("not"), stage.word("found"), stage.word("skipped"));
    stage.gap()?;
    stage.show(|page| match verdict {
        Verdict::Holds => page.verdict(true, &fact) + "\n",
        Verdict::Wrong(what) => {
            page.verdict(false, &format!("{not_so}: {fact}")) + &page.label(&format!("{found}: {what}")) + "\n"
        }
        Verdict::Skipped(why) => page.label(&format!("{skipped}: {why}")) + "\n",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_is_not_so_is_told() {
        let fact = |holds, found: &str| (holds, found.to_string());
        assert_eq!(Verdict::of(&[fact(true, "a"), fact(true, "b")]), Verdict::Holds);
        assert_eq!(Verdict::of(&[fact(true, "a"), fact(false, "b")]), Verdict::Wrong("b".into()));
        assert_eq!(Verdict::of(&[fact(false, "a"), fact(false, "b")]), Verdict::Wrong("a".into()));
    }
}
