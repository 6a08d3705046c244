//! A choice in plain words.

use serde_json::Value;

use crate::{
    choice::{Budget, Candidate, Pick},
    curve::{Known, Quality},
};

/// The form of the model.
#[must_use]
pub fn form(of: &Candidate) -> String {
    let all = of.frozen + of.softmaxes.len();
    let rank = match of.rank {
        Some(rank) => format!("rank {rank}"),
        None => "full rank".into(),
    };
    let frozen = of.frozen;
    let softmaxes = softmaxes(of);
    let heads = heads(of);
    let approx = approximations(of);
    format!("{frozen} of {all} layers frozen, {rank}, {softmaxes}{heads}{approx}")
}

/// By what softmaxes became fewer.
fn heads(of: &Candidate) -> String {
    let Some(heads) = of.tables.get("heads") else {
        return String::new();
    };
    let text = |key: &str| heads.get(key).and_then(Value::as_str);
    let method = match text("method") {
        Some("prune") => "pruned",
        _ => "merged",
    };
    let grouping = text("grouping").unwrap_or("strided");
    let fitted = match heads.get("fit_scales").and_then(Value::as_bool) {
        Some(true) => ", fitted scales",
        _ => "",
    };
    format!(" (heads {method}, {grouping}{fitted})")
}

/// What is approximated.
fn approximations(of: &Candidate) -> String {
    let approx = of.tables.get("approx").and_then(Value::as_object);
    let names = approx.into_iter().flatten();
    let names = names.filter_map(|(key, value)| Some(format!(", {key} `{}`", value.as_str()?)));
    names.collect()
}

/// How many softmaxes the private layers have.
#[must_use]
pub fn softmaxes(of: &Candidate) -> String {
    let mut counts = of.softmaxes.clone();
    counts.sort_unstable();
    counts.dedup();
    let in_words = |count: &usize| {
        let layers = of.softmaxes.iter().filter(|n| *n == count).count();
        let s = if layers == 1 { "" } else { "s" };
        format!("{count} in {layers} layer{s}")
    };
    match &counts[..] {
        [one] => format!("{one} softmaxes a layer"),
        many => {
            let many: Vec<String> = many.iter().map(in_words).collect();
            format!("softmaxes: {}", many.join(", "))
        }
    }
}

/// A recovery with how it is known.
#[must_use]
pub fn quality(of: &Quality) -> String {
    let recovery = &of.recovery;
    let known = match &of.known {
        Known::Measured { arm } => format!("measured as `{arm}`"),
        Known::Interpolated {
            between: [below, above],
        } => format!("interpolated between {below} and {above} frozen layers, not measured"),
    };
    format!(
        "recovery {:.2} ({:.2} to {:.2}), {known}",
        recovery.value, recovery.low, recovery.high
    )
}

/// Why the first one was chosen and not the second.
#[must_use]
pub fn why(choice: &Pick<'_>, other: &Pick<'_>, budget: Budget) -> String {
    let amounts = [choice, other].map(|pick| budget.amount(pick.chosen).unwrap_or(f64::NAN));
    let [ours, theirs] = amounts;
    let unit = match budget {
        Budget::Seconds(_) => "s",
        Budget::MebiBytes(_) => "MiB",
    };
    let dearer = format!("{theirs:.3} {unit} in place of {ours:.3}");
    match (&choice.form.quality, &other.form.quality) {
        // Two decimals are shown.
        (Some(a), Some(b)) if a.recovery.value - b.recovery.value < 0.005 => {
            format!("as good by the curve, and costs {dearer}")
        }
        (Some(a), Some(b)) => {
            let less = a.recovery.value - b.recovery.value;
            let doubt = if b.recovery.high >= a.recovery.value {
                "; its interval reaches the choice, so they may be equal"
            } else {
                ""
            };
            format!("its recovery is {less:.2} lower{doubt}, at {dearer}")
        }
        _ if choice.form.frozen < other.form.frozen => {
            let more = other.form.frozen - choice.form.frozen;
            format!("it freezes {more} more than the budget asks for, at {dearer}")
        }
        _ => format!("it has fewer softmaxes than the budget allows, at {dearer}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::curve::Tables;

    fn candidate(tables: Value, softmaxes: Vec<usize>) -> Candidate {
        Candidate {
            frozen: 2,
            tables: tables.as_object().cloned().unwrap_or_else(Tables::new),
            rank: Some(8),
            softmaxes,
            quality: None,
            settings: Vec::new(),
        }
    }

    #[test]
    fn merged_and_pruned_heads_read_differently() {
        let merged = json!({ "heads": { "merge": 3, "grouping": "strided" } });
        let pruned = json!({ "heads": { "merge": 3, "grouping": "measured", "method": "prune" } });
        assert_eq!(
            form(&candidate(merged, vec![3, 3])),
            "2 of 4 layers frozen, rank 8, 3 softmaxes a layer (heads merged, strided)"
        );
        assert_eq!(
            form(&candidate(pruned, vec![3, 9, 9])),
            "2 of 5 layers frozen, rank 8, softmaxes: 3 in 1 layer, 9 in 2 layers (heads pruned, \
             measured)"
        );
    }

    #[test]
    fn approximations_are_named() {
        let tables = json!({ "approx": { "softmax": "clipped", "bound": 8.0 } });
        assert_eq!(
            form(&candidate(tables, vec![9])),
            "2 of 3 layers frozen, rank 8, 9 softmaxes a layer, softmax `clipped`"
        );
    }
}
