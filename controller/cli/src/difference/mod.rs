//! What a signature would change against this machine's own verified state, in words: shown before anything is signed.

mod plan;
mod release;
mod root;
mod targets;

use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::Role;
use serde::Serialize;

pub use plan::of_plan;
pub use release::{of_document, of_release};
pub use root::of_root;
pub use targets::of_targets;

use crate::output::{Facts, Paint};

/// Longest value in a line, characters.
const VALUE: usize = 300;

/// The changes of one document, in the order in which people look at them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Difference(Vec<Change>);

/// One thing that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub what: String,
    /// None: there was no such thing.
    pub from: Option<String>,
    /// None: there will be no such thing.
    pub to: Option<String>,
}

impl Difference {
    /// Nothing where both are the same.
    pub fn add(&mut self, what: impl Into<String>, from: Option<String>, to: Option<String>) {
        if from != to {
            let shown = |text: Option<String>| text.map(|t| printable(&t, VALUE));
            self.0.push(Change {
                what: printable(&what.into(), VALUE),
                from: shown(from),
                to: shown(to),
            });
        }
    }

    pub fn changed<T: ToString + ?Sized>(&mut self, what: impl Into<String>, from: &T, to: &T) {
        self.add(what, Some(from.to_string()), Some(to.to_string()));
    }

    /// What was not there before.
    pub fn say(&mut self, what: impl Into<String>, to: &(impl ToString + ?Sized)) {
        self.add(what, None, Some(to.to_string()));
    }

    /// What left a list and what came into it.
    pub fn lists<T: PartialEq + ToString>(&mut self, what: &str, from: &[T], to: &[T]) {
        for gone in from.iter().filter(|item| !to.contains(item)) {
            self.add(what, Some(gone.to_string()), None);
        }
        for new in to.iter().filter(|item| !from.contains(item)) {
            self.add(what, None, Some(new.to_string()));
        }
    }

    /// Keys and threshold of a role.
    pub fn roles(&mut self, what: &str, from: Option<&Role>, to: Option<&Role>) {
        let quorum = |role: &Role| format!("{} of {}", role.threshold, role.keys.len());
        self.add(format!("{what} quorum"), from.map(quorum), to.map(quorum));
        let keys = |role: Option<&Role>| {
            let keys = role
                .iter()
                .flat_map(|role| role.keys.iter().map(ensign_crypto::PublicKey::id));
            keys.collect::<Vec<_>>()
        };
        self.lists(&format!("{what} key"), &keys(from), &keys(to));
    }

    /// Those of another document, behind these.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A line for each change; nothing where there is none.
    pub fn text(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        for change in &self.0 {
            let value = match (&change.from, &change.to) {
                (Some(from), Some(to)) => format!("{from} → {to}"),
                (Some(from), None) => format!("{from} → none"),
                (None, Some(to)) => to.clone(),
                (None, None) => continue,
            };
            facts.add(&format!("  {}", change.what), value);
        }
        facts.text(paint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_not_said_and_foreign_text_is_harmless() {
        let mut difference = Difference::default();
        difference.changed("version", &1, &1);
        difference.changed("expires", "then", "later");
        difference.say("unit", "web\u{1b}[2J.service");
        difference.lists("address", &["a:1", "b:1"], &["b:1", "c:1"]);
        insta::assert_snapshot!(difference.text(Paint(false)), @r"
          expires  then → later
          unit     web\u{1b}[2J.service
          address  a:1 → none
          address  c:1
        ");
    }
}
