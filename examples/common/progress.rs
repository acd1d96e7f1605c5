//! The progress bar of long runs, on a terminal's stderr.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over so many units of work.
pub(crate) fn bar(work: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {percent:>3}% {elapsed}").expect("the template is sound");
    ProgressBar::new(work).with_style(style)
}
