//! What words change in a root: keys, thresholds, floors.

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{ProductFloor, Role, Root};
use ensign_crypto::{KeyId, PublicKey};

use crate::failure::{Failure, Result};

/// Digits of a key's id that are enough to name it.
const PREFIX: usize = 8;

/// Which keys a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Root,
    Targets,
    Snapshot,
    Timestamp,
    /// The controller's TLS keys.
    Controller,
    /// The keys of the operators' port.
    Https,
    /// One scope, or all of them.
    Deploy(Option<Ident>),
}

/// One word of a change of keys.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    pub add: Vec<PublicKey>,
    /// Keys of the operators' port, by the SHA-256 of their SPKI.
    pub add_https: Vec<KeyId>,
    /// Ids or prefixes.
    pub remove: Vec<String>,
    pub threshold: Option<u32>,
}

impl Whose {
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "root" => Self::Root,
            "targets" => Self::Targets,
            "snapshot" => Self::Snapshot,
            "timestamp" => Self::Timestamp,
            "controller" => Self::Controller,
            "https" => Self::Https,
            "deploy" => Self::Deploy(None),
            _ => match text.strip_prefix("deploy:") {
                Some(scope) => Self::Deploy(Some(Ident::parse(scope).map_err(|e| Failure::usage(e.to_string()))?)),
                None => {
                    return Err(Failure::usage(format!("there is no role `{text}` in root"))
                        .hint("--role root, targets, snapshot, timestamp, controller, https, deploy or deploy:SCOPE"));
                }
            },
        })
    }
}

/// Changes the keys of a role.
pub fn keys(root: &mut Root, whose: &Whose, change: &Keys) -> Result<()> {
    match whose {
        Whose::Root => role(&mut root.roles.root, change),
        Whose::Targets => role(&mut root.roles.targets, change),
        Whose::Snapshot => role(&mut root.roles.snapshot, change),
        Whose::Timestamp => role(&mut root.roles.timestamp, change),
        Whose::Controller => {
            let add: Vec<KeyId> = change.add.iter().map(PublicKey::id).collect();
            shown(&mut root.controller.keys, &add, change, "device")
        }
        Whose::Https => {
            let mut keys = ids(&root.controller.api);
            shown(&mut keys, &change.add_https, change, "operator")?;
            root.controller.api = keys.into_iter().map(|key| Digest(key.0)).collect();
            Ok(())
        }
        Whose::Deploy(scope) => {
            let mut found = root
                .scopes
                .iter_mut()
                .filter(|s| scope.as_ref().is_none_or(|name| s.name == *name))
                .peekable();
            if found.peek().is_none() {
                let name = scope.as_ref().map_or_else(|| "deploy".to_owned(), ToString::to_string);
                return Err(Failure::new(Code::NotFound, format!("root has no scope `{name}`"))
                    .hint("`ensign key root show` lists them"));
            }
            found.try_for_each(|s| role(&mut s.role, change))
        }
    }
}

pub fn role(role: &mut Role, change: &Keys) -> Result<()> {
    for wanted in &change.remove {
        let gone = named(wanted, role.keys.iter().map(PublicKey::id))?;
        role.keys.retain(|key| key.id() != gone);
    }
    for key in &change.add {
        if !role.keys.contains(key) {
            role.keys.push(*key);
        }
    }
    role.threshold = change.threshold.unwrap_or(role.threshold);
    let (asked, there) = (role.threshold, role.keys.len());
    if asked == 0 || usize::try_from(asked).is_ok_and(|asked| asked > there) {
        return Err(Failure::new(
            Code::KeysRefused,
            format!("{asked} of {there} keys would have to sign: 1 to {there} are possible"),
        )
        .hint("--add FILE.pub for one more key, or another --threshold"));
    }
    Ok(())
}

/// As ids of keys, which they are, of another kind of key.
pub fn ids(api: &[Digest]) -> Vec<KeyId> {
    api.iter().map(|digest| KeyId(digest.0)).collect()
}

/// Keys that the controller shows to devices or to operators.
fn shown(keys: &mut Vec<KeyId>, add: &[KeyId], change: &Keys, to: &str) -> Result<()> {
    if change.threshold.is_some() {
        return Err(Failure::usage("the controller's TLS keys have no threshold"));
    }
    for wanted in &change.remove {
        let gone = named(wanted, keys.iter().copied())?;
        keys.retain(|key| *key != gone);
    }
    for key in add {
        if !keys.contains(key) {
            keys.push(*key);
        }
    }
    if keys.is_empty() {
        return Err(Failure::new(
            Code::KeysRefused,
            format!("no {to} would find the controller: root names none of its keys"),
        )
        .hint("add the next key in the same step: --add FILE"));
    }
    Ok(())
}

/// The one key whose id begins so.
fn named(wanted: &str, keys: impl Iterator<Item = KeyId>) -> Result<KeyId> {
    let all: Vec<KeyId> = keys.collect();
    let found: Vec<KeyId> = all
        .iter()
        .copied()
        .filter(|key| wanted.len() >= PREFIX && key.to_string().starts_with(wanted))
        .collect();
    match found[..] {
        [one] => Ok(one),
        [] => {
            let there: Vec<String> = all.iter().map(ToString::to_string).collect();
            Err(Failure::new(
                Code::NotFound,
                format!(
                    "no key of the role begins with `{wanted}`; there are {}",
                    there.join(", ")
                ),
            )
            .hint("`ensign key root show` lists the keys of each role"))
        }
        _ => Err(Failure::new(
            Code::Conflict,
            format!("{} keys of the role begin with `{wanted}`", found.len()),
        )
        .hint("give more digits of its id")),
    }
}

/// Raises or lowers a floor: `app.counter`, `app.plan-seq`, `app.security`.
pub fn floor(root: &mut Root, name: &str, value: &str) -> Result<()> {
    let usage = || {
        Failure::usage(format!("`{name}={value}` is no floor"))
            .hint("--floor PRODUCT.plan-seq=N, PRODUCT.counter=N or PRODUCT.security=N")
    };
    let (product, which) = name.rsplit_once('.').ok_or_else(usage)?;
    let product = Ident::parse(product).map_err(|e| Failure::usage(e.to_string()))?;
    let value: u64 = value.parse().map_err(|_| usage())?;
    let floors = root.floors.products.entry(product).or_default();
    match which {
        "plan-seq" => floors.plan_seq = value,
        "counter" => floors.counter = value,
        "security" => floors.security = value,
        _ => return Err(usage()),
    }
    root.floors
        .products
        .retain(|_, floor| *floor != ProductFloor::default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use ensign_bundle::digest::FleetId;
    use ensign_bundle::trust::issue::NewFleet;
    use ensign_bundle::trust::roles::Controller;
    use ensign_crypto::SecretKey;

    use super::*;
    use crate::difference::of_root;
    use crate::output::Paint;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn root() -> Root {
        NewFleet {
            fleet: FleetId([1; 32]),
            name: "acme".to_owned(),
            root: vec![key(1), key(2)],
            targets: key(3),
            release: key(4),
            deploy: key(5),
            snapshot: key(6),
            timestamp: key(7),
            controller: Controller {
                keys: vec![key(8).id()],
                api: vec![Digest([9; 32])],
                addresses: vec!["127.0.0.1:7443".to_owned()],
            },
            lab: true,
        }
        .root(1000)
        .unwrap()
    }

    #[test]
    fn every_change_is_said() {
        let old = root();
        let whose = ["root", "targets", "snapshot", "timestamp", "controller", "deploy:all"];
        for (n, name) in whose.into_iter().enumerate() {
            let mut new = old.clone();
            let change = Keys {
                add: vec![key(50 + u8::try_from(n).unwrap())],
                ..Keys::default()
            };
            keys(&mut new, &Whose::parse(name).unwrap(), &change).unwrap();
            let said = of_root(&old, &new).text(Paint(false));
            assert!(said.contains(&change.add[0].id().to_string()), "{name}: {said}");
            let back = Keys {
                remove: vec![change.add[0].id().to_string()[..8].to_owned()],
                ..Keys::default()
            };
            keys(&mut new, &Whose::parse(name).unwrap(), &back).unwrap();
            assert!(of_root(&old, &new).is_empty(), "{name}");
        }
        let mut new = old.clone();
        let (gone, next) = (ids(&old.controller.api)[0], KeyId([10; 32]));
        let change = Keys {
            add_https: vec![next],
            remove: vec![gone.to_string()],
            ..Keys::default()
        };
        keys(&mut new, &Whose::parse("https").unwrap(), &change).unwrap();
        assert_eq!(new.controller.api, [Digest([10; 32])]);
        assert!(!of_root(&old, &new).is_empty());
        let mut new = old.clone();
        floor(&mut new, "app.counter", "7").unwrap();
        floor(&mut new, "my.app.plan-seq", "9").unwrap();
        new.floors.reset_epoch = 1;
        new.policy.lab = false;
        let said = of_root(&old, &new).text(Paint(false));
        assert_eq!(said.lines().count(), 4, "{said}");
    }

    #[test]
    fn what_cannot_be_changed_says_why() {
        let mut new = root();
        let gone = |keys: &[&str]| Keys {
            remove: keys.iter().map(|k| (*k).to_owned()).collect(),
            ..Keys::default()
        };
        let exit = |result: Result<()>| result.unwrap_err().exit();
        assert_eq!(exit(keys(&mut new, &Whose::Root, &gone(&["ffffffff"]))), 32);
        assert_eq!(exit(keys(&mut new, &Whose::Root, &gone(&["f"]))), 32, "too short");
        let only = new.controller.keys[0].to_string();
        assert_eq!(exit(keys(&mut new, &Whose::Controller, &gone(&[&only]))), 20);
        let only = ids(&new.controller.api)[0].to_string();
        assert_eq!(exit(keys(&mut new, &Whose::Https, &gone(&[&only]))), 20);
        assert_eq!(exit(floor(&mut new, "app.speed", "1")), 2);
        assert_eq!(exit(floor(&mut new, "app.counter", "-1")), 2);
        assert_eq!(Whose::parse("nobody").unwrap_err().exit(), 2);
    }
}
