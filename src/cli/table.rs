//! Tables as docker prints them: Go's tab writer with a least width of 10 and three spaces between columns, so that
//! what scripts parse is the same byte for byte.

/// A cell is at least this wide, padding included.
const LEAST_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Aligns lines whose cells end in a tab; what follows a line's last tab is in no column. A column reaches over the
/// neighbouring lines that have it.
///
/// `"a\tb\nccccccccc\td\n"` becomes `"a           b\nccccccccc   d\n"`.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    for (row, cells) in lines.iter().enumerate() {
        for column in 0..cells.len() - 1 {
            if widths[row][column] == 0 {
                let block: Vec<usize> = (row..lines.len()).take_while(|at| lines[*at].len() - 1 > column).collect();
                let widest = block.iter().map(|at| lines[*at][column].chars().count()).max().unwrap_or(0);
                block.iter().for_each(|at| widths[*at][column] = LEAST_WIDTH.max(widest + PADDING));
            }
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        out.push_str(cells.last().copied().unwrap_or_default());
        out.push('\n');
    }
    out
}

/// `text` with what a terminal would obey (escape codes, line ends, tabs) made visible, for a cell.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_go_tabwriters() {
        // Each expectation is the output of Go's `tabwriter.NewWriter(out, 10, 1, 3, ' ', 0)`.
        let cases = [
            ("a\tb\n", "a         b\n"),
            ("a\tb\nccccccccc\td\n", "a           b\nccccccccc   d\n"),
            ("1234567\tx\n", "1234567   x\n"),
            ("12345678\tx\n", "12345678   x\n"),
            ("a\t\tc\n", "a                   c\n"),
            ("ü\tb\n", "ü         b\n"),
            ("plain\n", "plain\n"),
            ("", ""),
            ("long long long\tx\nplain\nb\ty\n", "long long long   x\nplain\nb         y\n"),
        ];
        for (text, table) in cases {
            assert_eq!(align(text), table, "{text:?}");
        }
    }

    #[test]
    fn escape_codes_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31m\tb\n"), "a\\u{1b}[31m\\tb\\n");
    }
}
