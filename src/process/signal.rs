//! Signals by name or number (`man 7 signal`).

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use std::str::FromStr;

/// `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3`; 1…64.
pub fn signal_number(text: &str) -> Result<i32> {
    let invalid = || anyhow::anyhow!("invalid signal: `{}`", text.escape_debug());
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { bail!(invalid()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // The C library keeps 32 and 33 for itself, so RTMIN is 34 for everybody.
    let real_time = |from: i32, rest: &str, sign: i32| match rest {
        "" => Some(from),
        rest => rest.strip_prefix(if sign > 0 { '+' } else { '-' })?.parse::<i32>().ok().map(|n| from + sign * n),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        real_time(34, rest, 1)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        real_time(64, rest, -1)
    } else {
        Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32)
    };
    number.filter(|number| (1..=64).contains(number)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let good =
            [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("1", 1), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax", 64)];
        for (text, number) in good {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-9", "FOO", "RTMIN+99", "RTMINx", "9 "] {
            assert!(signal_number(bad).is_err(), "{bad:?}");
        }
    }
}
