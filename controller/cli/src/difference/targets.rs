//! What the next targets change.

use ensign_api::Time;
use ensign_bundle::trust::roles::{Product, Targets};

use super::Difference;

/// One list of a product.
type List = fn(&Product) -> Vec<String>;

/// From the targets that this machine trusts to those that would be signed.
pub fn of_targets(old: &Targets, new: &Targets) -> Difference {
    let mut all = Difference::default();
    all.changed("version", &old.version, &new.version);
    all.changed("expires", &Time(old.expires), &Time(new.expires));
    let mut names: Vec<&str> = old.products.iter().chain(&new.products).map(|p| &*p.name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let own = |targets: &'_ Targets| targets.products.iter().any(|p| p.name == name);
        let entry = |targets: &Targets| {
            let named = |name: &str| targets.products.iter().find(|p| p.name == name);
            named(name).or_else(|| named("*")).cloned()
        };
        // What it had without an entry of its own is that of `*`.
        let said = |own: bool| if own { "of its own" } else { "that of `*`" };
        all.changed(format!("{name} entry"), said(own(old)), said(own(new)));
        let (from, to) = (entry(old), entry(new));
        product(&mut all, name, from.as_ref(), to.as_ref());
    }
    if old.ext != new.ext {
        all.changed("extensions", "as they were", "others, which this version does not know");
    }
    all
}

fn product(all: &mut Difference, name: &str, from: Option<&Product>, to: Option<&Product>) {
    let name = if name == "*" { "every other product" } else { name };
    all.roles(name, from.map(|p| &p.role), to.map(|p| &p.role));
    let lists: [(&str, List); 4] = [
        ("component", |p| p.components.clone()),
        ("kind", |p| p.kinds.clone()),
        ("handler", |p| p.handlers.iter().map(ToString::to_string).collect()),
        ("unit", |p| p.units.clone()),
    ];
    for (what, list) in lists {
        let of = |product: Option<&Product>| product.map(list).unwrap_or_default();
        all.lists(&format!("{name} {what}"), &of(from), &of(to));
    }
    let select = |product: &Product| product.select().map(str::to_owned);
    all.add(format!("{name} selector"), from.and_then(select), to.and_then(select));
    let floor = |product: &Product| product.security_floor.to_string();
    all.add(format!("{name} security floor"), from.map(floor), to.map(floor));
    let lowest = |product: &Product| product.lowest.to_string();
    all.add(format!("{name} lowest counter"), from.map(lowest), to.map(lowest));
    let network = |product: &Product| product.network.to_string();
    all.add(format!("{name} network"), from.map(network), to.map(network));
    let rest = |product: &Product| {
        let mut rest = product.clone();
        rest.set_select(None);
        rest.ext
    };
    if from.map(rest).unwrap_or_default() != to.map(rest).unwrap_or_default() {
        all.changed(
            format!("{name} extensions"),
            "as they were",
            "others, which this version does not know",
        );
    }
}

#[cfg(test)]
mod tests {
    use ensign_bundle::trust::issue::NewFleet;
    use ensign_bundle::trust::roles::Controller;
    use ensign_crypto::SecretKey;

    use super::*;
    use crate::output::Paint;

    #[test]
    fn every_change_of_targets_is_said() {
        let key = |n| SecretKey::from_seed([n; 32]).public();
        let fleet = NewFleet {
            fleet: ensign_bundle::digest::FleetId([1; 32]),
            name: "acme".to_owned(),
            root: vec![key(1)],
            targets: key(2),
            release: key(3),
            deploy: key(4),
            snapshot: key(5),
            timestamp: key(6),
            controller: Controller {
                keys: Vec::new(),
                api: Vec::new(),
                addresses: Vec::new(),
            },
            lab: true,
        };
        let old = fleet.targets(1000);
        assert_eq!(of_targets(&old, &old), Difference::default());
        let mut new = old.clone();
        new.version = 2;
        let mut entry = new.products[0].clone();
        entry.name = "pos".to_owned();
        entry.role.keys.push(key(7));
        entry.set_select(Some("role = till".to_owned()));
        new.products[0].lowest = 7;
        new.products[0].kinds.push("image".to_owned());
        new.products.push(entry);
        insta::assert_snapshot!(of_targets(&old, &new).text(Paint(false)));
    }
}
