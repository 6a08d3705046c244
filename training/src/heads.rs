//! What becomes of the query heads of each private layer: groups that share a softmax, heads that
//! are left out, layers that stay as they are, and what that was measured to cost.

use std::collections::{BTreeMap, BTreeSet};

use marill_model::{
    Checkpoint, HeadMethod, HeadTransform, Llama, LlamaConfig, ModelConfig, Rows, Transforms,
    adjacent_groups, all_groupings, all_prunings, strided_groups,
};
use marill_recipe::{Grouping, Heads, Method, Recipe};
use rayon::prelude::*;

use crate::{HeadError, Rng, Sample, TrainError, calibration::Block};

/// Most tokens of all calibration rows together, and of one: attention takes the square of it.
const TOKENS: usize = 4096;
const ROW_TOKENS: usize = 256;
/// Most groups whose changes are compared. For each, the change of a row is held, twice: at 4,096
/// columns 2.4 GiB in all.
const MOST_GROUPS: usize = 300;

/// The groups of a recipe, and what was measured of them, where anything was.
pub(crate) type Chosen = (Option<HeadTransform>, Vec<HeadError>);

/// One layer's choice.
struct Choice {
    groups: Vec<Vec<usize>>,
    scales: Vec<f64>,
    error: f64,
}

/// Decides about the heads of every private layer.
///
/// # Errors
/// [`TrainError::Setting`] naming the key for groups that do not fit the model.
pub(crate) fn choose(
    recipe: &Recipe,
    base: &Checkpoint,
    samples: &[Sample],
) -> Result<Chosen, TrainError> {
    let Some(heads) = recipe.heads.as_ref().filter(|heads| heads.merge > 1) else {
        return Ok((None, Vec::new()));
    };
    let config = base.config.llama()?;
    let layers = recipe.freeze.layers..config.num_hidden_layers;
    let candidates = Candidates::of(heads, config)?;
    check_kept(heads, &layers)?;
    if !heads.is_measured() {
        return Ok((any(recipe, config)?, Vec::new()));
    }
    let choices = measured(recipe, base, samples, heads, &candidates)?;
    let kept = kept(heads, &layers, &choices);
    let errors = layers
        .clone()
        .zip(&choices)
        .map(|(layer, choice)| HeadError {
            layer,
            error: choice.error,
            kept: kept.contains(&layer),
        });
    let errors = errors.collect();
    Ok((
        Some(settled(heads, config, &layers, choices, &kept)),
        errors,
    ))
}

/// As [`choose`] without a row of data: what a recipe measures is taken as it comes. Each layer has
/// as many softmaxes as it will have, but for which layers stay whole.
///
/// # Errors
/// As [`choose`].
pub(crate) fn any(
    recipe: &Recipe,
    config: &LlamaConfig,
) -> Result<Option<HeadTransform>, TrainError> {
    let Some(heads) = recipe.heads.as_ref().filter(|heads| heads.merge > 1) else {
        return Ok(None);
    };
    let layers = recipe.freeze.layers..config.num_hidden_layers;
    let candidates = Candidates::of(heads, config)?;
    check_kept(heads, &layers)?;
    let choice = || Choice {
        groups: candidates.only(),
        scales: vec![scale(heads, config); config.num_attention_heads],
        error: 0.0,
    };
    let choices: Vec<Choice> = layers.clone().map(|_| choice()).collect();
    let kept = kept(heads, &layers, &choices);
    Ok(Some(settled(heads, config, &layers, choices, &kept)))
}

/// Checks that a run of so many steps trains the model that it exports.
///
/// # Errors
/// [`TrainError::Setting`] where heads would have scores of their own to the end.
pub(crate) fn check_progress(recipe: &Recipe, steps: usize) -> Result<(), TrainError> {
    let share = recipe.heads.as_ref().map_or(0.0, |heads| heads.progressive);
    if share > 0.0 && share * steps as f64 > steps.saturating_sub(1) as f64 {
        return Err(TrainError::Setting {
            key: "heads.progressive",
            reason: format!("{share} of {steps} steps leaves none in which heads are merged"),
        });
    }
    Ok(())
}

/// The factor of the scores of a group, or of a head that is left.
fn scale(heads: &Heads, config: &LlamaConfig) -> f64 {
    let members = match heads.method {
        Method::Merge => heads.merge,
        Method::Prune => 1,
    };
    let usual = config.score_factor() / ((members * config.head_dim) as f64).sqrt();
    heads.scale.unwrap_or(usual)
}

fn method(heads: &Heads) -> HeadMethod {
    match heads.method {
        Method::Merge => HeadMethod::Merge,
        Method::Prune => HeadMethod::Prune,
    }
}

/// One scale for all layers.
fn transform(heads: &Heads, config: &LlamaConfig, groups: Vec<Vec<Vec<usize>>>) -> HeadTransform {
    HeadTransform {
        method: method(heads),
        merge: heads.merge,
        grouping: heads.grouping.name().to_owned(),
        groups,
        scale: Some(scale(heads, config)),
        scales: Vec::new(),
        measured: heads.is_measured(),
    }
}

/// The choices with the layers that stay whole; one scale where one will do.
fn settled(
    heads: &Heads,
    config: &LlamaConfig,
    layers: &std::ops::Range<usize>,
    choices: Vec<Choice>,
    kept: &[usize],
) -> HeadTransform {
    let whole: Vec<Vec<usize>> = (0..config.num_attention_heads).map(|h| vec![h]).collect();
    let own = config.score_scale();
    let mut groups = Vec::with_capacity(choices.len());
    let mut scales = Vec::with_capacity(choices.len());
    for (layer, choice) in layers.clone().zip(choices) {
        let is_kept = kept.contains(&layer);
        groups.push(if is_kept {
            whole.clone()
        } else {
            choice.groups
        });
        scales.push(match is_kept {
            true => vec![own; config.num_attention_heads],
            false => choice.scales,
        });
    }
    let one = transform(heads, config, groups);
    let used = one.groups.iter().zip(&scales);
    let used = used.flat_map(|(groups, scales)| groups.iter().flatten().map(|&h| scales[h]));
    if used.into_iter().all(|s| Some(s) == one.scale) {
        return one;
    }
    HeadTransform {
        scale: None,
        scales,
        ..one
    }
}

/// Layers that stay whole: those that are named, or those that lose most.
fn kept(heads: &Heads, layers: &std::ops::Range<usize>, choices: &[Choice]) -> Vec<usize> {
    if !heads.keep_layers.is_empty() {
        return heads.keep_layers.clone();
    }
    // Every layer saves the same of a decoded token by being merged, so that the error decides. (Of
    // a prompt the last layer saves less: there one row asks.)
    let mut order: Vec<(usize, f64)> = layers
        .clone()
        .zip(choices.iter().map(|c| c.error))
        .collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let most = order.into_iter().take(heads.keep);
    most.map(|(layer, _)| layer).collect()
}

fn check_kept(heads: &Heads, layers: &std::ops::Range<usize>) -> Result<(), TrainError> {
    let fail = |key, reason| Err(TrainError::Setting { key, reason });
    if let Some(other) = heads.keep_layers.iter().find(|l| !layers.contains(l)) {
        let reason = format!(
            "layer {other} is not private: the private layers are {} to {}",
            layers.start,
            layers.end.saturating_sub(1)
        );
        return fail("heads.keep_layers", reason);
    }
    let count = heads.keep.max(heads.keep_layers.len());
    let key = if heads.keep > 0 {
        "heads.keep"
    } else {
        "heads.keep_layers"
    };
    if count > 0 && count >= layers.len() {
        let reason = format!(
            "{count} of {} private layers leaves none to change\n\nhint: drop `[heads]`",
            layers.len()
        );
        return fail(key, reason);
    }
    Ok(())
}

/// What a layer may choose from.
enum Candidates {
    Groupings(Vec<Vec<Vec<usize>>>),
    /// Heads that are left.
    Prunings(Vec<Vec<usize>>),
}

impl Candidates {
    fn of(heads: &Heads, config: &LlamaConfig) -> Result<Self, TrainError> {
        let merge = heads.merge;
        let (found, hint) = match (heads.method, heads.grouping) {
            (Method::Prune, _) => (all_prunings(config, merge).map(Self::Prunings), ""),
            (_, Grouping::Strided) => {
                let groups = strided_groups(config, merge);
                (groups.map(|groups| Self::Groupings(vec![groups])), "")
            }
            (_, Grouping::Adjacent) => {
                let groups = adjacent_groups(config, merge, heads.allow_kv_collapse);
                let hint = "\n\nhint: use `grouping = \"strided\"`, or accept the loss of rank \
                    with `allow_kv_collapse = true`";
                (groups.map(|groups| Self::Groupings(vec![groups])), hint)
            }
            (_, Grouping::Measured) => {
                let hint = match strided_groups(config, merge) {
                    Ok(_) => "\n\nhint: use `grouping = \"strided\"`",
                    Err(_) => "",
                };
                (few_groups(config, merge).map(Self::Groupings), hint)
            }
        };
        found.map_err(|reason| TrainError::Setting {
            key: "heads",
            reason: reason + hint,
        })
    }

    /// The one that there is, or the first one.
    fn only(&self) -> Vec<Vec<usize>> {
        match self {
            Self::Groupings(all) => all[0].clone(),
            Self::Prunings(all) => all[0].iter().map(|&head| vec![head]).collect(),
        }
    }
}

/// Measures every private layer on calibration rows of the base, and takes the best candidate.
fn measured(
    recipe: &Recipe,
    base: &Checkpoint,
    samples: &[Sample],
    heads: &Heads,
    candidates: &Candidates,
) -> Result<Vec<Choice>, TrainError> {
    let plain = Transforms {
        frozen_layers: recipe.freeze.layers,
        approx: recipe.approx,
        ..Transforms::default()
    };
    let decoder = Llama::new(base.config.llama()?, &plain, base.var_builder_with([]))?;
    let rows = calibration_rows(samples, heads.calibration_rows, recipe.train.seed);
    let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
    let tokens: Vec<u32> = rows.concat();
    let packed = Rows::packed(&lengths);
    let first = recipe.freeze.layers;
    let mut x = decoder.run(decoder.embed(&tokens)?, 0..first, &packed, None)?;
    let mut choices = Vec::new();
    for layer in first..decoder.layers.len() {
        let block = Block::new(&decoder, layer, &x, &lengths)?;
        choices.push(match candidates {
            Candidates::Groupings(all) => best_grouping(&block, heads, &decoder.config, all),
            Candidates::Prunings(all) => best_pruning(&block, heads, &decoder.config, all),
        });
        x = decoder.run(x, layer..layer + 1, &packed, None)?;
    }
    Ok(choices)
}

/// The beginnings of training rows, drawn with the seed: as many as are asked for and [`TOKENS`]
/// hold.
fn calibration_rows(samples: &[Sample], most: usize, seed: u64) -> Vec<&[u32]> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    Rng::new(seed, "calibration rows").shuffle(&mut order);
    let mut tokens = 0;
    let begun = |i: &usize| {
        let row = &samples[*i].tokens;
        &row[..row.len().min(ROW_TOKENS)]
    };
    let mut fits = |row: &&[u32]| {
        let fit = tokens + row.len() <= TOKENS;
        tokens += if fit { row.len() } else { 0 };
        fit
    };
    order
        .iter()
        .map(begun)
        .filter(|row| fits(row))
        .take(most)
        .collect()
}

/// All groupings, of groups that memory holds the changes of.
fn few_groups(config: &LlamaConfig, merge: usize) -> Result<Vec<Vec<Vec<usize>>>, String> {
    let all = all_groupings(config, merge)?;
    let groups: BTreeSet<&Vec<usize>> = all.iter().flatten().collect();
    match groups.len() {
        few if few <= MOST_GROUPS => Ok(all),
        many => Err(format!(
            "{many} groups are more than the {MOST_GROUPS} that are measured"
        )),
    }
}

fn best_grouping(
    block: &Block<'_>,
    heads: &Heads,
    config: &LlamaConfig,
    all: &[Vec<Vec<usize>>],
) -> Choice {
    let mut groups: BTreeMap<&Vec<usize>, usize> = BTreeMap::new();
    for group in all.iter().flatten() {
        let next = groups.len();
        groups.entry(group).or_insert(next);
    }
    let mut order: Vec<(&Vec<usize>, usize)> = groups.iter().map(|(g, &nth)| (*g, nth)).collect();
    order.sort_by_key(|&(_, nth)| nth);
    let fitted = |group: &Vec<usize>| match heads.fit_scales {
        true => block.fit(group),
        false => vec![scale(heads, config); group.len()],
    };
    let weighed: Vec<(Vec<usize>, Vec<f64>)> = order
        .par_iter()
        .map(|(group, _)| ((*group).clone(), fitted(group)))
        .collect();
    let products = block.merged(&weighed);
    let error = |grouping: &Vec<Vec<usize>>| products.error(grouping.iter().map(|g| groups[g]));
    let errors: Vec<f64> = all.iter().map(error).collect();
    let best = least(&errors);
    let mut scales = vec![0.0; config.num_attention_heads];
    for group in &all[best] {
        let (members, factors) = &weighed[groups[group]];
        let pairs = members.iter().zip(factors);
        pairs.for_each(|(&head, &factor)| scales[head] = factor);
    }
    Choice {
        groups: all[best].clone(),
        scales,
        error: errors[best],
    }
}

fn best_pruning(
    block: &Block<'_>,
    heads: &Heads,
    config: &LlamaConfig,
    all: &[Vec<usize>],
) -> Choice {
    let products = block.left_out();
    let gone = |left: &Vec<usize>| -> Vec<usize> {
        let heads = 0..config.num_attention_heads;
        heads.filter(|head| !left.contains(head)).collect()
    };
    let error = |left: &Vec<usize>| products.error(gone(left).into_iter());
    let errors: Vec<f64> = all.iter().map(error).collect();
    let best = least(&errors);
    let mut scales = vec![0.0; config.num_attention_heads];
    all[best]
        .iter()
        .for_each(|&head| scales[head] = scale(heads, config));
    Choice {
        groups: all[best].iter().map(|&head| vec![head]).collect(),
        scales,
        error: errors[best],
    }
}

/// The first of the smallest.
fn least(errors: &[f64]) -> usize {
    (0..errors.len()).fold(0, |best, i| if errors[i] < errors[best] { i } else { best })
}
