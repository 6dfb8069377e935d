//! `ensign product ...`: who signs which releases, and within which bounds.

mod publish;
mod role;
mod set;

use ensign_api::Release;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::Targets;
use ensign_crypto::KeyId;
use serde::Serialize;

use crate::app::{App, Session};
use crate::args::ProductVerb;
use crate::ceremony;
use crate::failure::{Failure, Result};
use crate::output::{Document, Facts, Grid, Mood, Paint};

/// A product as its delegation bounds it.
#[derive(Debug, Serialize)]
struct Product {
    name: String,
    /// The entry of targets that covers it: its own, or `*`.
    entry: String,
    keys: Vec<KeyId>,
    threshold: u32,
    components: Vec<String>,
    kinds: Vec<String>,
    handlers: Vec<Ident>,
    units: Vec<String>,
    /// What `rollout start` means where it is not told otherwise.
    select: Option<String>,
    /// Its failure cuts devices off.
    network: bool,
    security_floor: u64,
    lowest: u64,
    releases: usize,
    /// The highest by counter.
    newest: Option<String>,
}

pub async fn run(app: &App, verb: ProductVerb) -> Result<()> {
    match verb {
        ProductVerb::Ls => list(app).await,
        ProductVerb::Show { product } => show(app, &product).await,
        ProductVerb::Set(words) => set::run(app, &words).await,
        ProductVerb::Sign { file } => ceremony::sign::<Targets>(app, file.as_deref()).await,
        ProductVerb::Assemble { files, out } => ceremony::assemble::<Targets>(app, &files, out.as_deref()),
        ProductVerb::Publish { file } => publish::run(app, file.as_deref()).await,
    }
}

async fn list(app: &App) -> Result<()> {
    let session = app.signing_session().await?;
    let releases: Vec<Release> = session.client.get("/v1/releases").await?;

    let mut names: Vec<String> = session
        .trust
        .targets()
        .products
        .iter()
        .map(|p| p.name.clone())
        .collect();
    names.extend(releases.iter().map(|r| r.product.to_string()));
    names.sort();
    names.dedup();
    let products: Vec<Product> = names
        .iter()
        .filter_map(|name| product(&session, name, &releases))
        .collect();
    app.shell.print(&products[..])
}

async fn show(app: &App, name: &str) -> Result<()> {
    Ident::parse(name).map_err(|e| Failure::usage(e.to_string()))?;
    let session = app.signing_session().await?;
    let releases: Vec<Release> = session.client.get("/v1/releases").await?;
    let found = product(&session, name, &releases).ok_or_else(|| {
        Failure::new(Code::NotFound, format!("no entry of targets covers the product {name}"))
            .hint("`ensign product ls`")
    })?;
    app.shell.print(&found)
}

fn product(session: &Session, name: &str, releases: &[Release]) -> Option<Product> {
    let products = &session.trust.targets().products;
    let entry = products
        .iter()
        .find(|p| p.name == name)
        .or_else(|| products.iter().find(|p| p.name == "*"))?;
    let of_it = || releases.iter().filter(|r| r.product.as_str() == name);
    Some(Product {
        name: name.to_owned(),
        entry: entry.name.clone(),
        keys: entry.role.keys.iter().map(ensign_crypto::PublicKey::id).collect(),
        threshold: entry.role.threshold,
        components: entry.components.clone(),
        kinds: entry.kinds.clone(),
        handlers: entry.handlers.clone(),
        units: entry.units.clone(),
        select: entry.select().map(str::to_owned),
        network: entry.network,
        security_floor: entry.security_floor,
        lowest: entry.lowest,
        releases: of_it().count(),
        newest: of_it().max_by_key(|r| r.counter).map(|r| r.version.to_string()),
    })
}

impl Document for [Product] {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["PRODUCT", "ENTRY", "KEYS", "RELEASES", "NEWEST", "KINDS"], paint).right(&[3]);
        for p in self {
            grid.row([
                (&*p.name, Mood::Plain),
                (&p.entry, Mood::Faint),
                (&format!("{} of {}", p.threshold, p.keys.len()), Mood::Plain),
                (&p.releases.to_string(), Mood::Plain),
                (p.newest.as_deref().unwrap_or("-"), Mood::Plain),
                (&p.kinds.join(" "), Mood::Plain),
            ]);
        }
        grid.or("no products")
    }
}

impl Document for Product {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add("product", &self.name)
            .add("entry of targets", &self.entry)
            .add("threshold", format!("{} of {}", self.threshold, self.keys.len()));
        for key in &self.keys {
            facts.add("key", key.to_string());
        }
        facts
            .add("components", self.components.join(" "))
            .add("kinds", self.kinds.join(" "))
            .add("units", self.units.join(" "))
            .add("selector", self.select.as_deref().unwrap_or("none"))
            .add("role", if self.network { "network" } else { "plain" })
            .add("security floor", self.security_floor.to_string())
            .add("lowest counter", self.lowest.to_string())
            .add("releases", self.releases.to_string())
            .add("newest", self.newest.as_deref().unwrap_or("none"));
        facts.text(paint)
    }
}
