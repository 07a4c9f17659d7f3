//! Sizes of memory as docker says them: `100m`, `1.5g`, `64KiB`; a power of 1024 each.

/// The letters, each 1024 times the one before it.
const UNITS: [(char, &str); 5] = [('k', "KiB"), ('m', "MiB"), ('g', "GiB"), ('t', "TiB"), ('p', "PiB")];

/// What is wrong with a size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("is not a size like 100m or 1.5g")]
    NoSize,
    #[error("is more bytes than the kernel can count")]
    TooLarge,
}

/// Bytes: a number, perhaps with a fraction, perhaps a space, and `b` or one of the letters k, m, g, t, p, alone or
/// with `b` or `ib` behind it, in either case (docker's `units.RAMInBytes`).
pub fn parse(text: &str) -> Result<i64, Wrong> {
    let letters = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    let (number, suffix) = text.split_at(letters);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    if !number.starts_with(plain) || !number.ends_with(plain) || !number.chars().all(plain) {
        return Err(Wrong::NoSize);
    }
    let factor = factor(&suffix.to_ascii_lowercase()).ok_or(Wrong::NoSize)?;
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).ok_or(Wrong::TooLarge);
    }
    let bytes = number.parse::<f64>().map_err(|_| Wrong::NoSize)? * factor as f64;
    if bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(Wrong::TooLarge) }
}

fn factor(suffix: &str) -> Option<i64> {
    let mut letters = suffix.chars();
    let power = match letters.next() {
        None | Some('b') => 0,
        Some(letter) => UNITS.iter().position(|(unit, _)| *unit == letter)? + 1,
    };
    let rest_is_right = matches!((power, letters.as_str()), (_, "") | (1.., "b" | "ib"));
    rest_is_right.then_some(1 << (10 * power))
}

/// `bytes` for people, exactly: in the largest unit of which it is a whole number.
pub fn human(bytes: i64) -> String {
    let fits = |power: &usize| bytes != 0 && bytes % (1 << (10 * power)) == 0;
    match (1..=UNITS.len()).rev().find(fits) {
        Some(power) => format!("{} {}", bytes >> (10 * power), UNITS[power - 1].1),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_dockers() {
        let cases = [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32K", 32 << 10),
            ("32kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("32 kib", 32 << 10),
            ("100m", 100 << 20),
            ("32Gb", 32 << 30),
            ("32 gib", 32 << 30),
            ("2t", 2 << 40),
            ("1p", 1 << 50),
            ("32.5kB", 33_280),
            ("32.3 Mb", 33_869_004),
            (".5g", 1 << 29),
            ("5.m", 5 << 20),
            ("007m", 7 << 20),
            ("9223372036854775807", i64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        let bad = [
            "", "hello", "-5", "-5m", "+5m", "m", " 5m", "5m ", "5  m", "5mm", "5bb", "5bm", "5kib2", "5e", "5 x",
            "1.2.3m", ".", ".m", "inf", "nan", "1e3m", "0x10", "5,5m", "５m", "5\0", "5µ",
        ];
        for text in bad {
            assert_eq!(parse(text), Err(Wrong::NoSize), "{text:?}");
        }
        for text in ["99999999999999999999g", "9223372036854775808", "8388608t", "8192.0p", &"9".repeat(400)] {
            assert_eq!(parse(text), Err(Wrong::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn people_read_whole_numbers() {
        for (bytes, text) in
            [(0, "0 bytes"), (1, "1 bytes"), (32 << 20, "32 MiB"), (1536 << 20, "1536 MiB"), (1025, "1025 bytes")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_told_can_be_said(bytes in 0..=i64::MAX) {
            prop_assert_eq!(parse(&human(bytes).replace(" bytes", "b")), Ok(bytes));
        }

        #[test]
        fn round_numbers_too(number in 0..8192i64, power in 0usize..5) {
            let bytes = number << (10 * (power + 1));
            prop_assert_eq!(parse(&format!("{number}{}", UNITS[power].0)), Ok(bytes));
            prop_assert_eq!(parse(&human(bytes).replace(" bytes", "b")), Ok(bytes));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
