//! How many signatures were checked: for tests of what trust costs. Nothing that ships has the feature.

use std::cell::Cell;

thread_local! {
    static CHECKED: Cell<u64> = const { Cell::new(0) };
}

pub(crate) fn note() {
    CHECKED.set(CHECKED.get().saturating_add(1));
}

/// What `work` returns, and how many times [`crate::verify`] was called for it on this thread.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = CHECKED.get();
    let done = work();
    (done, CHECKED.get().saturating_sub(before))
}
