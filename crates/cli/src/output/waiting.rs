//! What is waited for now, and for how long already: on a terminal, on standard error.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TURN: Duration = Duration::from_millis(100);

/// One line that is there while something is waited for; nothing where no one looks.
pub struct Waiting {
    seen: bool,
    line: Option<ProgressBar>,
}

impl Waiting {
    /// `quiet` shows nothing.
    pub fn new(quiet: bool) -> Self {
        Self {
            seen: !quiet && std::io::stderr().is_terminal(),
            line: None,
        }
    }

    /// Says what is waited for from now on.
    pub fn show(&mut self, what: &str) {
        self.hide();
        if !self.seen {
            return;
        }
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        line.set_style(
            ProgressStyle::with_template("{spinner} {msg}, {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        line.set_message(what.to_string());
        line.enable_steady_tick(TURN);
        self.line = Some(line);
    }

    /// Takes the line away.
    pub fn hide(&mut self) {
        if let Some(line) = self.line.take() {
            line.finish_and_clear();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hide();
    }
}
