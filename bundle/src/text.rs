//! Foreign text made harmless before it reaches a terminal, a log, a table or HTML.

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

fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{061c}' | '\u{00ad}'))
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn escapes_what_could_deceive_and_keeps_the_rest() {
        assert_eq!(printable("café ☂", 99), "café ☂");
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\n", 99), "a\\u{1b}[2Jb\\u{202e}c\\u{a}");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
