//! What stands on the device: numbered generations, each a set of products and the trees of their components.

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use serde::{Deserialize, Serialize};

use crate::stage::{Prepared, Target};
use crate::uptime::{Now, Uptime};

/// One state of the whole device. `deploy/generations/N` has a link per component; `deploy/current` points at one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// From 1; never used again.
    pub number: u64,
    /// The one before it, 0 = none: where a rollback goes.
    pub parent: u64,
    pub products: Vec<Product>,
    /// Of all products; those of one product in the order of its manifest.
    pub components: Vec<Component>,
}

/// A release in a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    pub product: Ident,
    pub version: Version,
    pub counter: u64,
    pub manifest: Digest,
    /// The plan that brought it.
    pub plan: Digest,
    /// Wall clock of the switch, seconds since 1970.
    pub since: u64,
    pub confirmed: bool,
    /// Since its switch.
    pub uptime: Uptime,
}

/// A component's tree and what is restarted with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub product: Ident,
    pub name: Ident,
    /// Directory in `deploy/trees`.
    pub tree: Digest,
    pub units: Vec<String>,
}

impl Generation {
    /// What this generation has of the product.
    pub fn product(&self, product: &Ident) -> Option<&Product> {
        self.products.iter().find(|p| p.product == *product)
    }

    pub(crate) fn product_mut(&mut self, product: &Ident) -> Option<&mut Product> {
        self.products.iter_mut().find(|p| p.product == *product)
    }

    /// The component of this name, whichever product it is of.
    pub fn component(&self, name: &Ident) -> Option<&Component> {
        self.components.iter().find(|c| c.name == *name)
    }

    /// Components of `self` whose tree another generation does not have under the same name, in the order of `self`.
    pub fn differing<'a>(&'a self, other: Option<&'a Self>) -> impl Iterator<Item = &'a Component> {
        self.components
            .iter()
            .filter(move |c| other.and_then(|o| o.component(&c.name)).map(|o| o.tree) != Some(c.tree))
    }

    /// `current` with one product replaced.
    pub(crate) fn next(number: u64, current: Option<&Self>, target: &Target, prepared: &Prepared, now: &Now) -> Self {
        let mut next = current.cloned().unwrap_or_default();
        next.parent = next.number;
        next.number = number;
        next.products.retain(|p| p.product != target.product);
        next.components.retain(|c| c.product != target.product);
        next.products.push(Product {
            product: target.product.clone(),
            version: target.version.clone(),
            counter: target.counter,
            manifest: target.manifest.digest,
            plan: target.plan,
            since: now.unix_s,
            confirmed: false,
            uptime: Uptime::start(now),
        });
        next.components.extend(prepared.components.iter().cloned());
        next
    }
}
