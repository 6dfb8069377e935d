//! What lies where under `--data`.

use std::path::{Path, PathBuf};

/// Private keys that the kit brings, by file name.
pub const KEYS: [&str; 4] = ["timestamp.pem", "snapshot.pem", "controller.pem", "https.pem"];

/// The folder of one controller.
#[derive(Clone, Debug)]
pub struct Paths(PathBuf);

impl Paths {
    pub fn new(data: &Path) -> Self {
        Self(data.to_owned())
    }

    pub fn data(&self) -> &Path {
        &self.0
    }

    /// Rows: sled.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// Manifests, block tables, blocks.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Signed documents.
    pub fn metadata(&self) -> PathBuf {
        self.0.join("metadata")
    }

    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// One of [`KEYS`].
    pub fn key(&self, name: &str) -> PathBuf {
        self.keys().join(name)
    }

    pub fn https_certificate(&self) -> PathBuf {
        self.keys().join("https.crt")
    }
}
