//! What a run writes while it goes on: `metrics.jsonl` and event files, a step at a time.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{Progress, TrainError, events::Events};

/// The files of a run that grow with it.
pub(crate) struct Record {
    metrics: File,
    metrics_path: PathBuf,
    events: Option<(Events, PathBuf)>,
}

impl Record {
    /// Begins with the steps that are done: what an earlier call wrote of later ones is gone.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn begin(dir: &Path, history: &[Progress], tensorboard: bool) -> Result<Self, TrainError> {
        let path = dir.join("metrics.jsonl");
        let partial = path.with_extension("jsonl.partial");
        let write = || {
            let lines: String = history.iter().map(line).collect();
            std::fs::write(&partial, lines)?;
            std::fs::rename(&partial, &path)?;
            File::options().append(true).open(&path)
        };
        let metrics = write().map_err(|source| {
            let _ = std::fs::remove_file(&partial);
            TrainError::io(&path)(source)
        })?;
        let step = history.last().map_or(0, |at| at.step);
        let folder = dir.join("tensorboard");
        if !tensorboard && step == 0 {
            // Those of an earlier run would be taken for this one's.
            Events::clear(&folder).map_err(TrainError::io(&folder))?;
        }
        let events = tensorboard
            .then(|| Events::create(&folder, step).map_err(TrainError::io(&folder)))
            .transpose()?;
        Ok(Self {
            metrics,
            metrics_path: path,
            events: events.map(|events| (events, folder)),
        })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn add(&mut self, at: &Progress) -> Result<(), TrainError> {
        self.metrics
            .write_all(line(at).as_bytes())
            .map_err(TrainError::io(&self.metrics_path))?;
        match &mut self.events {
            Some((events, folder)) => events.add(at).map_err(TrainError::io(&*folder)),
            None => Ok(()),
        }
    }
}

fn line(at: &Progress) -> String {
    serde_json::to_string(at).expect("plain figures serialize") + "\n"
}
