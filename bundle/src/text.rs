//! Foreign text made harmless before it reaches a terminal, a log, a table or HTML; times and errors as people read them.

use std::error::Error;
use std::fmt::Write as _;

/// A day, seconds.
const DAY_S: u64 = 24 * 3600;
/// Days of 400 years of the Gregorian calendar.
const DAYS_OF_400_YEARS: u64 = 146_097;

/// `text` with control characters (C0, C1), bidirectional overrides and zero-width characters written as `\u{..}`, cut to `max`
/// characters (an ellipsis shows the cut).
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (shown, c) in text.chars().enumerate() {
        if shown >= max {
            out.push('…');
            break;
        }
        if is_harmless(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

/// `error: cause: cause`, without repeating a cause that the error before it already states.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {words}");
        }
        next = cause.source();
    }
    text
}

/// Unix seconds as RFC 3339 in UTC (`2026-12-01T02:00:00Z`), leap seconds aside.
pub fn utc(seconds: u64) -> String {
    let (mut days, of_day) = (seconds / DAY_S, seconds % DAY_S);
    // The calendar repeats every 400 years; so does this loop's work.
    let mut year = 1970 + days / DAYS_OF_400_YEARS * 400;
    days %= DAYS_OF_400_YEARS;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        days + 1
    )
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_of_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

const fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{061c}' | '\u{00ad}'))
}

#[cfg(test)]
mod tests {
    use super::{chain, printable, utc};

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error("said: {0}")]
    struct Says(#[source] Inner);

    #[test]
    fn names_each_cause_once() {
        assert_eq!(chain(&Outer(Inner)), "outer: inner");
        assert_eq!(chain(&Says(Inner)), "said: inner");
    }

    #[test]
    fn escapes_what_could_deceive_and_keeps_the_rest() {
        assert_eq!(printable("café ☂", 99), "café ☂");
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\n", 99), "a\\u{1b}[2Jb\\u{202e}c\\u{a}");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    #[test]
    fn times_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_796_090_400), "2026-12-01T02:00:00Z");
        assert_eq!(utc(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(utc(13_574_563_200), "2400-02-29T00:00:00Z");
        assert!(utc(u64::MAX).ends_with('Z'), "no time panics");
    }
}
