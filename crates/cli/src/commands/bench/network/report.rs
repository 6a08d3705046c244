//! What `bench network` prints, as a table and as JSON.

use marill_image_networks::Plan;
use marill_report::Table;
use marill_training::peak_memory_bytes;
use serde_json::{Value, json};

use super::{Args, Measured};
use crate::commands::bench::machine;

/// What Cheetah's paper says of ResNet-50, as published.
const PUBLISHED: &str = "Cheetah (Huang et al., ePrint 2022/207, abstract): ResNet-50 in less than \
                         2.5 minutes and 2.3 GB over a wide-area network, 5.6 and 12.9 times less \
                         than CrypTFlow2\n";

/// Layers of one kind, or all of them.
#[derive(Clone, Copy, Default)]
struct Sum {
    layers: usize,
    /// By party.
    sent: [u64; 2],
    /// Of them for making transfers.
    extension: u64,
    rounds: u64,
    cpu: [f64; 2],
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.layers += other.layers;
        self.extension += other.extension;
        self.rounds += other.rounds;
        for party in 0..2 {
            self.sent[party] += other.sent[party];
            self.cpu[party] += other.cpu[party];
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let mb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
        vec![
            name.to_string(),
            self.layers.to_string(),
            mb(self.sent[0]),
            mb(self.sent[1]),
            mb(self.extension),
            self.rounds.to_string(),
            format!("{:.2}", self.cpu[0]),
            format!("{:.2}", self.cpu[1]),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "layers": self.layers, "client_bytes": self.sent[0], "server_bytes": self.sent[1],
            "extension_bytes": self.extension, "rounds": self.rounds,
            "client_cpu_s": self.cpu[0], "server_cpu_s": self.cpu[1],
        })
    }
}

pub(super) struct Report<'a> {
    args: &'a Args,
    plan: &'a Plan,
    measured: &'a Measured,
    /// By kind, in the order in which they come first.
    kinds: Vec<(&'static str, Sum)>,
    setup: Sum,
    total: Sum,
    /// Whether each layer sent what it declares.
    declared: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(args: &'a Args, plan: &'a Plan, measured: &'a Measured) -> Self {
        let mut kinds: Vec<(&'static str, Sum)> = Vec::new();
        let mut declared = true;
        let [client, server] = &measured.seen;
        for (at, layer) in plan.network().layers().iter().enumerate() {
            let kind = layer.op.kind();
            let steps = [client, server].map(|seen| seen.steps[at]);
            let [extension, online] = steps[0].traffic;
            let cost = plan.cost(at);
            declared &= [online.sent, online.received] == cost.sent && online.rounds == cost.rounds;
            let step = Sum {
                layers: 1,
                sent: [0, 1].map(|party: usize| {
                    steps[party]
                        .traffic
                        .iter()
                        .map(|traffic| traffic.sent)
                        .sum()
                }),
                extension: extension.bytes(),
                rounds: extension.rounds + online.rounds,
                cpu: steps.map(|step| step.spent.cpu),
            };
            match kinds.iter_mut().find(|(name, _)| *name == kind) {
                Some((_, sum)) => sum.add(&step),
                None => kinds.push((kind, step)),
            }
        }
        let end = plan.reveal_cost();
        declared &= [client.end.sent, client.end.received] == end.sent;
        // The class takes an exchange and a message.
        if let Some((_, last)) = kinds.last_mut() {
            last.sent[0] += client.end.sent;
            last.sent[1] += client.end.received;
            last.rounds += client.end.rounds;
        }
        let setup = Sum {
            sent: [client.setup.sent, server.setup.sent],
            rounds: client.setup.rounds,
            ..Sum::default()
        };
        let mut total = setup;
        kinds.iter().for_each(|(_, sum)| total.add(sum));
        Self {
            args,
            plan,
            measured,
            kinds,
            setup,
            total,
            declared,
        }
    }

    /// Whether all layers and the class are the program's, at the declared cost.
    pub(super) fn sound(&self) -> bool {
        self.measured.compared.mismatches == 0 && self.declared && self.class() == self.expected()
    }

    fn class(&self) -> u64 {
        self.measured.seen[0].class.unwrap_or_default()
    }

    fn expected(&self) -> u64 {
        self.measured.compared.class
    }

    pub(super) fn text(&self) -> String {
        let mut table = Table::new([
            "layers",
            "number",
            "client sends, MB",
            "server sends, MB",
            "of both, making transfers",
            "rounds",
            "CPU s, client",
            "server",
        ])
        .right(&[1, 2, 3, 4, 5, 6, 7]);
        for (kind, sum) in &self.kinds {
            if *kind != "local" {
                table.row(sum.cells(kind));
            }
        }
        table.row(self.setup.cells("set-up"));
        table.row(self.total.cells("all"));
        let args = self.args;
        let compared = &self.measured.compared;
        let format = self.plan.network().format();
        let equal = match &compared.first {
            None => format!("all {} numbers of all layers equal", compared.numbers),
            Some(layer) => format!(
                "{} of {} numbers DIFFERENT, first in `{layer}`",
                compared.mismatches, compared.numbers
            ),
        };
        let cost = if self.declared {
            "declared"
        } else {
            "NOT the declared"
        };
        let network = self.plan.network();
        let products = network.multiplications() as f64 / 1e9;
        let is_published = (args.name(), args.image) == ("resnet50", 224);
        let published = if is_published { PUBLISHED } else { "" };
        let memory = peak_memory_bytes().unwrap_or_default() as f64 / 1e9;
        format!(
            "{table}\n\n{name} at {image} by {image} pixels, {products:.2} G products, {bits} bits \
             at scale {scale}, weights of {weight_bits} bits, {levels} levels of packing keys; \
             {build} build; peak memory of the process {memory:.2} GB\n{published}\
             the integer program took {program:.2} CPU s; bytes and rounds are {cost} ones; \
             class {class}, the program's {expected}\n\
             secure layers and the integer program's: {equal}\n",
            table = table.markdown(),
            name = args.name(),
            image = args.image,
            bits = format.bits,
            scale = format.scale,
            weight_bits = format.weight_bits,
            levels = self.plan.levels(),
            build = machine::PROFILE,
            program = compared.spent.cpu,
            class = self.class(),
            expected = self.expected(),
        )
    }

    pub(super) fn json(&self) -> Value {
        let format = self.plan.network().format();
        let kinds = self.kinds.iter().filter(|(kind, _)| *kind != "local");
        let kinds: serde_json::Map<String, Value> = kinds
            .map(|(kind, sum)| ((*kind).to_string(), sum.json()))
            .collect();
        let compared = &self.measured.compared;
        let weights = self
            .args
            .weights
            .as_ref()
            .map(|path| path.display().to_string());
        json!({
            "network": self.args.name(), "image": self.args.image, "width": self.args.width,
            "classes": self.args.classes, "weights": weights,
            "bits": format.bits, "scale": format.scale, "weight_bits": format.weight_bits,
            "products": self.plan.network().multiplications(),
            "radix": self.args.radix.parse::<u32>().ok(), "lpn_set": self.args.lpn_set,
            "packing_levels": self.plan.levels(),
            "kinds": kinds, "setup": self.setup.json(), "total": self.total.json(),
            "declared": self.declared, "numbers": compared.numbers,
            "mismatches": compared.mismatches, "first_mismatch": compared.first,
            "class": self.class(), "program_class": self.expected(),
            "program_cpu_s": compared.spent.cpu,
            "peak_memory_bytes": peak_memory_bytes(),
            "profile": machine::PROFILE, "load": machine::load(),
        })
    }
}
