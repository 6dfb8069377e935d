//! `release publish`: every blob that the controller lacks, then the release document. What was uploaded before an interruption
//! is not sent again.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ensign_api::{BatchHeader, Digests, Missing, Release, Stored};
use ensign_bundle::accept::check_manifest;
use ensign_bundle::container::Bundle;
use ensign_bundle::digest::Digest;
use ensign_bundle::manifest::{Signed, Unsigned};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use tokio::task::JoinSet;

use crate::app::{App, Session};
use crate::client::Client;
use crate::failure::{Result, fail};
use crate::progress::Progress;
use crate::release;
use crate::units;

/// Batches under way at once: one is stored while the next is read and sent.
const UNDER_WAY: usize = 3;

/// A blob that the controller lacks, and where its bytes are.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The manifest or a table: the index among [`Signed::blobs`].
    Blob(usize),
    Block {
        component: usize,
        index: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    digest: Digest,
    length: u64,
    source: Source,
}

pub async fn run(app: &App, path: &Path) -> Result<()> {
    let mut session = app.session()?;
    session.trust.refresh(&session.client).await?;
    let (mut file, bundle) = release::open(path)?;
    let contents = bundle.single().map_err(|e| release::named(path, &e))?.clone();
    let product = session.trust.product(&contents.release.product)?;
    check_manifest(&contents.release, product, &contents.manifest).map_err(|e| release::named(path, &e))?;
    let signed = Unsigned::from(contents)
        .into_signed(&product.role.keys, product.role.threshold, &session.fleet())
        .map_err(|e| {
            let shown = printable(&path.to_string_lossy(), 300);
            let who = if e.code == Code::ThresholdNotMet {
                "another key holder: "
            } else {
                ""
            };
            release::named(path, &e).hint(format!("{who}`ensign release sign {shown}`"))
        })?;
    let missing = missing(&session.client, pieces(&signed)).await?;
    let total = missing.iter().map(|p| p.length).sum();
    if app.shell.dry_run {
        return app.shell.would(format!(
            "upload {} of {}, {}, and publish",
            missing.len(),
            units::show_count(pieces(&signed).len() as u64, "blob"),
            units::show_bytes(total)
        ));
    }
    let progress = Progress::bytes(&app.shell, "uploading", total);
    upload(&session, &mut file, &bundle, &signed, &missing, &progress).await?;
    progress.done();
    let published: Release = session.client.post_bytes("/v1/releases", signed.document()).await?;
    app.shell.detail(&format!(
        "uploaded {}, {}",
        units::show_count(missing.len() as u64, "blob"),
        units::show_bytes(total)
    ));
    session.trust.refresh(&session.client).await?;
    app.shell.print(&published)?;
    app.shell.note(&format!(
        "next: `ensign rollout start --product {} --version {}`",
        published.product, published.version
    ));
    Ok(())
}

/// Every blob of the release, each once. All-zero blocks have no bytes and are no blobs.
fn pieces(signed: &Signed) -> Vec<Piece> {
    let mut seen = BTreeSet::new();
    let blobs = signed.blobs().enumerate().map(|(index, blob)| Piece {
        digest: blob.digest,
        length: blob.bytes.len() as u64,
        source: Source::Blob(index),
    });
    let tables = signed.contents().tables.iter().enumerate();
    let blocks = tables.flat_map(|(component, table)| {
        table.rows().iter().enumerate().map(move |(index, row)| Piece {
            digest: row.stored,
            length: u64::from(row.stored_len),
            source: Source::Block { component, index },
        })
    });
    blobs
        .chain(blocks.filter(|piece| piece.length > 0))
        .filter(|piece| seen.insert(piece.digest))
        .collect()
}

async fn missing(client: &Client, pieces: Vec<Piece>) -> Result<Vec<Piece>> {
    let mut missing = Vec::new();
    for part in pieces.chunks(BatchHeader::DIGESTS_MAX) {
        let asked = Digests {
            digests: part.iter().map(|p| p.digest).collect(),
        };
        let answer: Missing = client.post("/v1/blobs/missing", &asked).await?;
        let lacking: BTreeSet<Digest> = answer.missing.into_iter().collect();
        missing.extend(part.iter().filter(|p| lacking.contains(&p.digest)));
    }
    Ok(missing)
}

async fn upload(
    session: &Session,
    file: &mut File,
    bundle: &Bundle,
    signed: &Signed,
    missing: &[Piece],
    progress: &Progress,
) -> Result<()> {
    let small: Vec<&[u8]> = signed.blobs().map(|blob| blob.bytes).collect();
    let mut under_way = JoinSet::new();
    let mut batch = Vec::new();
    for (piece, left) in missing.iter().zip((0..missing.len()).rev()) {
        let header = BatchHeader {
            digest: piece.digest,
            length: piece.length,
        };
        batch.extend_from_slice(&header.encode());
        match piece.source {
            Source::Blob(index) => batch.extend_from_slice(small.get(index).copied().unwrap_or_default()),
            Source::Block { component, index } => {
                batch.extend_from_slice(&bundle.block(file, 0, component, index)?);
            }
        }
        if batch.len() >= BatchHeader::BATCH_BYTES || left == 0 {
            if under_way.len() >= UNDER_WAY {
                progress.add(finished(&mut under_way).await?);
            }
            under_way.spawn(post(session.client.clone(), std::mem::take(&mut batch)));
            // Lets the batch start before the next one is read.
            tokio::task::yield_now().await;
        }
    }
    while !under_way.is_empty() {
        progress.add(finished(&mut under_way).await?);
    }
    Ok(())
}

async fn finished(under_way: &mut JoinSet<Result<u64>>) -> Result<u64> {
    match under_way.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(e)) => fail!(Failed, "an upload stopped: {e}"),
        None => Ok(0),
    }
}

async fn post(client: Arc<Client>, batch: Vec<u8>) -> Result<u64> {
    let length = batch.len() as u64;
    let _: Stored = client.post_bytes("/v1/blobs", batch).await?;
    Ok(length)
}
