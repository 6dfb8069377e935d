//! `product set`: the draft of the next targets.

use std::path::Path;

use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::Kind;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Signed};
use ensign_bundle::text::printable;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{Product, Targets};

use crate::app::{App, Session};
use crate::args::SetProduct;
use crate::ceremony::{self, Ceremony as _, change};
use crate::clock;
use crate::device;
use crate::failure::{Failure, Result, fail};
use crate::output::Shell;

/// Every kind by its name.
const KINDS: [Kind; 5] = [Kind::Tree, Kind::Image, Kind::Oci, Kind::Agent, Kind::Handler];
/// The one product that may carry Ensign itself.
const ENSIGN: &str = "ensign";
/// The entry of every product without one of its own.
const OTHERS: &str = "*";

pub async fn run(app: &App, words: &SetProduct) -> Result<()> {
    let session = app.signing_session().await?;
    let own = Targets::own_path(&session.context);
    let path = words.out.as_deref().unwrap_or(&own);
    let mut next = match continued(&session, path, words.anew)? {
        Some(draft) => draft,
        None => session.trust.targets().next(clock::now())?,
    };
    let entry = entry(&mut next, &words.product)?;
    apply(entry, words)?;
    if let Some(text) = &words.security_floor {
        entry.security_floor = counter(&session, &words.product, text)?;
    }
    if let Some(text) = &words.lowest {
        entry.lowest = counter(&session, &words.product, text)?;
    }
    // What everybody would refuse at the end is refused before anybody signs.
    let envelope = statement::seal(&next)?;
    session.trust.trusted().check_next_targets(&next, clock::now())?;
    for name in super::publish::leaving(&session, &next) {
        Shell::warn(&format!("{name} leaves the list of what is published"));
    }
    let draft = Signed { body: next, envelope };
    if app.shell.dry_run {
        let what = format!("write the draft {}", path.display());
        return app.shell.would_change(what, &draft.body.difference(&session));
    }
    ceremony::write(path, &draft.envelope)?;
    app.shell.print(&ceremony::shown(&session, Some(path), &draft))
}

/// The draft that is there, where it still follows the targets in force. Its signatures go with the change.
fn continued(session: &Session, path: &Path, anew: bool) -> Result<Option<Targets>> {
    if anew || !path.exists() {
        return Ok(None);
    }
    let draft = ceremony::read::<Targets>(path)?;
    if draft.body.version != session.trust.targets().version.saturating_add(1) {
        Shell::warn(&format!(
            "the draft {} was for targets {}; it is begun anew",
            path.display(),
            draft.body.version
        ));
        return Ok(None);
    }
    if !draft.envelope.signatures().is_empty() {
        Shell::warn("what is changed must be signed again: the signatures of the draft are gone");
    }
    Ok(Some(draft.body))
}

/// The product's own entry; where there is none, a copy of the one that covers it.
fn entry<'a>(targets: &'a mut Targets, name: &str) -> Result<&'a mut Product> {
    if name != OTHERS {
        Ident::parse(name).map_err(|e| Failure::usage(e.to_string()))?;
    }
    let found = targets.products.iter().position(|p| p.name == name);
    let at = if let Some(at) = found {
        at
    } else {
        let covering = targets.products.iter().find(|p| p.name == OTHERS);
        let Some(covering) = covering.cloned() else {
            return fail!(NotFound, "no entry of targets covers the product {name}");
        };
        let name = name.to_owned();
        let at = targets.products.partition_point(|p| p.name < name);
        targets.products.insert(at, Product { name, ..covering });
        at
    };
    let found = targets.products.get_mut(at);
    found.ok_or_else(|| Failure::new(Code::Failed, format!("the entry of {name} is lost")))
}

/// What words change in an entry.
fn apply(entry: &mut Product, words: &SetProduct) -> Result<()> {
    let keys = change::Keys {
        add: words
            .key
            .iter()
            .map(|file| ceremony::public_key(file))
            .collect::<Result<_>>()?,
        remove: words.remove.clone(),
        threshold: words.threshold,
        ..change::Keys::default()
    };
    change::role(&mut entry.role, &keys)?;
    for (list, new, flag) in [
        (&mut entry.components, &words.components, "--components"),
        (&mut entry.units, &words.units, "--units"),
    ] {
        if !new.is_empty() {
            new.iter().try_for_each(|pattern| check_pattern(pattern, flag))?;
            list.clone_from(new);
        }
    }
    if !words.kinds.is_empty() {
        for kind in &words.kinds {
            check_kind(&entry.name, kind)?;
        }
        entry.kinds.clone_from(&words.kinds);
    }
    if !words.handlers.is_empty() {
        let ident = |id: &String| Ident::parse(id).map_err(|e| Failure::usage(e.to_string()));
        entry.handlers = words.handlers.iter().map(ident).collect::<Result<_>>()?;
    }
    if let Some(role) = &words.role {
        entry.network = role == "network";
    }
    if let Some(select) = &words.select {
        let select = Some(select).filter(|text| !text.trim().is_empty());
        let parsed = select.map(|text| device::selector(text)).transpose()?;
        entry.set_select(parsed.map(|selector| selector.to_string()));
    }
    Ok(())
}

fn check_pattern(pattern: &str, flag: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:@\\*".contains(c);
    if !pattern.is_empty() && pattern.chars().all(fits) {
        return Ok(());
    }
    Err(
        Failure::usage(format!("{flag}: `{}` is no pattern of names", printable(pattern, 80)))
            .hint("letters, digits, `.`, `-`, `_`, `:`, `@`, and `*` for any run of characters; several with commas"),
    )
}

fn check_kind(product: &str, kind: &str) -> Result<()> {
    let names = KINDS.map(Kind::name);
    if !names.contains(&kind) {
        return Err(Failure::usage(format!("there is no kind `{}`", printable(kind, 40)))
            .hint(format!("--kinds {}", names.join(","))));
    }
    if kind == Kind::Agent.name() && product != ENSIGN {
        return Err(Failure::usage(format!(
            "only the product {ENSIGN} has components of kind {kind}"
        )));
    }
    Ok(())
}

/// A counter, or that of a version: as it is published, else as it would be built.
fn counter(session: &Session, product: &str, text: &str) -> Result<u64> {
    if let Ok(counter) = text.parse() {
        return Ok(counter);
    }
    let version = Version::parse(text).map_err(|e| Failure::usage(e.to_string()))?;
    let listed = session.trust.trusted().snapshot();
    let listed = listed.iter().flat_map(|s| &s.releases);
    let mut listed = listed.filter(|l| l.product.as_str() == product && l.release == version);
    let found = listed.next().map(|l| l.counter).or_else(|| version.counter());
    found.ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            format!("{product}@{version} is not published, and its version has no counter by itself"),
        )
        .hint("give the counter: `ensign release ls`")
    })
}

#[cfg(test)]
mod tests {
    use ensign_bundle::codec::Ext;
    use ensign_bundle::trust::roles::{FORMAT, Role};
    use ensign_crypto::SecretKey;

    use super::*;

    fn targets() -> Targets {
        let product = Product {
            name: OTHERS.to_owned(),
            role: Role {
                keys: vec![SecretKey::from_seed([1; 32]).public()],
                threshold: 1,
            },
            components: vec![OTHERS.to_owned()],
            kinds: vec!["tree".to_owned()],
            handlers: Vec::new(),
            units: vec![OTHERS.to_owned()],
            security_floor: 0,
            lowest: 0,
            network: false,
            ext: Ext::default(),
        };
        Targets {
            format: FORMAT,
            version: 1,
            issued: 1,
            expires: 2,
            products: vec![product],
            ext: Ext::default(),
        }
    }

    #[test]
    fn a_new_entry_is_a_copy_in_its_place_and_only_what_is_named_changes() {
        let mut next = targets();
        for name in ["pos", "app", "pos"] {
            let words = SetProduct {
                product: name.to_owned(),
                units: vec!["pos-*.service".to_owned()],
                select: Some("role = till".to_owned()),
                role: Some("network".to_owned()),
                ..SetProduct::default()
            };
            apply(entry(&mut next, name).unwrap(), &words).unwrap();
        }
        let names: Vec<&str> = next.products.iter().map(|p| &*p.name).collect();
        assert_eq!(names, [OTHERS, "app", "pos"]);
        assert_eq!(next.products[0], targets().products[0]);
        let pos = &next.products[2];
        assert_eq!(
            (pos.units.as_slice(), pos.select()),
            (&["pos-*.service".to_owned()][..], Some("role = till"))
        );
        assert_eq!(pos.components, [OTHERS]);
        assert!(pos.network && !next.products[0].network);
        statement::seal(&next).unwrap();
        let nothing = SetProduct {
            select: Some(String::new()),
            ..SetProduct::default()
        };
        apply(entry(&mut next, "pos").unwrap(), &nothing).unwrap();
        assert!(next.products[2].ext.is_empty(), "no selector leaves nothing behind");
    }

    #[test]
    fn what_is_no_bound_is_refused() {
        let set = |words: SetProduct| {
            let mut next = targets();
            let entry = entry(&mut next, &words.product)?;
            apply(entry, &words)
        };
        let pos = || SetProduct {
            product: "pos".to_owned(),
            ..SetProduct::default()
        };
        let one = |text: &str| vec![text.to_owned()];
        for words in [
            SetProduct {
                product: "No Name".to_owned(),
                ..pos()
            },
            SetProduct {
                units: one("a b.service"),
                ..pos()
            },
            SetProduct {
                components: one(""),
                ..pos()
            },
            SetProduct {
                kinds: one("tre"),
                ..pos()
            },
            SetProduct {
                kinds: one("agent"),
                ..pos()
            },
            SetProduct {
                handlers: one("UP"),
                ..pos()
            },
            SetProduct {
                select: Some("role =".to_owned()),
                ..pos()
            },
        ] {
            assert_eq!(set(words.clone()).unwrap_err().exit(), 2, "{words:?}");
        }
        assert!(
            set(SetProduct {
                product: ENSIGN.to_owned(),
                kinds: one("agent"),
                ..pos()
            })
            .is_ok()
        );
        assert_eq!(
            set(SetProduct {
                remove: one("ffffffff"),
                ..pos()
            })
            .unwrap_err()
            .exit(),
            32
        );
    }
}
