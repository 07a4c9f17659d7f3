//! The demos' texts, which are data: a file per demo and language beside this one, for a translator to find. A scene is
//! `[name] Heading`, paragraphs, and behind `>` the fact that its check must find true.
//!
//! Try it: `LANG=zh_CN.UTF-8 mydocker demo`

/// The two languages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// As `man 7 locale` has it: LC_ALL before LC_MESSAGES before LANG, and an empty one does not count.
    pub fn of_caller() -> Self {
        let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let first = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find(set);
        Self::named(&first.and_then(|name| std::env::var(name).ok()).unwrap_or_default())
    }

    fn named(locale: &str) -> Self {
        if locale.to_ascii_lowercase().starts_with("zh") { Self::Chinese } else { Self::English }
    }
}

macro_rules! texts {
    ($($name:literal),*) => {
        /// The file of that name, in both languages.
        fn file(name: &str) -> [&'static str; 2] {
            match name {
                $($name => [
                    include_str!(concat!("en/", $name, ".txt")),
                    include_str!(concat!("zh/", $name, ".txt")),
                ],)*
                _ => ["", ""],
            }
        }
    };
}

texts!["words", "namespaces", "cgroup", "layers", "network", "escape"];

fn text(name: &str, language: Language) -> &'static str {
    let [english, chinese] = file(name);
    if language == Language::Chinese { chinese } else { english }
}

/// What one scene says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SceneText {
    pub name: &'static str,
    pub heading: &'static str,
    pub paragraphs: Vec<String>,
    /// What its check must find.
    pub fact: String,
}

/// A demo's file: the sentence for the list, then its scenes.
pub fn demo(name: &str, language: Language) -> (String, Vec<SceneText>) {
    let mut scenes: Vec<SceneText> = Vec::new();
    let mut about = String::new();
    for block in text(name, language).split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
        let title = first.strip_prefix('[').and_then(|title| title.split_once(']'));
        let body = if let Some((name, heading)) = title {
            scenes.push(SceneText { name, heading: heading.trim(), ..SceneText::default() });
            rest
        } else {
            block
        };
        match scenes.last_mut() {
            None => about = joined(body),
            Some(scene) if body.starts_with('>') => scene.fact = joined(body),
            Some(scene) if !body.is_empty() => scene.paragraphs.push(joined(body)),
            Some(_) => {}
        }
    }
    (about, scenes)
}

/// The lines of a paragraph as one; Chinese has no space where a line ends.
fn joined(lines: &str) -> String {
    let mut text = String::new();
    for line in lines.lines().map(|line| line.trim_start_matches('>').trim()) {
        let narrow = |c: Option<char>| c.is_some_and(|c| c.is_ascii());
        if !text.is_empty() && (narrow(text.chars().last()) || narrow(line.chars().next())) {
            text.push(' ');
        }
        text.push_str(line);
    }
    text
}

/// The words around the scenes, `name = text` each.
pub fn word(name: &str, language: Language) -> &'static str {
    let line = |line: &'static str| line.split_once(" = ").filter(|(known, _)| *known == name);
    text("words", language).lines().find_map(line).map_or("", |(_, text)| text)
}

/// Puts values in the place of `{name}`.
pub fn fill(text: &str, values: &[(&'static str, String)]) -> String {
    values.iter().fold(text.to_string(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::super::DEMOS;
    use super::*;
    use std::collections::BTreeSet;

    const BOTH: [Language; 2] = [Language::English, Language::Chinese];

    /// The `{name}` in a text.
    fn places(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).collect()
    }

    #[test]
    fn both_languages_have_the_scenes_that_the_code_plays() {
        for demo in DEMOS {
            let played: Vec<&str> = demo.scenes.iter().map(|scene| scene.name).collect();
            let texts = BOTH.map(|language| super::demo(demo.name, language));
            for (about, scenes) in &texts {
                assert!(!about.is_empty(), "{}", demo.name);
                assert_eq!(scenes.iter().map(|scene| scene.name).collect::<Vec<_>>(), played, "{}", demo.name);
                for scene in scenes {
                    let whole = !scene.heading.is_empty() && !scene.paragraphs.is_empty() && !scene.fact.is_empty();
                    assert!(whole, "{} {}: {scene:?}", demo.name, scene.name);
                }
            }
            for (english, chinese) in texts[0].1.iter().zip(&texts[1].1) {
                let all = |scene: &SceneText| format!("{} {}", scene.paragraphs.join(" "), scene.fact);
                assert_eq!(places(&all(english)), places(&all(chinese)), "{} {}", demo.name, english.name);
                assert_ne!(english.heading, chinese.heading);
                assert!(all(chinese).chars().any(|c| c > '\u{4e00}'), "{}", chinese.name);
            }
        }
    }

    #[test]
    fn both_languages_have_the_same_words() {
        let names = BOTH.map(|language| -> BTreeSet<&str> {
            text("words", language).lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect()
        });
        assert_eq!(names[0], names[1]);
        assert!(names[0].iter().all(|name| BOTH.iter().all(|language| !word(name, *language).is_empty())));
        for name in &names[0] {
            assert_eq!(places(word(name, BOTH[0])), places(word(name, BOTH[1])), "{name}");
        }
    }

    #[test]
    fn a_locale_that_begins_with_zh_is_chinese() {
        for (locale, chinese) in [("zh_CN.UTF-8", true), ("zh", true), ("ZH_TW", true), ("C", false), ("", false)] {
            assert_eq!(Language::named(locale) == Language::Chinese, chinese, "{locale}");
        }
    }

    #[test]
    fn lines_of_a_paragraph_are_one() {
        assert_eq!(joined("one\n  two"), "one two");
        assert_eq!(joined("一\n二\nUTS 三"), "一二 UTS 三");
        assert_eq!(joined("> a\n> b"), "a b");
    }
}
