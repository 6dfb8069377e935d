//! What people type and read: durations, shares, sizes, and the beginning of an id. One grammar for every flag and file.
//!
//! - A duration is whole numbers with a unit each (`90s`, `1h30m`, `7d`); units `s m h d w`; seconds inside.
//! - A share is `10%`, `0.5%` or `2.25%`, at most 100 %; basis points inside. A bound is a share or a plain count.
//! - A size is shown in decimal units: `512 B`, `1.20 kB`, `56.3 MB`.
//! - An id may be cut short to a prefix of its hexadecimal digits that fits nothing else.
//! - A device's name is 1 to 63 letters, digits, `.`, `_` and `-`, the first no `.` and no `-`; no 8 or more hexadecimal digits alone,
//!   which would be the beginning of an id, and no word that selectors have (`all`, `and`, `or`, `not`, `in`).

use crate::limits::DEVICE_NAME_BYTES;
use crate::plan::statements::Bound;
use crate::selector::KEYWORDS;

/// 100 %, in basis points.
pub const WHOLE: u32 = 10_000;
/// Shortest prefix that names a device or a token, digits.
pub const DEVICE_PREFIX: usize = 8;
/// Shortest prefix that names a rollout, digits: there are fewer of them.
pub const ROLLOUT_PREFIX: usize = 4;

/// Seconds in `text`.
pub fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("`{}` is no duration: write 90s, 10m, 2h or 7d", shown(text));
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = rest[digits..].chars().next().ok_or_else(bad)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            'w' => 7 * 24 * 3600,
            _ => return Err(bad()),
        };
        total = number
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(bad)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// Seconds in `text`, within `least` and `most`.
pub fn seconds_within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let seconds = seconds(text)?;
    if (least..=most).contains(&seconds) {
        return Ok(seconds);
    }
    Err(format!(
        "`{}`: {} to {} are possible",
        shown(text),
        show_seconds(least),
        show_seconds(most)
    ))
}

/// A count (`5`) or a share (`10%`, at most two decimals).
pub fn bound(text: &str) -> Result<Bound, String> {
    let bad = || format!("`{}` is neither a count nor a percentage: write 5 or 10%", shown(text));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let Some(percent) = text.strip_suffix('%') else {
        // `parse` alone would take `+5`.
        return if all_digits(text) {
            text.parse().map(Bound::Count).map_err(|_| bad())
        } else {
            Err(bad())
        };
    };
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, ""));
    if whole.is_empty() || decimals.len() > 2 || !all_digits(whole) || !all_digits(decimals) {
        return Err(bad());
    }
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let decimals: u32 = format!("{decimals:0<2}").parse().map_err(|_| bad())?;
    let points = whole
        .checked_mul(100)
        .and_then(|p| p.checked_add(decimals))
        .ok_or_else(bad)?;
    if points > WHOLE {
        return Err(format!("`{}` is above 100%", shown(text)));
    }
    Ok(Bound::BasisPoints(points))
}

/// A share in basis points; a plain count is refused.
pub fn share(text: &str) -> Result<u32, String> {
    match bound(text)? {
        Bound::BasisPoints(points) => Ok(points),
        Bound::Count(_) => Err(format!("`{}` is no percentage: write 90%", shown(text))),
    }
}

/// `10%` or `5`.
pub fn show_bound(bound: Bound) -> String {
    match bound {
        Bound::Count(count) => count.to_string(),
        Bound::BasisPoints(points) => show_share(points),
    }
}

/// `2.5%` for 250 basis points.
pub fn show_share(points: u32) -> String {
    let (whole, part) = (points / 100, points % 100);
    if part == 0 {
        return format!("{whole}%");
    }
    let decimals = format!("{part:02}");
    format!("{whole}.{}%", decimals.trim_end_matches('0'))
}

/// Bytes in decimal units, three digits: `512 B`, `1.20 kB`, `56.3 MB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1u64;
    while bytes / scale >= 1000 && unit + 1 < UNITS.len() {
        scale *= 1000;
        unit += 1;
    }
    let (whole, hundredths) = (bytes / scale, bytes % scale * 100 / scale);
    match whole {
        0..10 => format!("{whole}.{hundredths:02} {}", UNITS[unit]),
        10..100 => format!("{whole}.{} {}", hundredths / 10, UNITS[unit]),
        _ => format!("{whole} {}", UNITS[unit]),
    }
}

/// `1 device`, `2 devices`.
pub fn show_count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A duration in its two largest units: `2h`, `1m 30s`, `3d 4h`.
pub fn show_seconds(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown: Vec<String> = parts[first..]
        .iter()
        .take(2)
        .enumerate()
        .filter(|(place, (n, _))| *place == 0 || *n > 0)
        .map(|(_, (n, unit))| format!("{n}{unit}"))
        .collect();
    shown.join(" ")
}

/// What the beginning of an id fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fits<T> {
    One(T),
    Nothing,
    /// So many.
    Several(usize),
}

/// The one of `items` whose id starts with `text`: lower-case hexadecimal digits, at least `least` of them. A whole id is its own
/// prefix.
pub fn by_prefix<T>(
    items: impl IntoIterator<Item = T>,
    id: impl Fn(&T) -> String,
    text: &str,
    least: usize,
) -> Fits<T> {
    let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() < least || !text.bytes().all(digits) {
        return Fits::Nothing;
    }
    let mut fitting = items.into_iter().filter(|item| id(item).starts_with(text));
    match (fitting.next(), fitting.count()) {
        (None, _) => Fits::Nothing,
        (Some(one), 0) => Fits::One(one),
        (Some(_), more) => Fits::Several(more + 1),
    }
}

/// Why `text` is no name of a device, if so.
pub fn device_name(text: &str) -> Result<(), String> {
    let no = |why: &str| Err(format!("`{}` is no name for a device: {why}", shown(text)));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > DEVICE_NAME_BYTES {
        return no(&format!("{} bytes, 1 to {DEVICE_NAME_BYTES} are allowed", text.len()));
    }
    if !text.chars().all(plain) {
        return no("letters, digits, `.`, `_` and `-` are allowed");
    }
    if text.starts_with(['.', '-']) {
        return no("it starts with `.` or `-`");
    }
    if text == "all" || KEYWORDS.contains(&text) {
        return no("selectors have that word");
    }
    if text.len() >= DEVICE_PREFIX && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return no("hexadecimal digits alone are the beginning of an id");
    }
    Ok(())
}

/// A device's name made of what its host is called: a container's is often twelve hexadecimal digits.
pub fn device_name_of_host(host: &str) -> String {
    if device_name(host).is_ok() {
        return host.to_owned();
    }
    let plain = host.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
        _ => '-',
    });
    "host-".chars().chain(plain).take(DEVICE_NAME_BYTES).collect()
}

/// What somebody typed, as it may stand in a message.
fn shown(text: &str) -> String {
    crate::text::printable(text, 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0s", 0),
            ("90s", 90),
            ("10m", 600),
            ("2h", 7200),
            ("7d", 604_800),
            ("1w", 604_800),
            ("1h30m", 5400),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "5",
            "h",
            "1.5h",
            "-1s",
            "+1s",
            "1x",
            "5é",
            "99999999999999999999s",
            "9999999999999999w",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds_within("30d", 1, 30 * 86_400), Ok(30 * 86_400));
        let refused = seconds_within("31d", 1, 30 * 86_400).unwrap_err();
        assert!(refused.contains("31d") && refused.contains("1s to 30d"), "{refused}");
        assert!(seconds_within("0s", 1, 60).is_err());
    }

    #[test]
    fn shares() {
        assert_eq!(bound("5"), Ok(Bound::Count(5)));
        assert_eq!(bound("10%"), Ok(Bound::BasisPoints(1000)));
        assert_eq!(bound("0.5%"), Ok(Bound::BasisPoints(50)));
        assert_eq!(bound("2.25%"), Ok(Bound::BasisPoints(225)));
        for bad in [
            "",
            "%",
            "-1",
            "101%",
            "1.234%",
            ".5%",
            "ten",
            "1e2",
            "+5%",
            "+5",
            "5 %",
            "4294967296",
        ] {
            assert!(bound(bad).is_err(), "{bad}");
        }
        assert!(share("5").is_err());
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for text in ["5", "10%", "0.5%", "2.25%", "2.05%", "100%"] {
            assert_eq!(bound(text).map(show_bound), Ok(text.to_owned()));
        }
        for text in ["0s", "59s", "2h", "7d"] {
            assert_eq!(seconds(text).map(show_seconds), Ok(text.to_owned()));
        }
    }

    #[test]
    fn sizes_and_times_for_people() {
        let shown = [0, 999, 1200, 56_340_000, 999_999, 1_000_000, u64::MAX].map(show_bytes);
        assert_eq!(
            shown,
            ["0 B", "999 B", "1.20 kB", "56.3 MB", "999 kB", "1.00 MB", "18446 PB"]
        );
        let shown = [0, 59, 90, 7200, 273_600, 3601].map(show_seconds);
        assert_eq!(shown, ["0s", "59s", "1m 30s", "2h", "3d 4h", "1h"]);
    }

    #[test]
    fn names_of_devices() {
        for name in [
            "dev1",
            "pos-0142.lyon",
            "BOX_7",
            "1234567",
            "deadbee",
            "_x",
            "cafe-babe",
            "all-in",
            &"a".repeat(7),
        ] {
            assert_eq!(device_name(name), Ok(()), "{name}");
            assert_eq!(device_name_of_host(name), name);
        }
        let long = "x".repeat(64);
        for name in [
            "",
            "500a987b6561",
            "deadbeef",
            "DEADBEEF",
            "-f",
            "--all",
            "all",
            "not",
            "in",
            ".",
            "..",
            ".hidden",
            "a/b",
            "../a",
            "a b",
            "a,b",
            "a=b",
            "a!=b",
            "(a)",
            "\"a\"",
            "'a'",
            "a\nb",
            "caf\u{e9}",
            "a*",
            &long,
        ] {
            assert!(device_name(name).is_err(), "{name}");
            assert_eq!(device_name(&device_name_of_host(name)), Ok(()), "{name}");
        }
        assert_eq!(device_name_of_host("500a987b6561"), "host-500a987b6561");
    }

    #[test]
    fn the_beginning_of_an_id() {
        let ids = ["abcd1111", "abcd2222", "ef000000"];
        let found = |text| by_prefix(ids, |id| (*id).to_owned(), text, 4);
        assert_eq!(found("ef00"), Fits::One("ef000000"));
        assert_eq!(found("abcd1111"), Fits::One("abcd1111"));
        assert_eq!(found("abcd"), Fits::Several(2));
        for nothing in ["ef0", "", "abce", "ABCD1111", "ef000000f", "../x"] {
            assert_eq!(found(nothing), Fits::Nothing, "{nothing}");
        }
    }
}
