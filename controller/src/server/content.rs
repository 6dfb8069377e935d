//! Which blobs belong to which release: a device gets blocks of what its plan names or what it runs, and of nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ensign_bundle::blocks::{BlockKind, BlockTable};
use ensign_bundle::digest::Digest;
use ensign_bundle::limits;
use ensign_bundle::manifest::Manifest;
use ensign_bundle::reason::{Code, Refusal};

use crate::core::Parts;
use crate::store::blobs::BlobStore;

/// The blobs of one release: sorted digests, so 32 bytes each.
#[derive(Debug)]
pub struct ReleaseBlobs {
    all: Vec<Digest>,
    /// The manifest and the tables of blocks: what describes the content and is none.
    describing: Vec<Digest>,
}

impl ReleaseBlobs {
    pub fn contains(&self, digest: &Digest) -> bool {
        self.all.binary_search(digest).is_ok()
    }

    /// Counts for the bytes of a rollout.
    pub fn is_block(&self, digest: &Digest) -> bool {
        self.contains(digest) && !self.describing.contains(digest)
    }
}

/// Lists of releases, read when a device first asks and kept as long as a session needs them.
#[derive(Debug)]
pub struct Contents {
    parts: Arc<Parts>,
    lists: Mutex<HashMap<Digest, Weak<ReleaseBlobs>>>,
}

impl Contents {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self {
            parts,
            lists: Mutex::new(HashMap::new()),
        }
    }

    /// The blobs of the release with this manifest.
    pub async fn of(self: Arc<Self>, manifest: Digest) -> Result<Arc<ReleaseBlobs>, Refusal> {
        if let Some(list) = self.known(&manifest) {
            return Ok(list);
        }
        let read = move || {
            let list = Arc::new(read(self.parts.blobs.as_ref(), manifest)?);
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            lists.retain(|_, list| list.strong_count() > 0);
            lists.insert(manifest, Arc::downgrade(&list));
            Ok(list)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(list) => list,
            Err(error) => Err(Refusal::new(Code::Failed, error.to_string())),
        }
    }

    fn known(&self, manifest: &Digest) -> Option<Arc<ReleaseBlobs>> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.get(manifest).and_then(Weak::upgrade)
    }
}

fn read(blobs: &dyn BlobStore, manifest: Digest) -> Result<ReleaseBlobs, Refusal> {
    let stored = |digest: Digest, most: usize| {
        blobs
            .read(digest, most as u64)?
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("blob {digest} is not stored")))
    };
    let parsed = Manifest::parse(&stored(manifest, limits::MANIFEST_BYTES)?)?;
    let mut describing = vec![manifest];
    let mut digests = Vec::new();
    for component in &parsed.components {
        let table = stored(component.blocks.digest, limits::BLOCK_TABLE_BYTES)?;
        describing.push(component.blocks.digest);
        // The release was checked whole when it was published.
        let rows = BlockTable::rows_of(&table).filter(|row| row.kind != BlockKind::Zero);
        digests.extend(rows.map(|row| row.stored));
    }
    digests.extend(&describing);
    digests.sort_unstable();
    digests.dedup();
    digests.shrink_to_fit();
    Ok(ReleaseBlobs {
        all: digests,
        describing,
    })
}
