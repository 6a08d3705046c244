//! Gates among three parties on threads of one process, over memory channels: all that they
//! compute, no network.

use std::{sync::Arc, thread};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use marill_crypto::wipe::{WipingAllocator, wipe_what_is_freed};
use marill_mpc::{
    Comparison, PrivateWeights, PublicWeights, Seed,
    engine::Engine,
    error::ProtocolResult,
    masked::Masked,
    random_model::{
        operations::{Operation, ROW},
        random_weights, tiny_spec,
    },
};
use marill_net::{Channel, memory_pair};

/// With `MARILL_BENCH_WIPE=1` everything that is freed is wiped, as where parties serve.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::system();

/// What is timed of [`Operation::ALL`].
const GATES: [&str; 4] = ["truncate", "exp", "softmax", "argmax"];

/// What a party does: the input, the gate, and what is left to send.
fn run(
    gate: Operation,
    engine: &mut Masked,
    input: Option<&[u64]>,
    n: usize,
) -> ProtocolResult<()> {
    let wire = engine.input(input, 1, n, gate.input_bits())?;
    let out = gate.run(engine, &wire, n)?;
    engine.materialize(&out)?;
    engine.flush()
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
    if std::env::var_os("MARILL_BENCH_WIPE").is_some_and(|set| set == "1") {
        wipe_what_is_freed();
    }
    let weights = random_weights(&tiny_spec(), 1);
    let timed = Operation::ALL
        .into_iter()
        .filter(|(_, name)| GATES.contains(name));
    for (gate, name) in timed {
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
                                scope.spawn(|| run(gate, &mut dealer, None, n).expect("dealer"));
                                scope.spawn(|| run(gate, &mut server, None, n).expect("server"));
                                run(gate, &mut client, Some(&input), n).expect("client");
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
