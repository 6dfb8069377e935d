//! From a list of files to frozen bytes: the first half of the publish path.
//!
//! ```text
//! files hashed (caller, in parallel) → TreeDraft::new → blocks read and stored (caller, in parallel, in plan order)
//!     → TreeDraft::finish → Draft::add → Draft::freeze → Unsigned
//! ```
//!
//! Two passes over the files: digests first, because the same content is stored once; then each block's bytes. The caller keeps
//! finished blocks where it likes (a spool file), so memory holds a few blocks and never a file. What changes between the two
//! passes is found by [`Bundle::check_content`](crate::container::Bundle::check_content) over the written file.

use serde_bytes::ByteBuf;

use crate::blocks::{BlockPlan, BlockRow, BlockTable, layout};
use crate::codec::{self, Ext};
use crate::container::Contents;
use crate::digest::Digest;
use crate::ids::{Ident, Version};
use crate::manifest::{
    Component, Entry, Handler, Health, Kind, Manifest, Provenance, RELEASE_LIFE_S, Restart, Totals, TreeCheck, Unsigned,
};
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement;
use crate::trust::roles::{Compatible, FORMAT, FileRef, Release};

/// A release that is being put together. Public fields are set by the caller; trees come in finished.
#[derive(Clone, Debug)]
pub struct Draft {
    pub product: Ident,
    pub version: Version,
    pub release_counter: u64,
    /// Default 0.
    pub security_floor: u64,
    pub compatible: Compatible,
    pub health: Health,
    pub restart: Option<Restart>,
    /// Default 0.
    pub data_epoch: u64,
    pub provenance: Provenance,
    trees: Vec<Tree>,
}

/// A component before its blocks are made: entries sorted and checked, blocks planned.
#[derive(Clone, Debug)]
pub struct TreeDraft {
    name: Ident,
    kind: Kind,
    /// Required for kind `handler`, refused for others.
    pub handler: Option<Handler>,
    /// In the order in which they are restarted.
    pub units: Vec<String>,
    entries: Vec<Entry>,
    plans: Vec<BlockPlan>,
    totals: Totals,
}

/// A finished component with its block table.
#[derive(Clone, Debug)]
pub struct Tree {
    component: Component,
    table: Vec<u8>,
    totals: Totals,
}

impl TreeDraft {
    /// Takes the entries in any order. Every directory must be among them; the component's own top is not.
    pub fn new(name: Ident, kind: Kind, mut entries: Vec<Entry>) -> Result<Self, Refusal> {
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        let mut check = TreeCheck::default();
        for entry in &entries {
            entry.check()?;
            check.push(entry)?;
        }
        Ok(Self {
            name,
            kind,
            handler: None,
            units: Vec::new(),
            plans: layout(&entries)?,
            totals: check.totals(),
            entries,
        })
    }

    /// Of the component.
    pub fn name(&self) -> &Ident {
        &self.name
    }

    /// Sorted by path. A [`Piece`](crate::blocks::Piece) counts in this list.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The blocks to make, in the order in which their stored bytes follow each other.
    pub fn plans(&self) -> &[BlockPlan] {
        &self.plans
    }

    /// Paths that differ in case only: worth a warning, since a device may hold them on a file system that ignores it.
    pub fn case_clashes(&self) -> Vec<(&Entry, &Entry)> {
        let mut seen = std::collections::BTreeMap::new();
        let clash = |entry| seen.insert(lower(entry), entry).map(|first| (first, entry));
        self.entries.iter().filter_map(clash).collect()
    }

    /// The component, once every block is made. `rows` in the order of [`Self::plans`].
    pub fn finish(self, rows: &[BlockRow]) -> Result<Tree, Refusal> {
        let planned = self.plans.iter().map(|plan| (&plan.pieces, plan.length));
        if !planned.eq(rows.iter().map(|row| (&row.pieces, row.plain_len))) {
            return refuse!(Malformed, "the blocks of {} are not the planned ones", self.name);
        }
        let mut entries = Vec::new();
        for entry in &self.entries {
            codec::append(&mut entries, entry).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
        }
        let table = BlockTable::encode(rows)?;
        Ok(Tree {
            component: Component {
                name: self.name,
                kind: self.kind,
                handler: self.handler,
                units: self.units,
                entries: ByteBuf::from(entries),
                blocks: file_ref(&table),
            },
            table,
            totals: self.totals,
        })
    }
}

impl Draft {
    /// A release without components.
    pub fn new(product: Ident, version: Version, release_counter: u64) -> Self {
        Self {
            product,
            version,
            release_counter,
            security_floor: 0,
            compatible: Compatible::default(),
            health: Health::default(),
            restart: None,
            data_epoch: 0,
            provenance: Provenance::default(),
            trees: Vec::new(),
        }
    }

    /// The next component, in the order in which units are restarted.
    pub fn add(&mut self, tree: Tree) {
        self.trees.push(tree);
    }

    /// Freezes the bytes. The release document has version 1 and no date yet: the first signature sets it
    /// ([`Unsigned::sign`]), so the same input makes the same bytes whenever it is built.
    pub fn freeze(self) -> Result<Unsigned, Refusal> {
        let mut totals = Totals::default();
        for tree in &self.trees {
            totals = totals.plus(tree.totals)?;
        }
        let (components, tables): (Vec<_>, Vec<_>) =
            self.trees.into_iter().map(|tree| (tree.component, tree.table)).unzip();
        let manifest = Manifest {
            format: FORMAT,
            product: self.product,
            version: self.version,
            release_counter: self.release_counter,
            security_floor: self.security_floor,
            compatible: self.compatible,
            components,
            totals,
            health: self.health,
            restart: self.restart,
            data_epoch: self.data_epoch,
            provenance: self.provenance,
            ext: Ext::default(),
        };
        manifest.check()?;
        let bytes = codec::encode(&manifest).map_err(|e| Refusal::new(Code::Malformed, format!("manifest: {e}")))?;
        let release = Release {
            format: FORMAT,
            version: 1,
            issued: 0,
            expires: RELEASE_LIFE_S,
            product: manifest.product,
            release: manifest.version,
            counter: manifest.release_counter,
            security_floor: manifest.security_floor,
            manifest: file_ref(&bytes),
            compatible: manifest.compatible,
            yanked: None,
            patch_index: None,
            ext: Ext::default(),
        };
        let envelope = statement::seal(&release)?;
        // Read back as everyone else reads it: what this program cannot accept is not written.
        Contents::parse(&envelope.encode(), bytes, &tables).map(Unsigned::from)
    }
}

fn file_ref(bytes: &[u8]) -> FileRef {
    FileRef {
        digest: Digest::of(bytes),
        length: bytes.len() as u64,
    }
}

fn lower(entry: &Entry) -> String {
    entry.path().as_str().to_lowercase()
}
