//! Times as docker's users say them (`10m`, `1h30m`, a date, seconds since 1970) and as its tables show them.

use crate::plan::parse_duration;
use anyhow::{Result, bail};
use jiff::{Timestamp, civil, tz::TimeZone};
use std::time::Duration;

/// A moment: so long ago, a date, or seconds since 1970.
pub struct Moment(pub Timestamp);

impl Moment {
    pub fn parse(flag: &str, text: &str) -> Result<Self> {
        let wrong = || format!("{flag}: `{}` is neither a time nor a duration", text.escape_debug());
        if let Some(ago) = parse_duration(text) {
            let ago = jiff::SignedDuration::try_from(ago).ok();
            return match ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok()) {
                Some(moment) => Ok(Self(moment)),
                None => bail!(wrong()),
            };
        }
        let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
        if let (Ok(seconds), Ok(nanos)) = (seconds.parse(), format!("{nanos:0<9}").parse()) {
            return match Timestamp::new(seconds, nanos) {
                Ok(moment) => Ok(Self(moment)),
                Err(_) => bail!(wrong()),
            };
        }
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self(moment));
        }
        // Without a zone it is the caller's own.
        let local = text.parse::<civil::DateTime>().ok();
        match local.and_then(|local| local.to_zoned(TimeZone::system()).ok()) {
            Some(zoned) => Ok(Self(zoned.timestamp())),
            None => bail!(wrong()),
        }
    }
}

/// How long, as docker says it (`units.HumanDuration`).
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        _ if seconds < 1 => "Less than a second".to_string(),
        _ if seconds == 1 => "1 second".to_string(),
        _ if seconds < 60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_string(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_string(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let cases = [
            ("1s", 1000),
            ("300ms", 300),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("0", 0),
            ("2m0.5s", 120_500),
            ("10h", 36_000_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "1", "s", "-1s", "1d", "1s1", "1..5s", "1 s", "99999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn people_read_dockers_words() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86400, "13 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(human(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn moments_are_dates_seconds_or_ago() {
        let at = |text: &str| Moment::parse("--since", text).map(|moment| moment.0);
        assert_eq!(at("1700000000").unwrap().as_second(), 1_700_000_000);
        assert_eq!(at("1700000000.5").unwrap().as_millisecond(), 1_700_000_000_500);
        assert_eq!(at("2023-11-14T22:13:20Z").unwrap().as_second(), 1_700_000_000);
        assert_eq!(at("2023-11-14T23:13:20+01:00").unwrap().as_second(), 1_700_000_000);
        assert!(at("2023-11-14").is_ok() && at("2023-11-14T22:13").is_ok() && at("10m").unwrap() < Timestamp::now());
        for bad in ["", "yesterday", "-5x", "2023-13-01", "99999999999999999999"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
