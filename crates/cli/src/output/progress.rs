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
    /// When the first number came, and which: what a resumed run did before took no time here.
    first: Option<(Instant, usize)>,
}

impl Progress {
    /// `label` says what is counted; `quiet` prints nothing.
    pub fn new(label: &str, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{prefix} {bar:28} {pos}/{len} {msg}";
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
            first: None,
        }
    }

    /// `done` of `all` are done; `message` holds the current figures. The time that is left is
    /// added from the second number on.
    pub fn set(&mut self, done: usize, all: usize, message: &str) {
        let (start, before) = *self.first.get_or_insert((Instant::now(), done));
        let left = time_left(
            start.elapsed(),
            done.saturating_sub(before),
            all - done.min(all),
        );
        let left = left.map(|left| format!("eta {}", short(left)));
        let parts = [message.to_string(), left.unwrap_or_default()];
        let message = parts.join(" ").trim().to_string();
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(message);
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

/// The time that `rest` things take at the rate of those done in `spent`; none where nothing was
/// done yet, or nothing is left.
fn time_left(spent: Duration, done: usize, rest: usize) -> Option<Duration> {
    (done > 0 && rest > 0).then(|| spent.mul_f64(rest as f64 / done as f64))
}

/// `45s`, `3m 20s`, `2h 05m`.
pub fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_known_once_something_is_done() {
        let spent = Duration::from_secs(30);
        assert_eq!(time_left(spent, 0, 10), None);
        assert_eq!(time_left(spent, 10, 0), None);
        assert_eq!(time_left(spent, 10, 70), Some(Duration::from_secs(210)));
    }

    #[test]
    fn times_are_short() {
        let of = |seconds: u64| short(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(60)], ["0s", "59s", "1m 00s"]);
        assert_eq!(
            [of(200), of(3599), of(7500)],
            ["3m 20s", "59m 59s", "2h 05m"]
        );
    }
}
