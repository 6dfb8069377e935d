//! Progress bars: only for someone who watches.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Shell;

/// How a bar looks.
const BAR: &str =
    "{msg:>11} {bar:20} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

/// Bytes of a known whole.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// `total` in bytes.
    pub fn bytes(shell: &Shell, what: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), target(shell)).with_message(what);
        bar.set_style(style());
        Self(bar)
    }

    pub fn add(&self, n: u64) {
        self.0.inc(n);
    }

    pub fn set(&self, n: u64) {
        self.0.set_position(n);
    }

    /// Removes the bar: what was done is told in words.
    pub fn done(self) {
        self.0.finish_and_clear();
    }
}

fn target(shell: &Shell) -> ProgressDrawTarget {
    if shell.is_watched() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style() -> ProgressStyle {
    // The template is valid (see the test); the plain bar is as good.
    ProgressStyle::with_template(BAR)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▉▊▋▌▍▎▏░")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
