//! The little of a shell that a Dockerfile knows (its reference, "Environment replacement"): quotes, the backslash, and
//! `$NAME`, `${NAME}`, `${NAME:-else}`, `${NAME:+then}`.
//!
//! Try it without us: `A=1 sh -c 'echo "$A" ${B:-none} ${A:+some}'`

use anyhow::{Result, bail};
use std::iter::Peekable;
use std::str::Chars;

/// The words of a line, each as it was written: a space in quotes or behind a backslash separates nothing.
pub fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if quote.is_none() && c.is_whitespace() {
            words.push(std::mem::take(&mut word));
            continue;
        }
        word.push(c);
        match c {
            '\\' => word.extend(characters.next()),
            '"' | '\'' if quote.is_none() => quote = Some(c),
            c if quote == Some(c) => quote = None,
            _ => {}
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// What a text means: without its quotes, and with the values of `env` (each `NAME=VALUE`); a name that is not there is
/// empty.
pub fn expand(text: &str, env: &[String]) -> Result<String> {
    Reader { rest: text.chars().peekable(), env }.until(None)
}

const OPEN: &str = "a quote is not closed";

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    env: &'a [String],
}

impl Reader<'_> {
    /// Up to `end`, which is taken; `None`: all that is left.
    fn until(&mut self, end: Option<char>) -> Result<String> {
        let mut meant = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                c if Some(c) == end => return Ok(meant),
                '\'' => self.single(&mut meant)?,
                '"' => self.double(&mut meant)?,
                '\\' => meant.extend(self.rest.next()),
                '$' => meant.push_str(&self.variable()?),
                c => meant.push(c),
            }
        }
        match end {
            None => Ok(meant),
            Some(_) => bail!("`${{` is not closed"),
        }
    }

    /// Everything is itself.
    fn single(&mut self, meant: &mut String) -> Result<()> {
        loop {
            match self.rest.next() {
                None => bail!(OPEN),
                Some('\'') => return Ok(()),
                Some(c) => meant.push(c),
            }
        }
    }

    /// A backslash is one, unless it stands before what has a meaning here.
    fn double(&mut self, meant: &mut String) -> Result<()> {
        loop {
            match self.rest.next() {
                None => bail!(OPEN),
                Some('"') => return Ok(()),
                Some('$') => meant.push_str(&self.variable()?),
                Some('\\') => {
                    let special = self.rest.next_if(|c| matches!(c, '"' | '$' | '\\'));
                    meant.push(special.unwrap_or('\\'));
                }
                Some(c) => meant.push(c),
            }
        }
    }

    /// Behind the `$`.
    fn variable(&mut self) -> Result<String> {
        let braced = self.rest.next_if_eq(&'{').is_some();
        let name = self.name();
        let value = self.env.iter().find_map(|line| line.strip_prefix(&name)?.strip_prefix('='));
        let value = value.unwrap_or_default().to_string();
        match (braced, name.as_str()) {
            (false, "") => return Ok("$".to_string()),
            (false, _) => return Ok(value),
            (true, _) => {}
        }
        match self.rest.next() {
            Some('}') if !name.is_empty() => return Ok(value),
            Some(':') if !name.is_empty() => {}
            None => bail!("`${{` is not closed"),
            Some(_) => bail!("`${{{name}…`: `${{NAME}}`, `${{NAME:-else}}` or `${{NAME:+then}}` is wanted"),
        }
        let sign = self.rest.next();
        let word = self.until(Some('}'))?;
        match (sign, value.is_empty()) {
            (Some('-'), true) | (Some('+'), false) => Ok(word),
            (Some('-'), false) => Ok(value),
            (Some('+'), true) => Ok(String::new()),
            _ => bail!("`${{{name}:…`: `${{NAME:-else}}` or `${{NAME:+then}}` is wanted"),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_at_its_spaces() {
        for (text, words) in [
            ("a  b", &["a", "b"][..]),
            (r#"A="b c" d"#, &[r#"A="b c""#, "d"]),
            (r"a\ b 'c \'", &[r"a\ b", r"'c \'"]),
            (r#""a\" b""#, &[r#""a\" b""#]),
            ("", &[]),
        ] {
            assert_eq!(split(text), words, "{text}");
        }
    }

    #[test]
    fn a_word_means_its_values() {
        let env = ["A=1".to_string(), "AB=2".to_string(), "E=".to_string()];
        for (text, meant) in [
            ("$A$AB-${A}B", "12-1B"),
            ("x$", "x$"),
            ("$ $- $NO.", "$ $- ."),
            (r#"'$A' "$A" \$A "\$A\n""#, r#"$A 1 $A $A\n"#),
            ("${A:-x}${NO:-x}${E:-x}", "1xx"),
            ("${A:+x}${NO:+x}${E:+x}", "x"),
            ("${NO:-${A} \"b}\"}", "1 b}"),
            ("ü$A", "ü1"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), meant, "{text}");
        }
        for bad in ["\"a", "'a", "${A", "${A:-x", "${}", "${A?}", "${A:?x}", "${-}"] {
            assert!(expand(bad, &env).is_err(), "{bad}");
        }
    }
}
