//! The cost that a gate's documentation gives is the cost that the tally counts.

use marill_mpc::{
    Comparison,
    engine::{Attention, Engine, Gate, Labels, Truncation},
    error::ProtocolResult,
    masked::Masked,
    random_model::tiny_spec,
    spec::Module,
};
use marill_numeric::tables::tables;

const ENGINE: &str = include_str!("../src/engine.rs");

/// Below the limit from which gates save bytes in place of rounds, and at it: there, and already
/// from half of it on, both backends compare one-hot.
const FEW: usize = 1024;
const MANY: usize = marill_mpc::masked::MANY;

/// Rounds; bytes of E0 and of E1; bytes of the dealer to E1 and to E0.
type Counts = [u64; 5];

/// A truncation that keeps the width.
fn truncation(shift: u32, bits: u32) -> Truncation {
    Truncation {
        shift,
        from: bits,
        to: bits,
    }
}

/// Runs a gate over a row of elements and counts what it costs, without the input's own opening.
type Run = fn(&mut Masked, usize) -> ProtocolResult<Counts>;

fn counts(engine: &Masked) -> Counts {
    let cost = engine.cost();
    [
        cost.rounds,
        cost.e0_to_e1_bytes,
        cost.e1_to_e0_bytes,
        cost.dealer_to_e1_bytes,
        cost.dealer_to_e0_bytes,
    ]
}

fn on_wire(
    engine: &mut Masked,
    n: usize,
    gate: impl FnOnce(&mut Masked, &<Masked as Engine>::Wire) -> ProtocolResult<()>,
) -> ProtocolResult<Counts> {
    let wire = engine.input(None, 1, n, 48)?;
    let before = counts(engine);
    gate(engine, &wire)?;
    let after = counts(engine);
    Ok(std::array::from_fn(|i| after[i] - before[i]))
}

fn on_share(
    engine: &mut Masked,
    n: usize,
    gate: impl FnOnce(&mut Masked, &<Masked as Engine>::Share) -> ProtocolResult<()>,
) -> ProtocolResult<Counts> {
    let wire = engine.input(None, 1, n, 64)?;
    let share = engine.share(&wire);
    let before = counts(engine);
    gate(engine, &share)?;
    let after = counts(engine);
    Ok(std::array::from_fn(|i| after[i] - before[i]))
}

/// As [`on_wire`], beside a wire or a share of one element and 64 bits.
fn with_scalar(
    engine: &mut Masked,
    n: usize,
    gate: impl FnOnce(&mut Masked, &<Masked as Engine>::Wire, Scalar) -> ProtocolResult<()>,
) -> ProtocolResult<Counts> {
    let scalar = engine.input(None, 1, 1, 64)?;
    let share = engine.share(&scalar);
    on_wire(engine, n, |engine, x| gate(engine, x, (scalar, share)))
}

type Scalar = (<Masked as Engine>::Wire, <Masked as Engine>::Share);

/// One head as wide as the row, which sees one key.
fn one_head(n: usize, groups: &[Vec<usize>]) -> Attention<'_> {
    Attention {
        groups,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: n,
        first: 0,
        rows: 1,
        causal: true,
    }
}

/// Every operation that sends something, as the program calls it.
const GATES: &[(&str, usize, Run)] = &[
    ("open", FEW, |e, n| {
        on_share(e, n, |e, x| e.open(&[(x, 48)], "open").map(drop))
    }),
    ("reveal_to_e1", FEW, |e, n| {
        let map = tiny_spec().map(0, Module::O);
        on_share(e, n, |e, x| e.reveal_to_e1(x, 56, &[map], "x").map(drop))
    }),
    ("truncate_and_reveal", FEW, |e, n| {
        let map = tiny_spec().map(0, Module::O);
        let labels = Labels::new("cut", "x");
        on_share(e, n, |e, x| {
            e.truncate_and_reveal(x, truncation(14, 56), &[map], labels)
                .map(drop)
        })
    }),
    ("square_sum", FEW, |e, n| {
        on_wire(e, n, |e, x| e.square_sum(x).map(drop))
    }),
    ("scale_rows", FEW, |e, n| {
        with_scalar(e, n, |e, x, (scale, _)| e.scale_rows(x, &scale).map(drop))
    }),
    ("scores", FEW, |e, n| {
        on_wire(e, n, |e, x| {
            e.scores(x, x, &one_head(n, &[vec![0]])).map(drop)
        })
    }),
    ("weighted_values", FEW, |e, n| {
        with_scalar(e, n, |e, x, (weight, _)| {
            let groups = [vec![0]];
            e.weighted_values(&weight, x, &one_head(n, &groups))
                .map(drop)
        })
    }),
    ("scale_heads", FEW, |e, n| {
        with_scalar(e, n, |e, x, (scale, _)| {
            let groups = [vec![0]];
            e.scale_heads(x, &scale, &one_head(n, &groups)).map(drop)
        })
    }),
    ("scale_rows_piecewise", FEW, |e, n| {
        let labels = Labels::new("rsqrt", "scale");
        with_scalar(e, n, |e, x, (_, s)| {
            e.scale_rows_piecewise(x, &s, &tables().rsqrt, labels)
                .map(drop)
        })
    }),
    ("scale_heads_piecewise", FEW, |e, n| {
        let labels = Labels::new("recip", "divide");
        with_scalar(e, n, |e, x, (weights, _)| {
            let groups = [vec![0]];
            let x = e.share(x);
            let attention = one_head(n, &groups);
            e.scale_heads_piecewise(&x, &weights, &tables().recip, &attention, labels)
                .map(drop)
        })
    }),
    ("mul", FEW, |e, n| {
        on_wire(e, n, |e, x| e.mul(x, x).map(drop))
    }),
    ("ragged_max", FEW, |e, n| {
        let lens = vec![128; n / 128];
        on_share(e, n, |e, x| e.ragged_max(x, &lens, "max").map(drop))
    }),
    ("truncate", FEW, |e, n| {
        on_share(e, n, |e, x| {
            e.truncate(x, truncation(14, 48), "cut").map(drop)
        })
    }),
    ("exp_neg", FEW, |e, n| {
        on_share(e, n, |e, x| e.exp_neg(x, 48, "exp").map(drop))
    }),
    ("exp_clipped", FEW, |e, n| {
        on_share(e, n, |e, x| e.exp_clipped(x, 48, "exp").map(drop))
    }),
    ("relu", FEW, |e, n| {
        on_share(e, n, |e, x| e.relu(x, 48, "relu").map(drop))
    }),
    ("gate", FEW, |e, n| {
        let silu = Gate(&tables().silu);
        on_wire(e, n, |e, x| e.gate(x, silu, "silu").map(drop))
    }),
    ("truncate_gate", FEW, |e, n| {
        let gelu = Gate(&tables().gelu);
        on_share(e, n, |e, x| {
            e.truncate_gate(x, gelu, truncation(14, 48), Labels::new("cut", "gelu"))
                .map(drop)
        })
    }),
    ("gated_product", FEW, |e, n| {
        let silu = Gate(&tables().silu);
        on_share(e, n, |e, x| {
            e.gated_product(x, silu, truncation(14, 48), Labels::new("cut", "silu"))
                .map(drop)
        })
    }),
    ("quad_product", FEW, |e, n| {
        on_share(e, n, |e, x| {
            e.quad_product(x, truncation(14, 48), Labels::new("cut", "quad"))
                .map(drop)
        })
    }),
    ("piecewise", 1, |e, n| {
        on_share(e, n, |e, x| {
            e.piecewise(x, &tables().rsqrt, "rsqrt").map(drop)
        })
    }),
    ("below_largest", FEW, |e, n| {
        on_share(e, n, |e, x| e.below_largest(x, 40, "top").map(drop))
    }),
    ("argmax_to_client", FEW, |e, n| {
        on_share(e, n, |e, x| e.argmax_to_client(x, "argmax").map(drop))
    }),
    ("reveal_to_client", FEW, |e, n| {
        on_share(e, n, |e, x| e.reveal_to_client(x, 48, "reveal").map(drop))
    }),
];

/// `1,024`
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at(first);
    let groups = rest.as_bytes().chunks(3).map(|group| {
        let text = std::str::from_utf8(group);
        text.expect("digits").to_owned()
    });
    let head = (!head.is_empty()).then(|| head.to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

/// What the documentation says of a gate over `n` elements.
fn figures(run: Run, n: usize, comparison: Comparison) -> String {
    let mut engine = Masked::tally(&tiny_spec()).with_comparison(comparison);
    let [rounds, e0, e1, to_e1, to_e0] = run(&mut engine, n).expect("shapes");
    let unit = if rounds == 1 { "round" } else { "rounds" };
    let [e0, e1, to_e1] = [e0, e1, to_e1].map(grouped);
    let mut text = format!("{rounds} {unit}; E0 {e0} B, E1 {e1} B, dealer {to_e1} B");
    if to_e0 > 0 {
        text += &format!(" + {} B", grouped(to_e0));
    }
    text
}

/// The lines that belong into a gate's documentation.
fn lines(few: usize, run: Run) -> Vec<String> {
    let [one_hot, dcf, many] = [
        (few, Comparison::OneHot),
        (few, Comparison::Dcf),
        (MANY, Comparison::OneHot),
    ]
    .map(|(n, comparison)| figures(run, n, comparison));
    let plural = if few == 1 { "element" } else { "elements" };
    let at = format!("{} {plural}", grouped(few as u64));
    let from = grouped(MANY as u64);
    if one_hot == dcf {
        return vec![
            format!("- {at}: {one_hot}"),
            format!("- {from} elements: {many}"),
        ];
    }
    vec![
        format!("- {at}, one-hot: {one_hot}"),
        format!("- {at}, DCF: {dcf}"),
        format!("- {from} elements: {many}"),
    ]
}

/// The documentation of an operation of the trait.
fn documentation(name: &str) -> Vec<&'static str> {
    let all: Vec<&str> = ENGINE.lines().map(str::trim).collect();
    let opening = format!("fn {name}(");
    let at = all.iter().position(|line| line.starts_with(&opening));
    let at = at.unwrap_or_else(|| panic!("there is no operation `{name}` in engine.rs"));
    let above = all[..at].iter().rev();
    let mut found: Vec<&str> = above.map_while(|line| line.strip_prefix("///")).collect();
    found.reverse();
    found.into_iter().map(str::trim).collect()
}

#[test]
fn documented_costs_are_the_tallys() {
    let mut wrong = String::new();
    for (name, few, run) in GATES {
        let said = documentation(name);
        let lines = lines(*few, *run);
        if !lines.iter().all(|line| said.contains(&line.as_str())) {
            wrong += &format!("\n{name}:\n");
            lines
                .iter()
                .for_each(|line| wrong += &format!("    /// {line}\n"));
        }
    }
    assert!(
        wrong.is_empty(),
        "these lines belong into engine.rs:\n{wrong}"
    );
}

#[test]
fn both_backends_cost_the_same_from_the_limit_on() {
    for (name, _, run) in GATES {
        let [one_hot, dcf] = [Comparison::OneHot, Comparison::Dcf].map(|c| figures(*run, MANY, c));
        // Tournaments shrink level by level, below the limit in the end, and a row's scalar has one
        // element whatever the row's length.
        let shrinks = ["ragged_max", "argmax_to_client", "below_largest"].contains(name);
        let of_scalar = name.ends_with("_piecewise");
        if !shrinks && !of_scalar {
            assert_eq!(one_hot, dcf, "{name}");
        }
    }
}

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// Where a gate is, for the table.
fn file(name: &str) -> &'static str {
    match name {
        "open" | "reveal_to_e1" => "reveal.rs",
        "truncate" | "truncate_and_reveal" => "truncate.rs",
        "square_sum" | "scale_rows" | "scale_heads" => "extend.rs",
        "mul" | "scores" | "weighted_values" => "product.rs",
        "piecewise" | "scale_rows_piecewise" | "scale_heads_piecewise" => "spline.rs",
        "exp_neg" | "exp_clipped" | "gate" | "truncate_gate" => "activation.rs",
        "gated_product" => "swiglu.rs",
        "quad_product" => "engine.rs",
        "ragged_max" | "relu" | "argmax_to_client" => "argmax.rs",
        "below_largest" => "kth.rs",
        "reveal_to_client" => "input.rs",
        _ => panic!("`{name}` has no file"),
    }
}

/// The table of gates: rounds, and bytes of both evaluators and of the dealer for few elements.
fn table() -> Vec<String> {
    let row = |&(name, few, run): &(&str, usize, Run)| {
        let counted = |n, comparison| {
            let mut engine = Masked::tally(&tiny_spec()).with_comparison(comparison);
            run(&mut engine, n).expect("shapes")
        };
        let one_hot = counted(few, Comparison::OneHot);
        let dcf = counted(few, Comparison::Dcf);
        let many = counted(MANY, Comparison::OneHot);
        let rounds = [one_hot[0], dcf[0], many[0]].map(|r| r.to_string());
        let bytes = [one_hot, dcf].map(|c| {
            let evaluators = grouped(c[1] + c[2]);
            format!("{evaluators} + {}", grouped(c[3] + c[4]))
        });
        let [few_rounds, dcf_rounds, many_rounds] = rounds;
        let [one_hot, dcf] = bytes;
        let file = file(name);
        let few = grouped(few as u64);
        format!(
            "| `{name}` | {few} | {few_rounds} | {dcf_rounds} | {many_rounds} | {one_hot} | {dcf} \
             | `{file}` |"
        )
    };
    GATES.iter().map(row).collect()
}

#[test]
fn the_table_of_gates_is_the_tallys() {
    let table = table();
    let missing = table.iter().any(|row| !ARCHITECTURE.contains(row.as_str()));
    assert!(
        !missing,
        "these rows belong into ARCHITECTURE.md:\n{}",
        table.join("\n")
    );
}
