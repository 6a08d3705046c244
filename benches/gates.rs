//! Gates among three parties on threads of one process, over memory channels: all that they
//! compute, no network.

use std::{sync::Arc, thread};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use marill_mpc::{
    Comparison, PrivateWeights, PublicWeights, Seed,
    engine::{Engine, Truncation},
    error::ProtocolResult,
    masked::Masked,
    program::layers::softmax_parts,
    random_model::{gaussian, random_weights, tiny_spec},
};
use marill_net::{Channel, memory_pair};

/// Keys of a softmax.
const ROW: usize = 128;

#[derive(Clone, Copy)]
enum Gate {
    Truncate,
    Exp,
    Softmax,
    Argmax,
}

impl Gate {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Truncate, "truncate"),
        (Self::Exp, "exp"),
        (Self::Softmax, "softmax"),
        (Self::Argmax, "argmax"),
    ];

    /// Normal numbers of deviation 2 in the gate's domain.
    fn input(self, n: usize) -> Vec<u64> {
        let bits: f64 = if matches!(self, Self::Truncate) {
            28.0
        } else {
            14.0
        };
        let encode = |value: &f32| {
            let value = f64::from(*value) * bits.exp2();
            let value = if matches!(self, Self::Exp) {
                value.abs()
            } else {
                value
            };
            value.round() as i64 as u64
        };
        gaussian(1, "gate", n, 2.0).iter().map(encode).collect()
    }

    fn run(self, engine: &mut Masked, input: Option<&[u64]>, n: usize) -> ProtocolResult<()> {
        let wire = engine.input(input, 1, n, 48)?;
        let share = engine.share(&wire);
        let out = match self {
            Self::Truncate => engine.truncate(
                &share,
                Truncation {
                    shift: 14,
                    from: 48,
                    to: 48,
                },
                "truncate",
            )?,
            Self::Exp => engine.exp_neg(&share, 48, "exp")?,
            Self::Softmax => softmax_parts(engine, &share, &vec![ROW; n / ROW])?.1,
            Self::Argmax => {
                engine.argmax_to_client(&share, "argmax")?;
                share
            }
        };
        engine.materialize(&out)?;
        engine.flush()
    }
}

/// Client, server and dealer before the gate.
fn parties(
    (public, private): &(Arc<PublicWeights>, Arc<PrivateWeights>),
    comparison: Comparison,
) -> [Masked; 3] {
    let spec = &public.spec;
    let [adapter_seed, seed0, seed1] = [1, 2, 3].map(|n| Seed::from_bytes([n; 32]));
    let channel = |end| -> Box<dyn Channel> { Box::new(end) };
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    let adapter = private.mask(spec, &adapter_seed);
    let client = Masked::client(spec, &adapter, &seed0, channel(client_end)).expect("one model");
    let server = Masked::server(spec, private, &seed1, channel(server_end), channel(stream));
    let server = server.expect("one model");
    let dealer = Masked::dealer(spec, &adapter_seed, &seed0, &seed1, channel(sink));
    if comparison == Comparison::OneHot {
        return [client, server, dealer];
    }
    let (keys, own_keys) = memory_pair();
    [
        client.with_dcf(channel(own_keys)),
        server.with_comparison(comparison),
        dealer.with_dcf(channel(keys)),
    ]
}

fn gates(c: &mut Criterion) {
    let weights = random_weights(&tiny_spec(), 1);
    for (gate, name) in Gate::ALL {
        let mut group = c.benchmark_group(name);
        for n in [ROW, 32 * ROW] {
            let input = gate.input(n);
            group.throughput(Throughput::Elements(n as u64));
            for comparison in [Comparison::OneHot, Comparison::Dcf] {
                let id = BenchmarkId::new(comparison.to_string(), n);
                group.bench_function(id, |b| {
                    b.iter_batched(
                        || parties(&weights, comparison),
                        |[mut client, mut server, mut dealer]| {
                            thread::scope(|scope| {
                                scope.spawn(|| gate.run(&mut dealer, None, n).expect("dealer"));
                                scope.spawn(|| gate.run(&mut server, None, n).expect("server"));
                                gate.run(&mut client, Some(&input), n).expect("client");
                            });
                        },
                        BatchSize::SmallInput,
                    );
                });
            }
        }
        group.finish();
    }
}

criterion_group!(all, gates);
criterion_main!(all);
