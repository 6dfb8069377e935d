//! Which bytes to ask for next, and on how many streams at once.

use ensign_bundle::digest::Digest;
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::Request;

use super::super::fetch;
use super::{ASK_AGAIN, Engine, Event, documents, reference};
use crate::clock;

/// Blobs of one request.
const BATCH_BLOBS: usize = 128;
/// Bytes of one request, more only for a single larger blob: with four streams, a round trip's worth is always asked for.
const BATCH_BYTES: u64 = 2 << 20;

impl Engine {
    /// Opens streams for what is lacking, as many as the configuration allows.
    pub(super) fn fetch(&mut self) {
        while let Some(session) = self.session.as_ref()
            && session.streams < self.config.streams
        {
            let free = self.config.streams - session.streams;
            let Some((request, files)) = self.next_documents().or_else(|| self.next_blobs(free)) else {
                return;
            };
            self.open_stream(request, files);
        }
    }

    fn next_documents(&mut self) -> Option<(Request, Vec<FileRef>)> {
        let wanted = self.wanted.as_ref()?;
        if self.offered.as_ref() == Some(wanted) {
            return None;
        }
        let mut lacking = Vec::new();
        for file in documents(wanted).iter().map(reference) {
            if self.have.contains(&file.digest) || !self.may_ask(&file.digest) || lacking.contains(&file) {
                continue;
            }
            if self.cache.has(&file) {
                self.have.insert(file.digest);
            } else {
                lacking.push(file);
            }
        }
        lacking.truncate(BATCH_BLOBS);
        let digests = lacking.iter().map(|f| f.digest).collect();
        (!lacking.is_empty()).then_some((Request::Documents { digests }, lacking))
    }

    /// The next blobs in the applier's order. Never far ahead of it: what was fetched and not taken is bounded.
    fn next_blobs(&self, free: usize) -> Option<(Request, Vec<FileRef>)> {
        let need = self.need.as_ref()?;
        let waiting: u64 = need
            .blobs
            .iter()
            .filter(|f| self.have.contains(&f.digest) || self.in_flight.contains(&f.digest))
            .map(|f| f.length)
            .sum();
        // What staging leaves over; a batch fits into the room that the applier keeps for it.
        let ahead = self.config.ahead_bytes.min(need.spare.max(BATCH_BYTES));
        let mut budget = ahead.saturating_sub(waiting).min(BATCH_BYTES);
        let lacking: Vec<FileRef> = need
            .blobs
            .iter()
            .filter(|f| !self.have.contains(&f.digest) && self.may_ask(&f.digest))
            .copied()
            .collect();
        let share = lacking.len().div_ceil(free.max(1)).min(BATCH_BLOBS);
        let mut files: Vec<FileRef> = Vec::new();
        for file in lacking.into_iter().take(share) {
            let first = files.is_empty() && waiting == 0;
            if file.length > budget && !first {
                break;
            }
            budget = budget.saturating_sub(file.length);
            files.push(file);
        }
        let request = Request::Blobs {
            manifest: need.manifest,
            digests: files.iter().map(|f| f.digest).collect(),
        };
        (!files.is_empty()).then_some((request, files))
    }

    fn open_stream(&mut self, request: Request, files: Vec<FileRef>) {
        let Some(session) = &mut self.session else { return };
        session.streams += 1;
        self.in_flight.extend(files.iter().map(|f| f.digest));
        let connection = session.up.connection.clone();
        let (cache, events) = (self.cache.clone(), self.events.clone());
        tokio::spawn(async move {
            let mut left: Vec<Digest> = files.iter().map(|f| f.digest).rev().collect();
            let mut received = 0;
            let ended = fetch::fetch(&connection, &request, &files, &cache, &mut received, |outcome| {
                left.pop();
                // Nobody listens only when this process ends.
                let _ = events.send(Event::Fetch(outcome));
            })
            .await;
            let _ = events.send(Event::StreamEnded {
                connection: connection.stable_id(),
                left,
                received,
                error: ended.err(),
            });
        });
    }

    fn may_ask(&self, digest: &Digest) -> bool {
        !self.in_flight.contains(digest) && !self.delayed.contains_key(digest)
    }

    pub(super) fn delay(&mut self, digest: Digest) {
        self.delayed.insert(digest, clock::boot() + ASK_AGAIN);
    }
}
