//! The forms that a recipe could take, each with its costs.

use anyhow::Context;
use marill_model::{Architecture, ModelConfig};
use marill_mpc::ProgramSpec;
use marill_plan::{
    Side, Work,
    calibration::CalibrationError,
    choice::{Candidate, Priced},
    curve::{Curve, Quality, Tables},
};
use marill_recipe::Recipe;
use rayon::prelude::*;

use super::Ground;
use crate::commands::train::program::shape_of_recipe;

/// The recipe's tables that decide a form, beside the number of frozen layers.
const TABLES: [&str; 3] = ["lora", "heads", "approx"];

/// How many layers stay as they are, what decides the rest, and what is known of its quality.
type Form = (usize, Tables, Option<Quality>);

/// Forms of one recipe on one model.
pub struct Candidates<'a> {
    recipe: &'a Recipe,
    config: &'a Architecture,
    ground: &'a Ground,
}

impl<'a> Candidates<'a> {
    pub fn new(recipe: &'a Recipe, config: &'a Architecture, ground: &'a Ground) -> Self {
        Self {
            recipe,
            config,
            ground,
        }
    }

    /// What a curve knows something of: its families, from the least to the most frozen layers
    /// that were measured.
    ///
    /// # Errors
    /// Tables that no recipe has, and what counting reports.
    pub fn on_curve(&self, curve: &Curve) -> anyhow::Result<Vec<Candidate>> {
        let mut forms = Vec::new();
        for family in curve.families() {
            for frozen in family.range() {
                let Some(quality) = family.at(frozen) else {
                    continue;
                };
                forms.push((frozen, family.tables().clone(), Some(quality)));
            }
        }
        self.all_priced(forms)
    }

    /// Every number of frozen layers with the recipe's own tables; for the fewest that fit, every
    /// number of layers whose heads stay as they are.
    ///
    /// # Errors
    /// What counting reports.
    pub fn by_cost(&self) -> anyhow::Result<Vec<Candidate>> {
        let own = tables_of(self.recipe)?;
        let changed = self.with_kept(&own, 0);
        let lengths = 0..self.config.num_hidden_layers();
        let forms = lengths.map(|frozen| (frozen, changed.clone(), None));
        let mut found = self.all_priced(forms.collect())?;
        let budget = self.ground.budget;
        let first = marill_plan::choice::choose(&found, budget, None);
        let Some(marill_plan::choice::Outcome::Fits { choice, .. }) = first else {
            return Ok(found);
        };
        let frozen = choice.form.frozen;
        if self.recipe.heads.is_some() {
            let layers = self.config.num_hidden_layers() - frozen;
            let mut forms: Vec<Tables> = (1..layers).map(|n| self.with_kept(&own, n)).collect();
            let mut whole = own.clone();
            whole.remove("heads");
            forms.push(whole);
            let forms = forms.into_iter().map(|tables| (frozen, tables, None));
            found.extend(self.all_priced(forms.collect())?);
        }
        Ok(found)
    }

    /// Those of these forms that leave a layer to change: a family may ask for more whole layers
    /// than many frozen ones leave. Counting a form takes seconds, and none needs another.
    fn all_priced(&self, forms: Vec<Form>) -> anyhow::Result<Vec<Candidate>> {
        let priced = |(frozen, tables, quality): Form| -> anyhow::Result<Option<Candidate>> {
            match self.spec(frozen, &tables)? {
                Some(spec) => self.priced(frozen, &tables, &spec, quality).map(Some),
                None => Ok(None),
            }
        };
        let priced: Vec<_> = forms.into_par_iter().map(priced).collect();
        // The first error in order, whichever came first.
        let priced: anyhow::Result<Vec<_>> = priced.into_iter().collect();
        Ok(priced?.into_iter().flatten().collect())
    }

    /// The tables with so many layers whose heads stay as they are.
    fn with_kept(&self, tables: &Tables, keep: usize) -> Tables {
        let mut tables = tables.clone();
        let heads = tables
            .get_mut("heads")
            .and_then(|heads| heads.as_object_mut());
        if let Some(heads) = heads {
            heads.remove("keep_layers");
            heads.remove("keep");
            if keep > 0 {
                heads.insert("keep".into(), keep.into());
            }
        }
        tables
    }

    /// The program; `None` where it leaves no layer to change.
    fn spec(&self, frozen: usize, tables: &Tables) -> anyhow::Result<Option<ProgramSpec>> {
        let recipe = with(self.recipe, frozen, tables)?;
        let layers = self.config.num_hidden_layers().saturating_sub(frozen);
        let heads = recipe.heads.as_ref();
        if layers == 0 || heads.is_some_and(|heads| heads.keep >= layers) {
            return Ok(None);
        }
        Ok(Some(shape_of_recipe(&recipe, self.config)?))
    }

    fn priced(
        &self,
        frozen: usize,
        tables: &Tables,
        spec: &ProgramSpec,
        quality: Option<Quality>,
    ) -> anyhow::Result<Candidate> {
        let public = frozen * weights(self.config);
        let settings = self
            .ground
            .sides
            .iter()
            .map(|&side| self.price(side, spec, public));
        Ok(Candidate {
            frozen,
            tables: tables.clone(),
            rank: (!spec.is_full_rank()).then_some(spec.lora_rank),
            softmaxes: spec.head_groups.iter().map(Vec::len).collect(),
            quality,
            settings: settings.collect::<anyhow::Result<_>>()?,
        })
    }

    fn price(&self, side: Side, spec: &ProgramSpec, public: usize) -> anyhow::Result<Priced> {
        let cached = self.ground.cached;
        let amounts = Work::of(spec, side, cached, 1)
            .with_context(|| format!("a token at {} keys", cached + 1))?;
        let calibration = self.ground.calibration.as_ref();
        let network = self.ground.network.as_ref();
        let time = match calibration.map(|found| found.time(side, network, &amounts, public)) {
            // Older calibrations know nothing of two parties.
            Some(Err(CalibrationError::Missing(side))) if side == Side::ALONE => None,
            time => time.transpose()?,
        };
        Ok(Priced {
            side,
            cost: amounts.1,
            time,
        })
    }
}

/// Weights of the maps of one layer.
pub fn weights(config: &dyn ModelConfig) -> usize {
    let shapes = config
        .modules()
        .iter()
        .filter_map(|m| config.module_shape(m));
    shapes.map(|[rows, cols]| rows * cols).sum()
}

/// The tables of a recipe that decide its form.
///
/// # Errors
/// None that a recipe has is refused.
pub fn tables_of(recipe: &Recipe) -> anyhow::Result<Tables> {
    let mut all = serde_json::to_value(recipe)?;
    let all = all.as_object_mut().context("a recipe is a table")?;
    let of = |name: &&str| Some(((*name).to_owned(), all.remove(*name)?));
    Ok(TABLES.iter().filter_map(of).collect())
}

/// The recipe in another form.
fn with(recipe: &Recipe, frozen: usize, tables: &Tables) -> anyhow::Result<Recipe> {
    let mut all = serde_json::to_value(recipe)?;
    let all_tables = all.as_object_mut().context("a recipe is a table")?;
    for name in TABLES {
        all_tables.remove(name);
    }
    for (name, table) in tables {
        all_tables.insert(name.clone(), table.clone());
    }
    let mut changed: Recipe = serde_json::from_value(all).context("a curve's tables")?;
    changed.freeze.layers = frozen;
    // Without a frozen layer and updates of low rank the embedding would be trained too, and could
    // not stay public.
    changed.freeze.embedding = frozen == 0 && changed.lora.is_none();
    Ok(changed)
}

/// The recipe of a choice; where its quality is known, with the rate that it was measured at and
/// without distillation, as it was measured.
///
/// # Errors
/// Tables that no recipe has, or that do not go together.
pub fn planned(recipe: &Recipe, form: &Candidate) -> anyhow::Result<Recipe> {
    let mut planned = with(recipe, form.frozen, &form.tables)?;
    if let Some(quality) = &form.quality {
        planned.optimizer.learning_rate = quality.learning_rate;
        planned.distill = None;
    }
    // What reads it will check it; so does this.
    let text = planned.to_toml();
    Ok(Recipe::parse(&text, "the planned recipe", &[])?)
}
