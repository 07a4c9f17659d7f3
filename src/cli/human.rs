//! Sizes and times as docker's tables have them.

use jiff::Timestamp; // ch06
use std::time::Duration; // ch06

/// Powers of 1000 with so many significant digits: `1.23MB` (`units.HumanSizeWithPrecision`).
pub fn size(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1000.0 && unit < UNITS.len() - 1 {
        number /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(number, digits), UNITS[unit])
}

/// As C's `%.*g`, for numbers that need no exponent.
fn significant(number: f64, digits: usize) -> String {
    let whole = if number < 1.0 { 1 } else { number.log10() as usize + 1 };
    let text = format!("{number:.*}", digits.saturating_sub(whole));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

// ch06
/// `3 minutes ago`; empty for no time, `N/A` for what is none.
pub fn ago(created: Option<&str>) -> String {
    let Some(then) = created.and_then(|text| text.parse::<Timestamp>().ok()) else { return "N/A".to_string() };
    let passed = Duration::try_from(Timestamp::now().duration_since(then)).unwrap_or_default();
    format!("{} ago", crate::container::human(passed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        let cases = [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.23MB"), (12_345_678, "12.3MB")];
        for (bytes, text) in cases.into_iter().chain([(123_456_789, "123MB"), (4_257_000_000, "4.26GB")]) {
            assert_eq!(size(bytes, 3), text);
        }
        assert_eq!(size(1234567, 4), "1.235MB");
    }
}
