//! Exponentials, rectifiers and gates, over their domains and at the ends of them.

use marill_numeric::{
    approx::{quad, quad_slope},
    tables::{LinearTable, tables},
};

use super::{Program, encode, real, run_everywhere, words};
use crate::{
    engine::{Engine, Gate, Labels, Truncation},
    error::ProtocolResult,
    random_model::gaussian,
};

struct Exp;

impl Program for Exp {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        engine.exp_neg(&share, 64, "test")
    }
}

#[test]
fn exp_is_the_twins_on_its_whole_domain() {
    let mut values: Vec<u64> = words("exp", 600).iter().map(|w| w >> (64 - 19)).collect();
    values.extend(words("exp far", 100).iter().map(|w| w >> 33));
    values.extend([
        0,
        1,
        511,
        512,
        513,
        (1 << 18) - 1,
        1 << 18,
        (1 << 18) + 1,
        (1 << 25) - 1,
        1 << 25,
        (1 << 31) - 1,
    ]);
    run_everywhere(&Exp, &values, 1, 64);
}

struct Clipped;

impl Program for Clipped {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        engine.exp_clipped(&share, 48, "test")
    }
}

#[test]
fn clipped_exponentials_are_the_twins_on_their_whole_domain() {
    let mut values: Vec<u64> = words("clipped", 600)
        .iter()
        .map(|w| ((*w as i64) >> (64 - 20)) as u64)
        .collect();
    let far = words("clipped far", 100);
    values.extend(far.iter().map(|w| ((*w as i64) >> 33) as u64));
    let edges = [0, 1, 511, 512, (1 << 18) - 1, 1 << 18, (1 << 30) - 1];
    values.extend(edges.iter().flat_map(|&v: &i64| [v as u64, -v as u64]));
    values.extend([-1i64, -512, -513].map(|v| v as u64));
    run_everywhere(&Clipped, &values, 1, 64);
}

struct Relu;

impl Program for Relu {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        engine.relu(&share, 48, "test")
    }
}

#[test]
fn relu_is_the_twins_up_to_its_limits() {
    let mut values: Vec<u64> = words("relu", 300)
        .iter()
        .map(|w| ((*w as i64) >> 18) as u64)
        .collect();
    let limit = (1i64 << 46) - 1;
    values.extend([0, 1, -1, limit, -limit].map(|v| v as u64));
    let out = run_everywhere(&Relu, &values, 1, 64);
    for (x, y) in values.iter().zip(out) {
        assert_eq!(y as i64, (*x as i64).max(0));
    }
}

struct QuadProduct;

impl Program for QuadProduct {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        let truncation = Truncation {
            shift: 10,
            from: 56,
            to: 48,
        };
        engine.quad_product(&share, truncation, Labels::both("test"))
    }
}

#[test]
fn quad_products_are_the_twins_and_near_the_parabola() {
    // Gates up to 509 and their partners, 24 fractional bits.
    let mut gates = gaussian(4, "gates", 300, 3.0);
    gates.extend([0.0, -2.0, 509.0, -511.0, 1e-4, -1e-4]);
    let partners = gaussian(5, "partners", gates.len(), 1.0);
    let row = [gates.as_slice(), partners.as_slice()].concat();
    let out = real(&run_everywhere(&QuadProduct, &encode(&row, 24), 1, 64), 28);
    for ((g, u), got) in gates.iter().zip(&partners).zip(out) {
        let exact = quad(f64::from(*g)) * f64::from(*u);
        // Half a unit of 2^-14 in each factor, with the parabola's slope, and in their product.
        let slope = quad_slope(f64::from(*g)).abs() + 1.0;
        let bound = (slope * f64::from(u.abs()) + quad(f64::from(*g)).abs()) / 16384.0;
        assert!((got - exact).abs() <= bound, "{g} {u}: {got} and {exact}");
    }
}

struct GateProgram(&'static LinearTable);

impl Program for GateProgram {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        engine.gate(&input, Gate(self.0), "test")
    }
}

#[test]
fn gates_are_the_twins_inside_and_outside_the_table() {
    let mut values: Vec<u64> = words("gate", 600)
        .iter()
        .map(|w| ((*w as i64) >> 44) as u64)
        .collect();
    values.extend(
        words("gate far", 100)
            .iter()
            .map(|w| ((*w as i64) >> 34) as u64),
    );
    let edge = 1i64 << 18;
    values.extend([-(1 << 17) - 1, -(1 << 17), (1 << 17) - 1, 1 << 17].map(|v: i64| v as u64));
    values.extend(
        [
            0,
            1,
            -1,
            edge - 1,
            edge,
            edge + 1,
            -edge - 1,
            -edge,
            -edge + 1,
            (1 << 30) - 1,
            1 - (1 << 30),
        ]
        .map(|v| v as u64),
    );
    for table in [
        &tables().silu,
        &tables().gelu,
        &tables().sigmoid,
        &tables().tanh,
    ] {
        run_everywhere(&GateProgram(table), &values, 1, 48);
    }
}

struct GatedProgram;

impl Program for GatedProgram {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        engine.gated_product(
            &share,
            Gate(&tables().silu),
            Truncation {
                shift: 24,
                from: 56,
                to: 48,
            },
            Labels::both("test"),
        )
    }
}

#[test]
fn gated_products_are_the_twins_up_to_the_limits_of_both_halves() {
    // More elements than DCF is for, and half as many.
    let n = 2100;
    let wide = |label, bits: u32| {
        words(label, n)
            .into_iter()
            .map(move |w| ((w as i64) >> (64 - bits)) as u64)
    };
    // Factors whose product stays in the ring, and pairs at the limits beside a small factor.
    let mut gate: Vec<u64> = wide("gate", 44).collect();
    let mut up: Vec<u64> = wide("up", 44).collect();
    let limit = (1i64 << 54) - (1 << 23) - 1;
    let one = 1i64 << 38;
    for (g, u) in [
        (limit, one),
        (-limit, one),
        (one, limit),
        (one, -limit),
        (0, limit),
        (-one, -limit),
        (-1, 1),
    ] {
        gate.push(g as u64);
        up.push(u as u64);
    }
    let input: Vec<u64> = gate.into_iter().chain(up).collect();
    run_everywhere(&GatedProgram, &input, 1, 64);
}
