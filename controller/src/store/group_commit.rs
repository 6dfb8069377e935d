//! One sync for all commits that wait: the first that waits syncs, whoever comes meanwhile waits for the next sync.
//!
//! No thread of its own: a lone commit pays for its sync alone, without a hand-over, and nothing is to be stopped at the end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ensign_bundle::text::chain;

use super::ledger::LedgerError;
use super::room;

/// Numbered commits, applied in order, on their way to the disk.
#[derive(Debug)]
pub(super) struct GroupCommit {
    progress: Mutex<Progress>,
    synced: Condvar,
}

#[derive(Debug)]
struct Progress {
    /// Number of the newest commit that was applied.
    applied: u64,
    /// Number of the newest commit that a finished sync covers.
    durable: u64,
    syncing: bool,
    /// Set once and for ever: after a failed sync the kernel may have dropped what it could not write, so that the next sync
    /// succeeds without it. Only a restart, which reads the disk again, tells what is there.
    failed: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    why: String,
    /// There was no room for it.
    full: bool,
}

impl GroupCommit {
    /// `durable`: number of the newest commit on disk.
    pub(super) fn new(durable: u64) -> Self {
        Self {
            progress: Mutex::new(Progress {
                applied: durable,
                durable,
                syncing: false,
                failed: None,
            }),
            synced: Condvar::new(),
        }
    }

    /// Commit `number` and all before it are applied: the next sync covers them.
    pub(super) fn applied(&self, number: u64) {
        let mut progress = self.progress();
        progress.applied = progress.applied.max(number);
    }

    /// Ends all commits: the state in memory may have left the state on disk.
    pub(super) fn stop(&self, why: String, full: bool) {
        self.progress().failed.get_or_insert(Failure { why, full });
        self.synced.notify_all();
    }

    pub(super) fn check_running(&self) -> Result<(), LedgerError> {
        self.progress().check_running()
    }

    /// Returns when commit `number` is on disk. `sync` is handed the number of the newest commit that it covers.
    pub(super) fn wait_for<E: std::error::Error + 'static>(
        &self,
        number: u64,
        sync: impl Fn(u64) -> Result<(), E>,
    ) -> Result<(), LedgerError> {
        let mut progress = self.progress();
        while progress.durable < number {
            progress.check_running()?;
            if progress.syncing {
                progress = self.synced.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            progress.syncing = true;
            let covered = progress.applied;
            drop(progress);
            let result = catch_unwind(AssertUnwindSafe(|| sync(covered)));
            progress = self.progress();
            progress.syncing = false;
            match result {
                Ok(Ok(())) => progress.durable = progress.durable.max(covered),
                Ok(Err(error)) => progress.failed = Some(Failure::of(&error)),
                Err(_) => {
                    let why = "the sync panicked".to_owned();
                    progress.failed = Some(Failure { why, full: false });
                }
            }
            self.synced.notify_all();
        }
        Ok(())
    }

    /// The numbers are whole after every statement, so a panic elsewhere leaves them fit for use.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn check_running(&self) -> Result<(), LedgerError> {
        match &self.failed {
            None => Ok(()),
            Some(Failure { why, full }) => Err(LedgerError::Stopped {
                why: why.clone(),
                full: *full,
            }),
        }
    }
}

impl Failure {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = std::iter::successors(Some(error), |cause| cause.source());
        let full = causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(room::is_full));
        Self {
            why: chain(error),
            full,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn those_who_wait_share_one_sync() {
        const WAITING: u64 = 8;
        let group = GroupCommit::new(0);
        let (syncs, in_sync, leave) = (AtomicU64::new(0), Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            group.applied(1);
            scope.spawn(|| {
                group.wait_for(1, |covered| {
                    assert_eq!(covered, 1);
                    in_sync.wait();
                    leave.wait();
                    Ok::<_, io::Error>(())
                })
            });
            in_sync.wait();
            // The first sync is under way: it does not cover what is applied now.
            for number in 2..=1 + WAITING {
                group.applied(number);
            }
            for number in 2..=1 + WAITING {
                let (group, syncs) = (&group, &syncs);
                scope.spawn(move || {
                    group
                        .wait_for(number, |covered| {
                            assert_eq!(covered, 1 + WAITING);
                            syncs.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, io::Error>(())
                        })
                        .unwrap();
                });
            }
            leave.wait();
        });
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_sync_ends_all_commits_and_is_not_tried_again() {
        for panics in [false, true] {
            let group = GroupCommit::new(5);
            group.applied(6);
            let fail = |_| {
                assert!(!panics, "disk driver");
                Err(io::Error::other("disk"))
            };
            assert!(matches!(group.wait_for(6, fail), Err(LedgerError::Stopped { .. })));
            let succeed = |_| -> io::Result<()> { unreachable!("never called") };
            assert!(matches!(group.wait_for(6, succeed), Err(LedgerError::Stopped { .. })));
            assert!(group.check_running().is_err());
            group.wait_for(5, succeed).unwrap();
        }
    }
}
