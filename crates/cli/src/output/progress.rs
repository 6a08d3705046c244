//! One bar on a terminal, one plain line now and then anywhere else. Always on standard error.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress through a known number of things.
pub struct Progress {
    bar: Option<ProgressBar>,
    label: String,
    quiet: bool,
    last_line: Instant,
}

impl Progress {
    /// `label` says what is counted; `quiet` prints nothing.
    pub fn new(label: &str, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{prefix} {bar:28} {pos}/{len} {msg} eta {eta}";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(label.to_string());
            bar
        });
        Self {
            bar,
            label: label.into(),
            quiet,
            last_line: Instant::now(),
        }
    }

    /// `done` of `all` are done; `message` holds the current figures.
    pub fn set(&mut self, done: usize, all: usize, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(message.to_string());
        } else if !self.quiet && (done == all || self.last_line.elapsed() >= PLAIN_LINE_EVERY) {
            self.last_line = Instant::now();
            eprintln!("{} {done}/{all} {message}", self.label);
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
