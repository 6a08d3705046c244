//! What an export is doing, on standard error.

use std::cell::RefCell;

use marill_partition::ExportStage;

use crate::output::{progress::Progress, waiting::Waiting};

/// The line of an export that goes on.
pub struct Exporting {
    quiet: bool,
    shown: RefCell<Shown>,
}

/// At most one line at a time.
#[derive(Default)]
struct Shown {
    waiting: Option<Waiting>,
    ranges: Option<Progress>,
}

impl Shown {
    fn hide(&mut self) {
        self.waiting = None;
        if let Some(ranges) = self.ranges.take() {
            ranges.finish();
        }
    }
}

impl Exporting {
    /// `quiet` shows nothing.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            shown: RefCell::default(),
        }
    }

    /// Shows the stage that begins or goes on.
    pub fn show(&self, stage: ExportStage) {
        match stage {
            ExportStage::Weights => self.wait("turning weights into integers"),
            ExportStage::Ranges { done, all } => {
                let mut shown = self.shown.borrow_mut();
                shown.waiting = None;
                let quiet = self.quiet;
                let bar = shown
                    .ranges
                    .get_or_insert_with(|| Progress::new("proving ranges", quiet));
                // The last one ends the line instead of printing another.
                if done < all {
                    bar.set(done, all, "");
                }
            }
            ExportStage::Writing => self.wait("writing the partition"),
            ExportStage::Checking => self.wait("checking what was written"),
        }
    }

    /// Shows something else that takes a while.
    pub fn wait(&self, what: &str) {
        let mut shown = self.shown.borrow_mut();
        shown.hide();
        let mut waiting = Waiting::new(self.quiet);
        waiting.show(what);
        shown.waiting = Some(waiting);
    }

    /// Takes the line away.
    pub fn hide(&self) {
        self.shown.borrow_mut().hide();
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        self.hide();
    }
}
