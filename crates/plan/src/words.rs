//! A choice in plain words.

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
    format!(
        "{} of {all} layers frozen, {rank}, {}",
        of.frozen,
        softmaxes(of)
    )
}

/// How many softmaxes the private layers have.
#[must_use]
pub fn softmaxes(of: &Candidate) -> String {
    let mut counts = of.softmaxes.clone();
    counts.sort_unstable();
    counts.dedup();
    let in_words = |count: &usize| {
        let layers = of.softmaxes.iter().filter(|n| *n == count).count();
        format!("{count} in {layers} layers")
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
        (Some(a), Some(b)) if a.recovery.value == b.recovery.value => {
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
