//! What a plan says.

use marill_plan::{
    Side,
    choice::{Budget, Candidate, Outcome, Pick, Priced},
    curve::Known,
    words,
};
use marill_report::{Table, bytes};
use serde_json::{Value, json};

use super::Ground;

/// The plan for a person.
pub fn text(outcome: &Outcome<'_>, ground: &Ground) -> String {
    let Outcome::Fits { choice, runner_up } = outcome else {
        return String::new();
    };
    let mut text = format!("choice      {}\n", words::form(choice.form));
    text += &format!("            {}\n", serving(choice.chosen));
    if let Some(quality) = &choice.form.quality {
        text += &format!("            {}\n", words::quality(quality));
    }
    match runner_up {
        None => text += "runner-up   none: nothing else keeps the budget\n",
        Some(next) => {
            text += &format!("runner-up   {}\n", words::form(next.form));
            text += &format!("            {}\n", serving(next.chosen));
            if let Some(quality) = &next.form.quality {
                text += &format!("            {}\n", words::quality(quality));
            }
            let why = words::why(choice, next, ground.budget);
            text += &format!("            not chosen: {why}\n");
        }
    }
    text += &format!("\n{}\n", settings(choice.form, ground.budget).markdown());
    for note in notes(choice.form, ground) {
        text += &format!("\nnote: {note}\n");
    }
    text
}

/// How it is served, and what a token takes.
fn serving(of: &Priced) -> String {
    let seconds = match of.time {
        Some(time) => format!("{:.3} s/token, ", time.total()),
        None => String::new(),
    };
    // Without them the token would wait for the dealer too.
    let with = match of.side.is_preprocessed() {
        true => " with preprocessed correlations",
        false => "",
    };
    let comparisons = match of.side.dealt_comparison() {
        Some(comparison) => format!(", comparisons {comparison}"),
        None => String::new(),
    };
    format!(
        "setting {}{with}{comparisons}: {seconds}{} for the client, {} rounds",
        of.side.setting.name(),
        bytes(of.client_bytes()),
        of.cost.rounds
    )
}

fn keeps(budget: Budget, priced: &Priced) -> bool {
    let amount = budget.amount(priced);
    amount.is_some_and(|amount| budget.allows(amount))
}

/// A form in every setting.
fn settings(of: &Candidate, budget: Budget) -> Table {
    let mut table = Table::new([
        "setting",
        "comparisons",
        "public layers, s",
        "parties, s",
        "network, s",
        "s/token",
        "client",
        "dealer to server",
        "rounds",
        "within the budget",
    ])
    .right(&[2, 3, 4, 5, 6, 7, 8]);
    for priced in &of.settings {
        let shown = |of: Option<f64>| of.map_or_else(|| "-".into(), |s| format!("{s:.3}"));
        let time = priced.time;
        table.row([
            priced.side.setting.name().to_owned(),
            priced
                .side
                .dealt_comparison()
                .map_or_else(|| "-".into(), |comparison| comparison.to_string()),
            shown(time.map(|time| time.prefix)),
            shown(time.map(|time| time.local)),
            shown(time.map(|time| time.waiting)),
            shown(time.map(|time| time.total())),
            bytes(priced.client_bytes()),
            bytes(priced.cost.dealer_to_e1_bytes),
            priced.cost.rounds.to_string(),
            match keeps(budget, priced) {
                true => "yes".into(),
                false => "no".into(),
            },
        ]);
    }
    table
}

/// What a reader must know.
fn notes(of: &Candidate, ground: &Ground) -> Vec<String> {
    let mut notes = ground.notes.clone();
    if let Some(quality) = &of.quality {
        if let Known::Interpolated { .. } = quality.known {
            notes.push("this form was not trained: its recovery lies on a line between two".into());
        }
        if ground
            .quality
            .is_some_and(|floor| quality.recovery.low < floor)
        {
            notes.push("the interval of its recovery begins below the quality asked for".into());
        }
        notes.push(format!(
            "the recovery was measured after {} training tokens at a rate of {:e}",
            quality.tokens, quality.learning_rate
        ));
    }
    notes.extend(correlations(&ground.sides).map(String::from));
    notes.extend(alone(ground).map(String::from));
    match &ground.calibration {
        Some(found) => notes.push(format!(
            "times are those of this calibration: {}, {} build",
            found.machine, found.profile
        )),
        None => notes.push("no calibration, so no seconds: `marill bench --calibrate`".into()),
    }
    notes
}

/// When the correlations of `dealer` are made, where that setting is planned for.
fn correlations(sides: &[Side]) -> Option<&'static str> {
    let has_dealer = sides.iter().any(|side| side.is_preprocessed());
    has_dealer.then_some(
        "`dealer` with one-hot comparisons assumes preprocessed correlations (`marill dealer \
         --preprocess`); where the dealer streams them, a token takes what it takes in `3pc`, as \
         it always does with DCF",
    )
}

/// What `2pc` is counted with, where that setting is planned for.
fn alone(ground: &Ground) -> Option<&'static str> {
    if !ground.sides.contains(&Side::ALONE) {
        return None;
    }
    let calibration = ground.calibration.as_ref();
    let untimed = calibration.is_some_and(|found| found.prices(Side::ALONE).is_err());
    Some(match untimed {
        true => {
            "this calibration has no times of `2pc`, so no seconds of it: `marill bench \
             --calibrate` takes them"
        }
        false => {
            "`2pc` is counted with its share of what is made ahead for 32 tokens, and without a \
             session's set-up"
        }
    })
}

/// Why nothing was chosen, and what comes nearest.
pub fn refusal(outcome: &Outcome<'_>, ground: &Ground) -> String {
    let budget = format!("{} on network `{}`", ground.budget, ground.network_name);
    let (problem, nearest) = match outcome {
        Outcome::Fits { .. } => return String::new(),
        Outcome::TooDear(nearest) => {
            let with = match ground.quality {
                Some(floor) => format!(" with a recovery of at least {floor}"),
                None => String::new(),
            };
            (format!("nothing{with} keeps {budget}"), nearest)
        }
        Outcome::TooPoor(nearest) => {
            let floor = ground.quality.unwrap_or_default();
            // Whatever the budget.
            let what = format!("the curve has nothing with a recovery of at least {floor}");
            (what, nearest)
        }
    };
    let mut text = format!("error: {problem}\n");
    text += &format!("\nhint: nearest is {},\n", words::form(nearest.form));
    text += &format!("      {}\n", serving(nearest.chosen));
    if let Some(quality) = &nearest.form.quality {
        text += &format!("      {}\n", words::quality(quality));
    }
    if let Outcome::TooPoor(_) = outcome {
        text += &match keeps(ground.budget, nearest.chosen) {
            true => format!("      it keeps {budget}\n"),
            false => format!("      it does not keep {budget} either\n"),
        };
    }
    for note in &ground.notes {
        text += &format!("\nnote: {note}\n");
    }
    text
}

/// The plan for a program.
pub fn json(outcome: &Outcome<'_>, ground: &Ground) -> Value {
    let (reason, choice, runner_up, nearest) = match outcome {
        Outcome::Fits { choice, runner_up } => (None, Some(choice), runner_up.as_ref(), None),
        Outcome::TooDear(pick) => (Some("too-dear"), None, None, Some(pick)),
        Outcome::TooPoor(pick) => (Some("too-poor"), None, None, Some(pick)),
    };
    let form = choice.or(nearest).map(|pick| notes(pick.form, ground));
    json!({
        "budget": ground.budget.to_string(),
        "network": ground.network_name,
        "keys": ground.cached + 1,
        "quality": ground.quality,
        "curve": ground.curve.as_ref().map(|curve| &curve.task),
        "fits": reason.is_none(),
        "reason": reason,
        "choice": choice,
        "runner_up": runner_up,
        "why": choice.zip(runner_up).map(|(a, b)| words::why(a, b, ground.budget)),
        "nearest": nearest,
        "nearest_keeps_budget": nearest.map(|pick| keeps(ground.budget, pick.chosen)),
        "notes": form,
    })
}

/// What stands above the recipe of a choice.
pub fn comment(choice: &Pick<'_>, ground: &Ground) -> String {
    let mut lines = vec![
        format!(
            "Planned by `marill plan` for {} on network `{}`:",
            ground.budget, ground.network_name
        ),
        words::form(choice.form) + ",",
        serving(choice.chosen) + ".",
    ];
    lines.extend(choice.form.quality.as_ref().map(words::quality));
    lines.extend(ground.notes.iter().cloned());
    let lines = lines.into_iter().map(|line| format!("# {line}\n"));
    lines.collect::<String>() + "\n"
}
