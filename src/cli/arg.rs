//! What the commands' flags have in common: how one is declared, and how it is asked for.

use clap::{Arg, ArgAction, ArgMatches};

/// `--name`: it is said or it is not.
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// `--name VALUE`.
pub fn value(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// Words without a dash, at least so many.
pub fn words(name: &'static str, value: &'static str, least: usize) -> Arg {
    Arg::new(name).value_name(value).num_args(least..).required(least > 0)
}

/// It may be said more than once.
pub fn many(arg: Arg) -> Arg {
    arg.action(ArgAction::Append)
}

/// What was said for it.
pub fn string<'a>(said: &'a ArgMatches, name: &str) -> Option<&'a str> {
    said.get_one::<String>(name).map(String::as_str)
}

/// Each of the words that were said for it.
pub fn strings<'a>(said: &'a ArgMatches, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    said.get_many::<String>(name).into_iter().flatten().map(String::as_str)
}
