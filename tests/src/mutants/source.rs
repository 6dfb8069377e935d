//! Finding checks in a source text and putting the question before each.

use std::collections::BTreeMap;

/// A text with a switch before every check, and their names.
pub(super) struct Switched {
    pub text: String,
    pub names: Vec<String>,
}

/// What is inserted in front of (and behind) a check.
struct Edit {
    at: usize,
    text: String,
}

/// The condition of the question.
pub(super) fn question(name: &str) -> String {
    format!("crate::mutant({name:?})")
}

/// Two kinds of checks are found: an `if` (or a match arm with a guard) around a refusal, and a call whose only effect is `?`.
pub(super) fn switch(file: &str, source: &str) -> Switched {
    let end = source.find("#[cfg(test)]").unwrap_or(source.len());
    let code = &source[..end];
    let mut names = Names::default();
    let mut edits = Vec::new();
    let refusals = code.match_indices("refuse!(").map(|(at, found)| (at, at + found.len()));
    // A refusal behind a helper of its own: what it is about stands in the condition.
    let helped = code
        .match_indices("return outside(")
        .map(|(at, _)| (at, at + "return ".len()));
    for (at, behind) in refusals.chain(helped) {
        let kind: String = code[behind..]
            .trim_start()
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        if let Some((from, to)) = condition(code, at) {
            let name = names.next(file, code, from, &kind);
            edits.extend(guard(code, from, to, &name));
        }
    }
    let mut at = 0;
    let mut statement = true;
    for line in code.split_inclusive('\n') {
        let start = at + line.len() - line.trim_start().len();
        // What goes on with the line above is no statement of its own.
        let begins = std::mem::replace(
            &mut statement,
            line.trim_end().ends_with(['{', '}', ';']) || line.contains("//"),
        );
        if let Some(called) = bare_call(line.trim()).filter(|_| begins) {
            let name = names.next(file, code, start, called);
            let end = at + line.trim_end().len();
            edits.push(Edit {
                at: start,
                text: format!("if !{} {{ ", question(&name)),
            });
            edits.push(Edit {
                at: end,
                text: " }".to_owned(),
            });
        }
        at += line.len();
    }
    edits.sort_by_key(|edit| edit.at);
    let mut text = source.to_owned();
    for edit in edits.iter().rev() {
        text.insert_str(edit.at, &edit.text);
    }
    Switched { text, names: names.all }
}

/// `!question && (condition)`.
fn guard(code: &str, from: usize, to: usize, name: &str) -> [Edit; 2] {
    // A chain with `let` has no `||` outside of parentheses, and may not stand in them itself.
    let (open, close) = if code[from..to].contains("let ") {
        ("", "")
    } else {
        ("(", ")")
    };
    [
        Edit {
            at: from,
            text: format!("!{} && {open}", question(name)),
        },
        Edit {
            at: to,
            text: close.to_owned(),
        },
    ]
}

/// Where the condition of the refusal at `at` stands; `None` = it has none of its own (`else`, the last arm, the end of a function).
fn condition(code: &str, at: usize) -> Option<(usize, usize)> {
    let before = code[..at].trim_end().trim_end_matches("return").trim_end();
    if let Some(arm) = before.strip_suffix("=>") {
        return arm_guard(arm);
    }
    let opened = enclosing_brace(code, at)?;
    let head = code[..opened].trim_end();
    if let Some(arm) = head.strip_suffix("=>") {
        return arm_guard(arm);
    }
    // The line on which the `if` begins, at most a few above.
    let mut from = head.len();
    for _ in 0..8 {
        let line = head[..from].rfind('\n').map_or(0, |n| n + 1);
        let text = head[line..].trim_start();
        let indent = head[line..].len() - text.len();
        for start in ["if ", "} else if "] {
            if text.starts_with(start) {
                let from = line + indent + start.len();
                return Some((from, head.len()));
            }
        }
        let first = text.lines().next().unwrap_or_default();
        let continues =
            text.starts_with("&& ") || text.starts_with("|| ") || text.starts_with('.') || text.starts_with(')');
        if line == 0 || !(continues || first.ends_with('(') || first.ends_with(',')) {
            return None;
        }
        from = line - 1;
    }
    None
}

fn arm_guard(arm: &str) -> Option<(usize, usize)> {
    let arm = arm.trim_end();
    let line = arm.rfind('\n').map_or(0, |n| n + 1);
    let found = arm[line..].find(" if ")?;
    Some((line + found + " if ".len(), arm.len()))
}

/// The brace that opens the block around `at`.
fn enclosing_brace(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, byte) in code[..at].bytes().enumerate().rev() {
        match byte {
            b'}' => depth += 1,
            b'{' if depth == 0 => return Some(index),
            b'{' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `check(x, y)?;` on a line of its own: what is called.
fn bare_call(line: &str) -> Option<&str> {
    let call = line.strip_suffix(")?;")?;
    let (path, _) = call.split_once('(')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    let starts = path.starts_with(|c: char| c.is_ascii_alphabetic());
    (starts && path.chars().all(plain)).then(|| path.rsplit(['.', ':']).next().unwrap_or(path))
}

/// `FILE FUNCTION: WHAT`, numbered where that is not unique.
#[derive(Default)]
struct Names {
    all: Vec<String>,
    seen: BTreeMap<String, usize>,
}

impl Names {
    fn next(&mut self, file: &str, code: &str, at: usize, what: &str) -> String {
        let function = code[..at].rfind("fn ").map_or("", |f| {
            let rest = &code[f + 3..];
            let end = rest.find(['(', '<']).unwrap_or(0);
            &rest[..end]
        });
        let name = format!("{file} {function}: {what}");
        let seen = self.seen.entry(name.clone()).or_default();
        *seen += 1;
        let name = if *seen == 1 { name } else { format!("{name} {seen}") };
        self.all.push(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_guards_and_calls_are_found() {
        let source = "fn a(x: u8) {\n    first(x)?;\n    let y = second(x)?;\n    let z =\n        third(x)?;\n    if x == 1 || x == 2 {\n        return refuse!(One, \"{x}\");\n    }\n    \
                      if let Some(y) = z\n        && y > 1\n    {\n        let w = 1;\n        return refuse!(Two, \"\");\n    }\n    match x {\n        \
                      3 if y => refuse!(Three, \"\"),\n        4 => refuse!(Four, \"\"),\n        _ => Ok(()),\n    }\n}\n#[cfg(test)]\nif x { refuse!(No, \"\") }\n";
        let switched = switch("f.rs", source);
        assert_eq!(
            switched.names,
            ["f.rs a: One", "f.rs a: Two", "f.rs a: Three", "f.rs a: first"]
        );
        for wanted in [
            "if !crate::mutant(\"f.rs a: first\") { first(x)?; }\n",
            "if !crate::mutant(\"f.rs a: One\") && (x == 1 || x == 2) {",
            "if !crate::mutant(\"f.rs a: Two\") && let Some(y) = z\n        && y > 1\n",
            "3 if !crate::mutant(\"f.rs a: Three\") && (y) => refuse!",
            "4 => refuse!(Four",
            "#[cfg(test)]\nif x {",
        ] {
            assert!(switched.text.contains(wanted), "{wanted}\n{}", switched.text);
        }
    }
}
