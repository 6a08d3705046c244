//! What a fine-tune does to query heads: groups that share one softmax, or heads that are left out.

use serde::{Deserialize, Serialize};

use crate::ModelConfig;

/// How a layer gets by with fewer softmaxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadMethod {
    /// Groups of heads share one.
    #[default]
    Merge,
    /// Heads are left out, with their queries and their part of the output map.
    Prune,
}

impl HeadMethod {
    fn is_merge(&self) -> bool {
        *self == Self::Merge
    }
}

/// Groups of query heads that share one softmax, `S_G = sum_{i in G} scale_i Q_i K_i^T`, or the
/// heads that are left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadTransform {
    /// Left out of files where it is `merge`, so that older ones stay what they are.
    #[serde(default, skip_serializing_if = "HeadMethod::is_merge")]
    pub method: HeadMethod,
    /// Heads per group, or how many times fewer heads are left.
    pub merge: usize,
    /// `strided`, `adjacent`, `measured`, or a name given by the owner of other groups.
    pub grouping: String,
    /// `[private layer][group][query heads]`; every query head exactly once a layer, unless heads
    /// are left out. A layer may be left as it was: a group for each head.
    pub groups: Vec<Vec<Vec<usize>>>,
    /// One factor of all heads' scores. Left out where `scales` gives each its own, so that an
    /// older version does not take one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// `[private layer][query head]`; a head that is left out has 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<Vec<f64>>,
    /// Whether groups, scales or layers left whole were measured on training rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
}

/// The query heads of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerHeads {
    /// `[group][query heads]`; a head in no group is left out: its output is zero.
    pub groups: Vec<Vec<usize>>,
    /// Factor of each query head's scores.
    pub scales: Vec<f64>,
    /// What the model multiplies the scores of a head by, beside `1 / sqrt(D)`.
    pub own_factor: f64,
    /// How many keys a row sees, itself included; none: all up to it.
    pub window: Option<usize>,
}

impl LayerHeads {
    /// Every head by itself, as the base has it.
    pub fn plain(config: &dyn ModelConfig) -> Self {
        let heads = config.num_attention_heads();
        Self {
            groups: (0..heads).map(|head| vec![head]).collect(),
            scales: vec![config.score_scale(); heads],
            own_factor: config.score_factor(),
            window: None,
        }
    }

    /// Which of the first `visible` keys a row sees.
    pub(crate) fn seen(&self, visible: usize) -> std::ops::Range<usize> {
        visible.saturating_sub(self.window.unwrap_or(visible))..visible
    }

    /// The heads that are not left out, in order.
    pub fn kept(&self) -> Vec<usize> {
        let mut kept: Vec<usize> = self.groups.iter().flatten().copied().collect();
        kept.sort_unstable();
        kept
    }

    /// The largest factor of a head's scores, in magnitude: the layer's softmax scale.
    pub fn scale(&self) -> f64 {
        let kept = self.groups.iter().flatten();
        kept.fold(0.0, |most, &head| f64::max(most, self.scales[head].abs()))
    }

    /// What the scores of a head weigh in units of [`LayerHeads::scale`].
    pub fn weight(&self, head: usize) -> f64 {
        self.scales[head] / self.scale()
    }
}

impl HeadTransform {
    /// The heads of a private layer, counted from the first one.
    pub fn layer(&self, private: usize, config: &dyn ModelConfig) -> LayerHeads {
        let one = || vec![self.scale.unwrap_or_default(); config.num_attention_heads()];
        LayerHeads {
            groups: self.groups[private].clone(),
            scales: self.scales.get(private).cloned().unwrap_or_else(one),
            own_factor: config.score_factor(),
            window: None,
        }
    }

    /// Checks the groups and scales of `layers` private layers.
    ///
    /// # Errors
    /// A key of the table and a sentence.
    pub(crate) fn check(
        &self,
        config: &dyn ModelConfig,
        layers: usize,
    ) -> Result<(), (&'static str, String)> {
        if self.groups.len() != layers {
            let given = self.groups.len();
            let reason = format!("{given} layers of groups for {layers} private layers");
            return Err(("heads.groups", reason));
        }
        for groups in &self.groups {
            self.check_groups(groups, config)
                .map_err(|reason| ("heads.groups", reason))?;
        }
        if self.scale.is_some() != self.scales.is_empty() {
            let reason = "either one scale, or one for each head of each layer".to_owned();
            return Err(("heads.scale", reason));
        }
        let heads = config.num_attention_heads();
        let fits = |scales: &Vec<f64>| scales.len() == heads;
        if !self.scales.is_empty() && (self.scales.len() != layers || !self.scales.iter().all(fits))
        {
            let reason = format!("must have {layers} layers of {heads} numbers");
            return Err(("heads.scales", reason));
        }
        for private in 0..layers {
            let scale = self.layer(private, config).scale();
            if !(scale > 0.0 && scale <= 1.0) {
                let reason = format!("private layer {private}: {scale} is not in (0, 1]");
                return Err(("heads.scales", reason));
            }
        }
        Ok(())
    }

    fn check_groups(&self, groups: &[Vec<usize>], config: &dyn ModelConfig) -> Result<(), String> {
        let heads = config.num_attention_heads();
        let kv = config.num_key_value_heads();
        let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
        seen.sort_unstable();
        if groups.iter().any(Vec::is_empty) {
            return Err("a group needs heads".into());
        }
        match self.method {
            HeadMethod::Merge if !seen.iter().copied().eq(0..heads) => {
                Err("every query head must occur exactly once per layer".into())
            }
            HeadMethod::Merge => Ok(()),
            HeadMethod::Prune => {
                if groups.iter().any(|group| group.len() > 1) {
                    return Err("heads that are left share no softmax".into());
                }
                if seen.windows(2).any(|w| w[0] == w[1]) || seen.last() >= Some(&heads) {
                    return Err("a query head may occur once per layer".into());
                }
                let behind = |g| {
                    seen.iter()
                        .filter(|&&head| config.kv_head(head) == g)
                        .count()
                };
                let first = behind(0);
                if first == 0 || (0..kv).any(|g| behind(g) != first) {
                    return Err("as many heads must be left behind each key-value head".into());
                }
                Ok(())
            }
        }
    }
}

/// Group `j` takes the `j`-th head of each of `merge` key-value groups, so that no two heads of a
/// group share keys.
///
/// With 9 query and 3 key-value heads and `merge = 3`: `{0,3,6}, {1,4,7}, {2,5,8}`. Without grouped
/// queries the stride is `num_attention_heads / merge`.
///
/// # Errors
/// A sentence when `merge` does not fit the heads.
pub fn strided_groups(config: &dyn ModelConfig, merge: usize) -> Result<Vec<Vec<usize>>, String> {
    let heads = config.num_attention_heads();
    let kv = config.num_key_value_heads();
    let per_kv = heads / kv;
    if !kv.is_multiple_of(merge) {
        return Err(format!(
            "{merge} heads a group do not divide the {kv} key-value heads"
        ));
    }
    let mut groups = Vec::with_capacity(heads / merge);
    for block in 0..kv / merge {
        for member in 0..per_kv {
            groups.push(
                (0..merge)
                    .map(|step| (block + step * (kv / merge)) * per_kv + member)
                    .collect(),
            );
        }
    }
    Ok(groups)
}

/// Neighboring heads `{0..merge}, {merge..2*merge}, ...`.
///
/// # Errors
/// When `merge` does not divide the heads, or when a group would hold two heads with the same keys
/// and `allow_kv_collapse` is false: `Q_1 K^T + Q_2 K^T = (Q_1 + Q_2) K^T` loses rank.
pub fn adjacent_groups(
    config: &dyn ModelConfig,
    merge: usize,
    allow_kv_collapse: bool,
) -> Result<Vec<Vec<usize>>, String> {
    let heads = config.num_attention_heads();
    if !heads.is_multiple_of(merge) {
        return Err(format!(
            "{merge} heads a group do not divide the {heads} query heads"
        ));
    }
    let groups: Vec<Vec<usize>> = (0..heads / merge)
        .map(|g| (g * merge..(g + 1) * merge).collect())
        .collect();
    let collapses = groups.iter().any(|g| {
        g.windows(2)
            .any(|w| config.kv_head(w[0]) == config.kv_head(w[1]))
    });
    if collapses && !allow_kv_collapse {
        return Err(
            "adjacent heads of this model share keys: merged, they collapse to one query of lower \
             rank"
                .into(),
        );
    }
    Ok(groups)
}

/// Most ways to group heads, or to leave some out, that are compared with each other.
pub const MOST_GROUPINGS: usize = 10_000;

/// All ways to divide the query heads into groups of `merge` whose members have different keys.
///
/// With 9 query and 3 key-value heads and `merge = 3`: 36.
///
/// # Errors
/// A sentence when there is none, or when there are more than [`MOST_GROUPINGS`].
pub fn all_groupings(
    config: &dyn ModelConfig,
    merge: usize,
) -> Result<Vec<Vec<Vec<usize>>>, String> {
    let heads = config.num_attention_heads();
    if !heads.is_multiple_of(merge) {
        return Err(format!(
            "{merge} heads a group do not divide the {heads} query heads"
        ));
    }
    let mut found = Vec::new();
    let mut groups = Vec::new();
    extend_grouping(config, merge, &mut groups, &mut found);
    match found.len() {
        0 => Err(format!(
            "{merge} heads with different keys cannot be had of {} key-value heads",
            config.num_key_value_heads()
        )),
        more if more > MOST_GROUPINGS => Err(format!(
            "there are more than {MOST_GROUPINGS} ways to group {heads} heads by {merge}"
        )),
        _ => Ok(found),
    }
}

/// Puts the first head that is in no group yet into one, in every way, and goes on.
fn extend_grouping(
    config: &dyn ModelConfig,
    merge: usize,
    groups: &mut Vec<Vec<usize>>,
    found: &mut Vec<Vec<Vec<usize>>>,
) {
    if found.len() > MOST_GROUPINGS {
        return;
    }
    let last = groups.last().filter(|group| group.len() < merge).cloned();
    let free = |head: &usize| !groups.iter().flatten().any(|taken| taken == head);
    let free: Vec<usize> = (0..config.num_attention_heads()).filter(free).collect();
    let Some(&first) = free.first() else {
        found.push(groups.clone());
        return;
    };
    let Some(group) = last else {
        groups.push(vec![first]);
        extend_grouping(config, merge, groups, found);
        groups.pop();
        return;
    };
    let newest = group.last().copied().unwrap_or_default();
    let fits = |head: &usize| {
        let shares = |&other: &usize| config.kv_head(other) == config.kv_head(*head);
        *head > newest && !group.iter().any(shares)
    };
    let nth = groups.len() - 1;
    for head in free.into_iter().filter(fits) {
        groups[nth].push(head);
        extend_grouping(config, merge, groups, found);
        groups[nth].pop();
    }
}

/// All ways to leave `1 / merge` of the query heads, as many behind each key-value head.
///
/// With 9 query and 3 key-value heads and `merge = 3`: 27.
///
/// # Errors
/// A sentence when no such number of heads is left, or when there are more than
/// [`MOST_GROUPINGS`] ways.
pub fn all_prunings(config: &dyn ModelConfig, merge: usize) -> Result<Vec<Vec<usize>>, String> {
    let per_kv = config.num_attention_heads() / config.num_key_value_heads();
    if !per_kv.is_multiple_of(merge) {
        return Err(format!(
            "one of {merge} heads cannot be left of the {per_kv} behind each key-value head"
        ));
    }
    let mut found = vec![Vec::new()];
    for first in (0..config.num_attention_heads()).step_by(per_kv) {
        let ways = choices(first..first + per_kv, per_kv / merge);
        if found.len() * ways.len() > MOST_GROUPINGS {
            return Err(format!(
                "there are more than {MOST_GROUPINGS} ways to leave one of {merge} heads"
            ));
        }
        let joined = |kept: &Vec<usize>| {
            let ways = ways.iter();
            let longer = ways.map(|way| kept.iter().chain(way).copied().collect());
            longer.collect::<Vec<Vec<usize>>>()
        };
        found = found.iter().flat_map(joined).collect();
    }
    Ok(found)
}

/// All choices of `count` of a range, each in order; at most a few more than [`MOST_GROUPINGS`].
fn choices(from: std::ops::Range<usize>, count: usize) -> Vec<Vec<usize>> {
    let mut found = vec![Vec::new()];
    for _ in 0..count {
        let longer = |way: &Vec<usize>| {
            let next = way.last().map_or(from.start, |last| last + 1);
            let more = (next..from.end).map(|head| way.iter().copied().chain([head]).collect());
            more.collect::<Vec<Vec<usize>>>()
        };
        found = found
            .iter()
            .flat_map(longer)
            .take(MOST_GROUPINGS + 1)
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LlamaConfig;

    fn config(heads: usize, kv: usize) -> LlamaConfig {
        let json = format!(
            r#"{{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4,
            "num_attention_heads": {heads},
            "num_key_value_heads": {kv}, "head_dim": 64, "vocab_size": 100, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64}}"#
        );
        serde_json::from_str::<LlamaConfig>(&json)
            .unwrap()
            .normalize()
            .unwrap()
    }

    #[test]
    fn strided_takes_one_head_of_each_key_value_group() {
        assert_eq!(
            strided_groups(&config(9, 3), 3).unwrap(),
            [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
        );
        assert_eq!(
            strided_groups(&config(6, 2), 2).unwrap(),
            [[0, 3], [1, 4], [2, 5]]
        );
        assert_eq!(strided_groups(&config(4, 4), 2).unwrap(), [[0, 2], [1, 3]]);
        assert!(strided_groups(&config(9, 3), 2).is_err());
    }

    #[test]
    fn adjacent_is_refused_inside_a_key_value_group() {
        assert!(adjacent_groups(&config(9, 3), 3, false).is_err());
        assert_eq!(
            adjacent_groups(&config(9, 3), 3, true).unwrap(),
            [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        );
        assert_eq!(
            adjacent_groups(&config(4, 4), 2, false).unwrap(),
            [[0, 1], [2, 3]]
        );
    }

    #[test]
    fn every_grouping_with_different_keys_is_found_once() {
        let all = all_groupings(&config(9, 3), 3).unwrap();
        assert_eq!(
            all.len(),
            36,
            "3! ways for each of two further key-value heads"
        );
        let mut once = all.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), 36);
        assert!(all.contains(&strided_groups(&config(9, 3), 3).unwrap()));
        assert_eq!(all_groupings(&config(4, 4), 2).unwrap().len(), 3);
        let error = all_groupings(&config(9, 1), 3).unwrap_err();
        assert!(error.contains("1 key-value heads"), "{error}");
        let error = all_groupings(&config(32, 32), 2).unwrap_err();
        assert!(error.contains("more than 10000 ways"), "{error}");
    }

    #[test]
    fn prunings_leave_as_many_heads_behind_each_key() {
        let all = all_prunings(&config(9, 3), 3).unwrap();
        assert_eq!(all.len(), 27);
        assert!(all.contains(&vec![0, 3, 6]) && all.contains(&vec![2, 4, 8]));
        assert_eq!(all_prunings(&config(8, 2), 2).unwrap().len(), 36);
        let error = all_prunings(&config(4, 4), 2).unwrap_err();
        assert!(error.contains("1 behind each key-value head"), "{error}");
        let error = all_prunings(&config(32, 1), 2).unwrap_err();
        assert!(error.contains("more than 10000 ways"), "{error}");
    }

    fn transform(method: HeadMethod, groups: Vec<Vec<usize>>) -> HeadTransform {
        HeadTransform {
            method,
            merge: 2,
            grouping: "own".into(),
            groups: vec![groups],
            scale: Some(0.1),
            scales: Vec::new(),
            measured: false,
        }
    }

    #[test]
    fn merged_groups_must_cover_every_head_once() {
        let config = config(4, 4);
        let check = |groups| transform(HeadMethod::Merge, groups).check(&config, 1);
        check(vec![vec![0, 1], vec![2, 3]]).unwrap();
        for groups in [
            vec![vec![0, 1], vec![1, 3]],
            vec![vec![0, 1], vec![2]],
            vec![vec![0, 1], vec![2, 3], vec![]],
        ] {
            assert_eq!(check(groups).unwrap_err().0, "heads.groups");
        }
    }

    #[test]
    fn heads_that_are_left_are_as_many_behind_each_key() {
        let config = config(4, 2);
        let check = |heads: &[usize]| {
            let groups = heads.iter().map(|&head| vec![head]).collect();
            transform(HeadMethod::Prune, groups).check(&config, 1)
        };
        check(&[0, 2]).unwrap();
        check(&[0, 1, 2, 3]).unwrap();
        for heads in [&[0, 1][..], &[0], &[0, 0, 2, 2], &[0, 4], &[]] {
            assert_eq!(check(heads).unwrap_err().0, "heads.groups", "{heads:?}");
        }
    }

    #[test]
    fn scales_are_one_for_all_or_one_for_each_head() {
        let config = config(4, 4);
        let good = transform(HeadMethod::Merge, vec![vec![0, 1], vec![2, 3]]);
        let each = |scales: Vec<Vec<f64>>| HeadTransform {
            scale: None,
            scales,
            ..good.clone()
        };
        each(vec![vec![0.1, 0.2, 0.0, -0.3]])
            .check(&config, 1)
            .unwrap();
        let bad = [
            each(vec![vec![0.1; 3]]),
            each(vec![vec![0.1; 4]; 2]),
            each(vec![vec![0.0; 4]]),
            each(vec![vec![1.5; 4]]),
            each(vec![vec![f64::NAN; 4]]),
            each(Vec::new()),
            HeadTransform {
                scales: vec![vec![0.1; 4]],
                ..good.clone()
            },
        ];
        for transform in bad {
            let (key, _) = transform.check(&config, 1).unwrap_err();
            assert!(key.starts_with("heads.scale"), "{transform:?}");
        }
        // A version that knows one scale must not find one.
        let text = serde_json::to_string(&each(vec![vec![0.1; 4]])).unwrap();
        assert!(!text.contains("\"scale\""), "{text}");
        let text = serde_json::to_string(&good).unwrap();
        assert!(
            !text.contains("scales") && !text.contains("method"),
            "{text}"
        );
    }
}
