use proptest::prelude::*;

use super::*;
use crate::reason::Code;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| (Label::parse(k).unwrap(), Label::parse(v).unwrap()))
        .collect()
}

fn matches(expr: &str, pairs: &[(&str, &str)]) -> bool {
    Selector::parse(expr).unwrap().matches(Subject {
        id: &DeviceId([7; 32]),
        name: "till-1",
        labels: &labels(pairs),
    })
}

#[test]
fn every_form_matches_what_it_says() {
    let device = &[
        ("site", "lyon"),
        ("hardware", "pos-3"),
        ("pilot", "yes"),
        ("note", "or"),
    ];
    for yes in [
        "site = lyon",
        "site=lyon",
        "site != paris",
        "absent != x",
        "site in (paris, lyon)",
        "pilot",
        "not absent",
        "site = lyon and hardware = pos-3",
        "site = paris or pilot",
        "site = paris and pilot or hardware",
        "not (site = paris or absent)",
        "not not pilot",
        "note = \"or\"",
        "note = 'or'",
        "name = till-1",
        "name in (till-1)",
        "id = 0707070707070707070707070707070707070707070707070707070707070707",
        "  site\t=\nlyon  ",
    ] {
        assert!(matches(yes, device), "{yes}");
    }
    for no in [
        "site = paris",
        "site != lyon",
        "absent",
        "absent = x",
        "not pilot",
        "site in (paris, nice)",
        "pilot and site = paris",
        "(site = paris or pilot) and absent",
        "name = till-2",
    ] {
        assert!(!matches(no, device), "{no}");
    }
}

#[test]
fn the_keys_it_asks_about() {
    let selector = Selector::parse("site = lyon and not (hw in (a, b) or group)").unwrap();
    assert_eq!(
        selector.keys().into_iter().map(Label::as_str).collect::<Vec<_>>(),
        ["group", "hw", "site"]
    );
    for everyone in ["", " ", "all", " all "] {
        assert_eq!(
            Selector::parse(everyone).unwrap().0,
            Expr::All(Vec::new()),
            "{everyone}"
        );
    }
    assert_ne!(Selector::parse("all = x").unwrap().0, Expr::All(Vec::new()));
}

#[test]
fn a_refusal_names_the_column() {
    for (text, column, says) in [
        ("(", 2, "found the end"),
        ("site =", 7, "expected a value, found the end"),
        ("site = a b", 10, "expected `and` or `or`, found `b`"),
        ("(site = a", 10, "expected `)`, found the end"),
        ("site in a", 9, "expected `(`, found `a`"),
        ("site in (a b)", 12, "expected `,` or `)`"),
        ("site in ()", 10, "expected a value"),
        ("and", 1, "expected a key"),
        ("site = or", 8, "expected a value"),
        ("site ~ x", 6, "`~` has no meaning"),
        ("site ! x", 6, "`!` has no meaning"),
        ("é = x", 1, "has no meaning"),
        ("site = 'x", 8, "no closing '"),
        ("site = 'a b'", 8, "is not"),
        ("-a = x", 1, "is not"),
        ("a = b)", 6, "found `)`"),
    ] {
        let refusal = Selector::parse(text).unwrap_err();
        assert_eq!(refusal.code, Code::Usage);
        assert!(
            refusal.text.contains(&format!("column {column}:")) && refusal.text.contains(says),
            "{text}: {refusal}"
        );
    }
}

#[test]
fn limits_hold_one_step_before_and_refuse_one_step_after() {
    let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    assert!(Selector::parse(&nested(SELECTOR_DEPTH)).is_ok());
    assert!(Selector::parse(&nested(SELECTOR_DEPTH + 1)).is_err());
    assert!(Selector::parse(&format!("{}a", "not ".repeat(SELECTOR_DEPTH))).is_ok());
    assert!(Selector::parse(&format!("{}a", "not ".repeat(SELECTOR_DEPTH + 1))).is_err());
    let values = |n: usize| format!("a in ({})", vec!["b"; n].join(","));
    assert!(Selector::parse(&values(SELECTOR_TESTS)).is_ok());
    assert!(Selector::parse(&values(SELECTOR_TESTS + 1)).is_err());
    let long = |n: usize| format!("a{}", " ".repeat(n - 1));
    assert!(Selector::parse(&long(SELECTOR_BYTES)).is_ok());
    assert!(Selector::parse(&long(SELECTOR_BYTES + 1)).is_err());
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("or".to_owned()),
        Just("in".to_owned()),
        "[A-Za-z0-9][A-Za-z0-9._/-]{0,5}",
        "[a-c]",
    ]
}

fn key() -> impl Strategy<Value = Label> {
    word()
        .prop_filter("not a keyword", |w| !KEYWORDS.contains(&w.as_str()))
        .prop_map(|w| Label::parse(&w).unwrap())
}

fn expr() -> impl Strategy<Value = Expr> {
    let test = prop_oneof![
        key().prop_map(Expr::Present),
        (key(), word()).prop_map(|(k, v)| Expr::Equal(k, v)),
        (key(), word()).prop_map(|(k, v)| Expr::NotEqual(k, v)),
        (key(), prop::collection::vec(word(), 1..4)).prop_map(|(k, v)| Expr::In(k, v)),
    ];
    test.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::All),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Any),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_parses_to_the_same(expr in expr()) {
        let selector = Selector(expr);
        let written = selector.to_string();
        prop_assert_eq!(Selector::parse(&written).unwrap(), selector, "{}", written);
    }

    #[test]
    fn not_turns_every_answer_round(expr in expr(), pairs in prop::collection::btree_map(key(), key(), 0..4)) {
        let subject = Subject { id: &DeviceId([1; 32]), name: "a", labels: &pairs };
        let (plain, negated) = (Selector(expr.clone()), Selector(Expr::Not(Box::new(expr))));
        prop_assert_ne!(plain.matches(subject), negated.matches(subject));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,40}|[a-c() =!,'\"andornoti]{0,40}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
