//! How a scene looks: wrapped to the screen, inside and outside side by side, few colours. In big type (`--projector`)
//! nothing is wider than 60 columns, and everything stands apart.
//!
//! Makes text; `stage.rs` prints it. A Chinese letter takes two columns of a terminal (`man 3 wcwidth`).

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The widest page in big type: a terminal with large letters has so many columns.
const BIG: usize = 60;
/// No sentence is easily read on a longer line.
const WIDEST: usize = 96;
const NARROWEST: usize = 40;
/// From here on two columns have room for a command each.
const TWO_COLUMNS: usize = 76;

/// The page's rules.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub width: usize,
    pub big: bool,
    pub colour: bool,
}

/// What a line is, and so how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Heading,
    Command,
    Label,
    Good,
    Bad,
}

/// One side of a scene: where it is, what was typed there, what came of it.
pub struct Side {
    pub place: String,
    pub command: String,
    pub output: String,
}

impl Page {
    /// For a screen of so many columns.
    pub fn new(columns: usize, big: bool, colour: bool) -> Self {
        let widest = if big { BIG } else { WIDEST };
        Self { width: columns.clamp(NARROWEST, widest), big, colour }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        // Few of them: a projector washes out everything but bold, and its red and green.
        let code = match style {
            Style::Heading | Style::Command => "1",
            Style::Good => "1;32",
            Style::Bad => "1;31",
            Style::Label if !self.big => "2",
            Style::Plain | Style::Label => "",
        };
        if self.colour && !code.is_empty() && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// Lines of one style; those that follow the first of a wrapped one are set in by `hang`.
    fn lines(&self, style: Style, indent: usize, hang: usize, text: &str) -> String {
        let mut out = String::new();
        for line in wrap(text, self.width - indent, hang) {
            out.push_str(&format!("{:indent$}{}\n", "", self.paint(style, &line)));
        }
        out
    }

    fn gap(&self) -> &'static str {
        if self.big { "\n" } else { "" }
    }

    pub fn heading(&self, number: usize, of: usize, text: &str) -> String {
        let rule = self.paint(Style::Label, &"─".repeat(self.width));
        format!("{rule}\n{}\n{}", self.lines(Style::Heading, 0, 0, &format!("{number}/{of}  {text}")), self.gap())
    }

    pub fn paragraph(&self, text: &str) -> String {
        format!("{}\n", self.lines(Style::Plain, 0, 0, text))
    }

    /// A remark on a line of its own.
    pub fn label(&self, text: &str) -> String {
        self.lines(Style::Label, 2, 2, text)
    }

    /// What was typed in one place.
    pub fn command(&self, place: &str, command: &str) -> String {
        let place = if place.is_empty() { String::new() } else { self.lines(Style::Label, 2, 2, place) };
        format!("{place}{}{}", self.lines(Style::Command, 2, 4, command), self.gap())
    }

    /// `tight`: nothing is between it and what follows.
    pub fn output(&self, text: &str, tight: bool) -> String {
        let lines: String = tidy(text).lines().map(|line| self.lines(Style::Plain, 2, 2, line)).collect();
        if tight && !self.big { lines } else { format!("{lines}\n") }
    }

    /// Two places at the same moment: side by side where there is room, else one below the other.
    pub fn sides(&self, left: &Side, right: &Side) -> String {
        if self.big || self.width < TWO_COLUMNS {
            let one = |side: &Side| self.command(&side.place, &side.command) + &self.output(&side.output, false);
            return one(left) + &one(right);
        }
        let column = (self.width - 2 - 3) / 2;
        let cells = |side: &Side| -> Vec<(Style, String)> {
            let part = |style, hang, text: &str| {
                text.lines().flat_map(|line| wrap(line, column, hang)).map(|line| (style, line)).collect::<Vec<_>>()
            };
            let mut cells = part(Style::Label, 2, &side.place);
            cells.extend(part(Style::Command, 2, &side.command));
            cells.extend(part(Style::Plain, 2, &tidy(&side.output)));
            cells
        };
        let (left, right) = (cells(left), cells(right));
        let mut out = String::new();
        for row in 0..left.len().max(right.len()) {
            let cell = |cells: &[(Style, String)]| cells.get(row).cloned().unwrap_or((Style::Plain, String::new()));
            let ((style, text), (other, beside)) = (cell(&left), cell(&right));
            let pad = column.saturating_sub(text.width());
            let line = format!("  {}{:pad$} │ {}", self.paint(style, &text), "", self.paint(other, &beside));
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out + "\n"
    }

    pub fn verdict(&self, good: bool, text: &str) -> String {
        let (style, mark) = if good { (Style::Good, "✓") } else { (Style::Bad, "✗") };
        self.lines(style, 0, 2, &format!("{mark} {text}"))
    }
}

/// What a terminal would obey is made visible, tabs are spaces, and a container's id is as short as `ps` shows it.
fn tidy(text: &str) -> String {
    let plain: String =
        text.replace('\t', "    ").lines().map(|line| super::super::table::printable(line) + "\n").collect();
    let (mut out, mut word) = (String::new(), String::new());
    for c in plain.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            word.push(c);
            continue;
        }
        match word.len() {
            64 => out.push_str(&(word[..12].to_string() + "…")),
            _ => out.push_str(&word),
        }
        word.clear();
        out.push(c);
    }
    out.trim_end().to_string()
}

/// May not begin a line.
const CLOSING: &str = "，。；：！？、）》」”,.;:!?)";

/// `text` in lines of at most `width` columns, the second and further ones set in by `hang`. Breaks at spaces and beside
/// Chinese letters; a word that is longer than a line is cut.
pub fn wrap(text: &str, width: usize, hang: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    // Columns that are taken, and whether this line has more than its indent.
    let (mut taken, mut begun) = (0, false);
    for word in words(text) {
        let bare = word.trim_end();
        if begun && taken + bare.width() > width {
            lines.push(" ".repeat(hang));
            (taken, begun) = (hang, false);
        }
        for c in word.chars() {
            let wide = c.width().unwrap_or(0);
            if taken + wide > width {
                if c == ' ' {
                    continue;
                }
                lines.push(" ".repeat(hang));
                taken = hang;
            }
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
            (taken, begun) = (taken + wide, true);
        }
    }
    lines.iter().map(|line| line.trim_end().to_string()).collect()
}

/// What is not broken unless it must be, with the spaces that follow.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = ' ';
    for (at, c) in text.chars().enumerate() {
        let wide = |c: char| c.width() == Some(2);
        let breaks = c != ' ' && (last == ' ' || wide(last) || wide(c));
        // Spaces at the very beginning are the line's own indent.
        let indent = words.len() == 1 && words[0].trim().is_empty();
        match words.last_mut() {
            Some(word) if at > 0 && (!breaks || CLOSING.contains(c) || indent) => word.push(c),
            _ => words.push(c.to_string()),
        }
        last = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        let cases: [(&str, usize, usize, &[&str]); 7] = [
            ("one two three", 8, 2, &["one two", "  three"]),
            ("one two three", 13, 2, &["one two three"]),
            ("abcdefghij", 4, 0, &["abcd", "efgh", "ij"]),
            ("    set in", 20, 2, &["    set in"]),
            ("容器是一个进程。", 8, 0, &["容器是一", "个进程。"]),
            ("容器是一个进。", 12, 0, &["容器是一个", "进。"]),
            ("", 10, 0, &[""]),
        ];
        for (text, width, hang, lines) in cases {
            assert_eq!(wrap(text, width, hang), lines, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_wider_than_the_page() {
        let long = "memory.limit_in_bytes 容器 ".repeat(20) + &"x".repeat(200);
        for columns in [40, 60, 80, 200] {
            for big in [false, true] {
                let page = Page::new(columns, big, false);
                let side = || Side { place: long.clone(), command: long.clone(), output: long.clone() };
                let text = page.heading(1, 9, &long)
                    + &page.paragraph(&long)
                    + &page.command("", &long)
                    + &page.output(&long, false)
                    + &page.sides(&side(), &side())
                    + &page.verdict(true, &long);
                let widest = text.lines().map(|line| line.width()).max().unwrap();
                assert!(widest <= page.width && (!big || widest <= 60), "{columns} {big}: {widest}");
            }
        }
    }

    #[test]
    fn ids_are_short_and_escape_codes_visible() {
        assert_eq!(tidy(&format!("a/{}/b", "0f".repeat(32))), "a/0f0f0f0f0f0f…/b");
        assert_eq!(tidy("deadbeef cafe\n"), "deadbeef cafe");
        assert_eq!(tidy("\x1b[2J"), "\\u{1b}[2J");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let text = |colour| Page::new(80, false, colour).verdict(true, "x");
        assert!(text(true).contains("\x1b[1;32m") && !text(false).contains('\x1b'));
    }
}
