//! Where the models are that a recipe names: paths first, then the hub.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use marill_hub::{Fetching, HubError, Options, RepoName, resolve};
use marill_recipe::{FINE_TUNED, Recipe, locate};

use crate::output::{failure::BadInput, progress::Progress};

/// How to look for models.
#[derive(clap::Args, Clone, Copy, Default)]
pub struct Search {
    /// Use what is on this machine; ask no hub (also `HF_HUB_OFFLINE=1`)
    #[arg(long, env = "MARILL_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
}

/// A model on this machine, and its commit where it came from the hub.
pub struct Found {
    pub path: PathBuf,
    pub commit: Option<String>,
}

impl Search {
    /// `None` for a name that is neither an existing path nor one that the hub could have.
    ///
    /// # Errors
    /// [`BadInput`] when the hub cannot give it, or a revision is asked of a path.
    fn find(
        self,
        name: &str,
        revision: Option<&str>,
        dir: &Path,
        quiet: bool,
    ) -> anyhow::Result<Option<Found>> {
        if let Ok(path) = locate(name, dir) {
            if let Some(revision) = revision {
                let path = path.display();
                let error = anyhow::anyhow!(
                    "`model.revision` = `{revision}` belongs to a model of the hub, `{path}` is on \
                     this machine\n\
                     hint: drop `revision`"
                );
                return Err(BadInput(error).into());
            }
            return Ok(Some(Found { path, commit: None }));
        }
        let Some(repo) = RepoName::parse(name) else {
            return Ok(None);
        };
        match resolve(
            &repo,
            revision,
            &Options::from_env(self.offline),
            bars(quiet),
        ) {
            Ok(snapshot) => Ok(Some(Found {
                path: snapshot.path,
                commit: Some(snapshot.commit),
            })),
            Err(error) => Err(refusal(error, name)),
        }
    }

    /// Finds base and teacher and writes their commits into the recipe.
    ///
    /// # Errors
    /// As [`Search::base`].
    pub fn pin(
        self,
        recipe: &mut Recipe,
        dir: &Path,
        quiet: bool,
    ) -> anyhow::Result<(Option<PathBuf>, Option<PathBuf>)> {
        let mut base = None;
        if let Some(name) = recipe.model.base_model.clone() {
            let found = self.find(&name, recipe.model.revision.as_deref(), dir, quiet)?;
            if let Some(commit) = found.as_ref().and_then(|found| found.commit.clone()) {
                recipe.model.revision = Some(commit);
            }
            base = found.map(|found| found.path);
        }
        let mut teacher = None;
        if let Some(distill) = recipe
            .distill
            .as_mut()
            .filter(|distill| !["base", FINE_TUNED].contains(&distill.teacher.as_str()))
        {
            let found = self.find(&distill.teacher, distill.revision.as_deref(), dir, quiet)?;
            if let Some(commit) = found.as_ref().and_then(|found| found.commit.clone()) {
                distill.revision = Some(commit);
            }
            teacher = found.map(|found| found.path);
        }
        Ok((base, teacher))
    }

    /// The model that a command names: a path, or else a name on the hub (its default branch).
    ///
    /// # Errors
    /// [`BadInput`] when the hub cannot give it.
    pub fn named(self, name: &Path, quiet: bool) -> anyhow::Result<PathBuf> {
        let text = name.to_str().filter(|_| !name.exists());
        let found = text
            .map(|text| self.find(text, None, Path::new(""), quiet))
            .transpose()?
            .flatten();
        Ok(found.map_or_else(|| name.to_path_buf(), |found| found.path))
    }

    /// The base model that a recipe names.
    ///
    /// # Errors
    /// [`BadInput`] when the recipe names none or it is nowhere to be found.
    pub fn base(self, recipe: &Recipe, dir: &Path) -> anyhow::Result<PathBuf> {
        let name = recipe
            .model
            .base_model
            .as_deref()
            .context("the recipe names no `model.base_model`");
        let name = name.map_err(BadInput)?;
        match self.find(name, recipe.model.revision.as_deref(), dir, true)? {
            Some(found) => Ok(found.path),
            None => locate(name, dir).map_err(|error| BadInput(error.into()).into()),
        }
    }
}

/// One bar a file.
fn bars(quiet: bool) -> Fetching {
    let shown: Mutex<Option<(String, Progress)>> = Mutex::new(None);
    Arc::new(move |file, done, all| {
        let Ok(mut shown) = shown.lock() else { return };
        if shown.as_ref().is_none_or(|(name, _)| name != file) {
            *shown = Some((file.to_owned(), Progress::new(file, quiet)));
        }
        if let Some((_, progress)) = shown.as_mut() {
            progress.set(done as usize, all as usize, "bytes");
        }
        if done == all
            && let Some((_, progress)) = shown.take()
        {
            progress.finish();
        }
    })
}

/// What a manifest calls the base: `org/name@commit` for a model of the hub, otherwise nothing of
/// its own.
pub fn hub_name(recipe: &Recipe) -> String {
    match (&recipe.model.base_model, &recipe.model.revision) {
        (Some(name), Some(revision)) => format!("{name}@{revision}"),
        _ => String::new(),
    }
}

fn refusal(error: HubError, name: &str) -> anyhow::Error {
    let error = anyhow::Error::new(error).context(format!(
        "`{name}` is no path on this machine, so the hub was meant"
    ));
    BadInput(error).into()
}
