//! Seconds over a link: those of loopback plus the waiting that counts give.

use marill_mpc::Comparison;
use marill_plan::{Network, Setting, Side};
use marill_report::Table;

use super::NOT_RUN;
use crate::commands::bench::headline::{
    cells::{Cell, Key, shaped},
    forms::{ModelForm, Step, Weights},
};

/// Over which link a step is timed.
#[derive(Clone, Copy)]
pub enum Clock {
    Loopback,
    Lan,
    Wan,
}

impl Clock {
    pub const ALL: [Self; 3] = [Self::Loopback, Self::Lan, Self::Wan];

    fn network(self) -> &'static str {
        match self {
            Self::Loopback => "none",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

/// Every cell is measured with one-hot comparisons.
fn one_hot(setting: Setting) -> Side {
    Side::new(setting, Comparison::OneHot)
}

/// The cells that are there.
#[derive(Clone, Copy)]
pub struct Cells<'a>(pub &'a [Cell]);

impl<'a> Cells<'a> {
    fn of(self, key: &Key) -> Option<&'a Cell> {
        self.0.iter().find(|cell| cell.key == *key)
    }

    /// The cell over plain loopback.
    pub fn find(
        self,
        (weights, setting): (Weights, Setting),
        form: &ModelForm,
        step: Step,
    ) -> Option<&'a Cell> {
        self.of(&Key::new(weights, setting, "none", form, step).ok()?)
    }

    /// Seconds of a step, if its cell was run.
    pub fn seconds(
        self,
        side: (Weights, Setting),
        form: &ModelForm,
        step: Step,
        clock: Clock,
    ) -> Option<f64> {
        let cell = self.find(side, form, step)?;
        let waiting = match Network::named(clock.network()).ok()? {
            Some(network) => network.waiting(&cell.measured.cost(), one_hot(side.1)),
            None => 0.0,
        };
        Some(cell.measured.seconds(side.1) + waiting)
    }

    /// Where the cells were measured.
    pub fn machines(self) -> String {
        let mut machines: Vec<String> = self
            .0
            .iter()
            .map(|cell| format!("{}, {} build", cell.measured.machine, cell.measured.profile))
            .collect();
        machines.sort();
        machines.dedup();
        match machines.as_slice() {
            [] => String::new(),
            machines => format!("Measured on: {}.\n\n", machines.join("; ")),
        }
    }
}

/// The cells over shaped links against what is computed.
///
/// # Errors
/// None of the forms is refused.
pub fn shaped_links(cells: Cells<'_>) -> anyhow::Result<String> {
    let mut table = Table::new([
        "setting",
        "network",
        "cell",
        "measured",
        "computed",
        "computed / measured",
    ])
    .right(&[3, 4, 5]);
    for setting in Setting::DEALT {
        for network in ["lan", "wan"] {
            let key = shaped(setting, network)?;
            let plain = Key {
                network: "none".into(),
                ..key.clone()
            };
            let measured = cells.of(&key).map(|cell| cell.measured.seconds(setting));
            let link = Network::named(network)?;
            let computed = cells.of(&plain).zip(link).map(|(cell, link)| {
                cell.measured.seconds(setting)
                    + link.waiting(&cell.measured.cost(), one_hot(setting))
            });
            let show = |seconds: Option<f64>| {
                seconds.map_or_else(|| NOT_RUN.into(), |s| format!("{s:.2} s"))
            };
            let ratio = computed.zip(measured);
            table.row([
                setting.name().to_string(),
                network.to_string(),
                format!("{}, {}", key.form, key.step),
                show(measured),
                show(computed),
                ratio.map_or_else(|| NOT_RUN.into(), |(c, m)| format!("{:.2}", c / m)),
            ]);
        }
    }
    Ok(format!("{}\n\n{}", super::text::LINKS, table.markdown()))
}
