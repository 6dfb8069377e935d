//! What the next root changes.

use ensign_api::Time;
use ensign_bundle::trust::roles::{Root, Scope};

use super::Difference;
use crate::units::show_seconds;

/// From the root that this machine trusts to the one that would be signed.
pub fn of_root(old: &Root, new: &Root) -> Difference {
    let mut all = Difference::default();
    all.changed("fleet", &old.fleet, &new.fleet);
    all.changed("name", &old.name, &new.name);
    all.changed("version", &old.version, &new.version);
    all.changed("expires", &Time(old.expires), &Time(new.expires));
    for (what, from, to) in [
        ("root", &old.roles.root, &new.roles.root),
        ("targets", &old.roles.targets, &new.roles.targets),
        ("snapshot", &old.roles.snapshot, &new.roles.snapshot),
        ("timestamp", &old.roles.timestamp, &new.roles.timestamp),
    ] {
        all.roles(what, Some(from), Some(to));
    }
    scopes(&mut all, &old.scopes, &new.scopes);
    all.lists("protected label", &old.protected, &new.protected);
    policy(&mut all, old, new);
    all.lists("controller key", &old.controller.keys, &new.controller.keys);
    all.lists("controller https key", &old.controller.api, &new.controller.api);
    all.lists("address", &old.controller.addresses, &new.controller.addresses);
    floors(&mut all, old, new);
    let time = |root: &Root| root.time_reset.map(|t| Time(t).to_string());
    all.add("clock floor", time(old), time(new));
    all.changed("lowest protocol", &old.min_protocol, &new.min_protocol);
    if old.ext != new.ext {
        all.changed("extensions", "as they were", "others, which this version does not know");
    }
    all
}

fn scopes(all: &mut Difference, old: &[Scope], new: &[Scope]) {
    let mut names: Vec<_> = old.iter().chain(new).map(|s| &s.name).collect();
    names.sort();
    names.dedup();
    for name in names {
        let find = |scopes: &'_ [Scope]| scopes.iter().position(|s| s.name == *name);
        let (from, to) = (
            find(old).and_then(|at| old.get(at)),
            find(new).and_then(|at| new.get(at)),
        );
        let select = |scope: &Scope| {
            if scope.select.is_empty() {
                "every device".to_owned()
            } else {
                scope.select.clone()
            }
        };
        all.add(format!("scope {name}"), from.map(select), to.map(select));
        all.roles(&format!("scope {name}"), from.map(|s| &s.role), to.map(|s| &s.role));
    }
}

fn policy(all: &mut Difference, old: &Root, new: &Root) {
    let (from, to) = (&old.policy, &new.policy);
    all.changed("lab", &from.lab, &to.lab);
    let number = |n: Option<u32>| n.map(|n| n.to_string());
    all.add(
        "devices in the first wave",
        number(from.first_wave_max),
        number(to.first_wave_max),
    );
    all.lists("offline plans in scope", &from.offline, &to.offline);
    all.changed(
        "offline without a clock",
        &from.offline_without_time,
        &to.offline_without_time,
    );
    let life = |s: Option<u64>| s.map(show_seconds);
    all.add(
        "life of a timestamp",
        life(from.timestamp_life_s),
        life(to.timestamp_life_s),
    );
    all.changed("known canaries alone", &from.known_canaries, &to.known_canaries);
}

fn floors(all: &mut Difference, old: &Root, new: &Root) {
    let (from, to) = (&old.floors, &new.floors);
    all.changed("reset epoch", &from.reset_epoch, &to.reset_epoch);
    all.changed("lowest targets version", &from.targets_version, &to.targets_version);
    let mut products: Vec<_> = from.products.keys().chain(to.products.keys()).collect();
    products.sort();
    products.dedup();
    for product in products {
        let (from, to) = (old.floor(product), new.floor(product));
        all.changed(format!("{product}: plans retired up to"), &from.plan_seq, &to.plan_seq);
        all.changed(format!("{product}: lowest counter"), &from.counter, &to.counter);
        all.changed(format!("{product}: security floor"), &from.security, &to.security);
    }
}

#[cfg(test)]
mod tests {
    use ensign_bundle::trust::roles::{ProductFloor, Role};
    use ensign_crypto::SecretKey;

    use super::*;
    use crate::output::Paint;
    use crate::rollout::draft_tests as fixture;

    #[test]
    fn every_change_of_a_root_is_said() {
        let old = fixture::root(None);
        assert_eq!(of_root(&old, &old), Difference::default());
        let key = |n| SecretKey::from_seed([n; 32]).public();
        let mut new = old.clone();
        new.version = 2;
        new.expires = 1_800_000_000;
        new.roles.root = Role {
            keys: vec![key(201), key(1), key(2)],
            threshold: 2,
        };
        new.scopes[0].select = "site = lyon".to_owned();
        new.scopes.push(Scope {
            name: "shop".parse().unwrap(),
            select: String::new(),
            role: Role {
                keys: vec![key(3)],
                threshold: 1,
            },
        });
        new.policy.lab = true;
        new.policy.first_wave_max = Some(5);
        new.controller.addresses = vec!["update.example.com:7443".to_owned()];
        let floor = ProductFloor {
            plan_seq: 9,
            ..ProductFloor::default()
        };
        new.floors.products.insert("app".parse().unwrap(), floor);
        insta::assert_snapshot!(of_root(&old, &new).text(Paint(false)));
    }
}
