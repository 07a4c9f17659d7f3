//! Lists of processors and memory nodes as the kernel writes them: `0-3,7` (`man 7 cpuset`, "List format").

/// Numbers, as ascending ranges that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List(Vec<(u32, u32)>);

impl List {
    /// The list that `text` is; `None` for an empty or malformed one, and for a range that runs backwards.
    pub fn parse(text: &str) -> Option<Self> {
        let mut ranges = text.trim_ascii_end().split(',').map(range).collect::<Option<Vec<_>>>()?;
        ranges.sort_unstable();
        let mut list: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match list.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => list.push((first, last)),
            }
        }
        Some(Self(list))
    }

    /// Whether every number of `other` is in this list.
    pub fn contains(&self, other: &List) -> bool {
        let inside = |(first, last): &(u32, u32)| self.0.iter().any(|(from, to)| from <= first && last <= to);
        other.0.iter().all(inside)
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }
}

fn range(text: &str) -> Option<(u32, u32)> {
    // `parse` alone would take a plus sign.
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok())?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_the_kernels() {
        let cases = [
            ("0", vec![(0, 0)], 1),
            ("0-1\n", vec![(0, 1)], 2),
            ("0,1,2", vec![(0, 2)], 3),
            ("7,0-3", vec![(0, 3), (7, 7)], 5),
            ("0-5,2-3,5-6", vec![(0, 6)], 7),
            ("0-4294967295", vec![(0, u32::MAX)], 1 << 32),
        ];
        for (text, ranges, count) in cases {
            let list = List::parse(text).unwrap();
            assert_eq!((&list.0, list.count()), (&ranges, count), "{text}");
        }
        for bad in ["", ",", "0,", ",0", "7-1", "-1", "1-", "0-1-2", "a", "+1", " 0", "0 ,1", "4294967296", "0-1:1/2"] {
            assert_eq!(List::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_asked_must_be_there() {
        let there = List::parse("0-1,4").unwrap();
        for (asked, inside) in [("0", true), ("1,4", true), ("0-1,4", true), ("2", false), ("0-4", false), ("7", false)]
        {
            assert_eq!(there.contains(&List::parse(asked).unwrap()), inside, "{asked}");
        }
    }
}
