//! A session that goes on behind an answer: further turns are several rows in one step.

use std::{sync::Arc, thread};

use marill_mpc::{
    ClientSession, DealerSession, Extension, ProgramSpec, ProtocolError, Seed, ServerSession, Twin,
    random_model::{gaussian, random_weights, tiny_spec, with_mixed_heads, with_private_matrices},
    two_party::{GroupBits, Products},
    weights::{PrivateWeights, PublicWeights},
};
use marill_net::memory_pair;

/// Rows of each step: a prompt, an answer, a turn, an answer, a turn.
const STEPS: [usize; 7] = [5, 1, 1, 6, 1, 20, 1];

fn rows_of(spec: &ProgramSpec) -> Vec<Vec<u64>> {
    let row = |(k, rows): (usize, &usize)| {
        let values = gaussian(k as u64, "boundary", rows * spec.hidden_size, 1.0);
        spec.encode(&values).unwrap()
    };
    STEPS.iter().enumerate().map(row).collect()
}

/// What the twin says behind each step, its rows one by one behind the prompt.
fn expected(public: &Arc<PublicWeights>, private: &Arc<PrivateWeights>) -> Vec<u32> {
    let width = public.spec.hidden_size;
    let mut twin = Twin::new(Arc::clone(public), Arc::clone(private));
    let mut tokens = Vec::new();
    for (k, rows) in rows_of(&public.spec).iter().enumerate() {
        tokens.push(match k {
            0 => twin.prefill(rows).unwrap(),
            _ => {
                let said = rows.chunks(width).map(|row| twin.decode(row).unwrap());
                said.last().unwrap()
            }
        });
    }
    tokens
}

/// The client's tokens; `step(k, rows)` runs a step at the other parties.
fn tokens<E: marill_mpc::engine::Engine>(
    spec: &ProgramSpec,
    session: &mut ClientSession<E>,
    mut before: impl FnMut(usize, &mut ClientSession<E>),
) -> Vec<u32> {
    let mut tokens = Vec::new();
    for (k, rows) in rows_of(spec).iter().enumerate() {
        before(k, session);
        let token = match (k, STEPS[k]) {
            (0, _) => session.prefill(rows),
            (_, 1) => session.decode(rows),
            _ => session.extend(rows),
        };
        tokens.push(token.unwrap());
    }
    assert_eq!(
        session.positions(),
        spec.bucket(STEPS[0]) + STEPS[1..].iter().sum::<usize>()
    );
    tokens
}

fn with_dealer(spec: &ProgramSpec, dcf: bool) -> [Vec<u32>; 2] {
    let (public, private) = random_weights(spec, 3);
    let [adapter_seed, seed0, seed1] = [1, 2, 3].map(|k| Seed::from_bytes([k; 32]));
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    let (keys_out, keys_in) = memory_pair();
    let adapter = private.mask(spec, &adapter_seed);
    let secure = thread::scope(|scope| {
        let seeds = [seed0.clone(), seed1.clone()];
        scope.spawn(move || {
            let [seed0, seed1] = seeds;
            let sink = Box::new(sink);
            let mut session = DealerSession::new(spec.clone(), adapter_seed, seed0, seed1, sink);
            if dcf {
                session = session.with_dcf(Box::new(keys_out));
            }
            session.prefill(spec.bucket(STEPS[0])).unwrap();
            STEPS[1..]
                .iter()
                .for_each(|&rows| session.extend(rows).unwrap());
        });
        let weights = Arc::clone(&public);
        let private = &private;
        scope.spawn(move || {
            let stream = Box::new(stream);
            let session = ServerSession::new(weights, private, seed1, Box::new(server_end), stream);
            let mut session = session.unwrap();
            if dcf {
                session = session.with_comparison(marill_mpc::Comparison::Dcf);
            }
            session.prefill(spec.bucket(STEPS[0])).unwrap();
            STEPS[1..]
                .iter()
                .for_each(|&rows| session.extend(rows).unwrap());
        });
        let session =
            ClientSession::new(Arc::clone(&public), &adapter, seed0, Box::new(client_end));
        let mut session = session.unwrap();
        if dcf {
            session = session.with_dcf(Box::new(keys_in));
        }
        // Prepared for the rows of a decode, whatever comes.
        let mut precomputer = session.precomputer().unwrap();
        tokens(spec, &mut session, |k, session| {
            if k > 0 {
                session.accept(precomputer.next_decode().unwrap());
            }
        })
    });
    [secure, expected(&public, &private)]
}

fn alone(spec: &ProgramSpec, products: Products, asked: &[(usize, usize)]) -> [Vec<u32>; 2] {
    let (public, private) = random_weights(spec, 3);
    let (client_end, server_end) = memory_pair();
    let extension = Extension::SoftSpoken(GroupBits::Four);
    let wanted = |k: usize| {
        asked
            .iter()
            .find(|(at, _)| *at == k)
            .map(|(_, steps)| *steps)
    };
    let secure = thread::scope(|scope| {
        let weights = Arc::clone(&public);
        let adapter = Arc::clone(&private);
        scope.spawn(move || {
            let peer = Box::new(server_end);
            let session = ServerSession::without_dealer(weights, adapter, peer, extension);
            let mut session = session
                .unwrap()
                .with_products(products)
                .preparing_when_asked();
            session.prefill(spec.bucket(STEPS[0])).unwrap();
            for (k, &rows) in STEPS.iter().enumerate().skip(1) {
                if let Some(steps) = wanted(k) {
                    session.prepare(steps).unwrap();
                }
                session.extend(rows).unwrap();
            }
        });
        let session =
            ClientSession::without_dealer(Arc::clone(&public), Box::new(client_end), extension);
        let mut session = session
            .unwrap()
            .with_products(products)
            .preparing_when_asked();
        let tokens = tokens(spec, &mut session, |k, session| {
            if let Some(steps) = wanted(k) {
                let before = session.prepared();
                assert_eq!(session.prepare(steps).unwrap(), steps);
                assert_eq!(session.prepared(), before + steps, "before step {k}");
            }
        });
        let made = session.take_preparations();
        let made: Vec<[usize; 2]> = made.iter().map(|made| [made.rows, made.steps]).collect();
        if products == Products::Ahead {
            // Nothing is prepared unasked but the step that runs.
            let asked: Vec<[usize; 2]> = asked.iter().map(|(_, steps)| [1, *steps]).collect();
            assert!(
                made.iter().all(|made| made[1] == 1 || asked.contains(made)),
                "{made:?}"
            );
        }
        tokens
    });
    [secure, expected(&public, &private)]
}

#[test]
fn turns_with_a_dealer_are_the_twins() {
    let specs = [
        tiny_spec(),
        with_mixed_heads(tiny_spec()),
        with_private_matrices(tiny_spec()),
    ];
    for spec in specs {
        for dcf in [false, true] {
            let [secure, twin] = with_dealer(&spec, dcf);
            assert_eq!(secure, twin, "dcf {dcf}");
        }
    }
}

#[test]
fn turns_of_two_parties_are_the_twins() {
    let spec = tiny_spec();
    for products in [Products::Ahead, Products::Lattices, Products::Transfers] {
        let [secure, twin] = alone(&spec, products, &[]);
        assert_eq!(secure, twin, "{products:?}");
    }
}

/// What was prepared for single rows is dropped where a turn of several comes: their keys lie
/// before it.
#[test]
fn turns_drop_what_was_prepared_for_single_rows() {
    let asked = [(1, 2), (2, 7), (4, 1), (6, 4)];
    let [secure, twin] = alone(&tiny_spec(), Products::Ahead, &asked);
    assert_eq!(secure, twin);
}

/// A peer that went away in the middle may have seen masked values: their masks are spent.
#[test]
fn nothing_follows_a_step_that_failed() {
    let (public, private) = random_weights(&tiny_spec(), 3);
    let rows = rows_of(&public.spec);
    let seed = Seed::from_bytes([1; 32]);
    let adapter = private.mask(&public.spec, &seed);
    let (end, other) = memory_pair();
    drop(other);
    let session = ClientSession::new(Arc::clone(&public), &adapter, seed, Box::new(end));
    let mut dealt = session.unwrap();

    let (end, other) = memory_pair();
    let extension = Extension::SoftSpoken(GroupBits::Four);
    let weights = Arc::clone(&public);
    let mut alone = thread::scope(|scope| {
        scope.spawn(move || {
            let session =
                ServerSession::without_dealer(weights, private, Box::new(other), extension);
            drop(session.unwrap());
        });
        ClientSession::without_dealer(Arc::clone(&public), Box::new(end), extension).unwrap()
    });
    let failures = [
        [
            dealt.prefill(&rows[0]),
            dealt.prefill(&rows[0]),
            dealt.decode(&rows[1]),
        ],
        [
            alone.prefill(&rows[0]),
            alone.prefill(&rows[0]),
            alone.decode(&rows[1]),
        ],
    ];
    for [first, again, next] in failures {
        assert!(!matches!(first.unwrap_err(), ProtocolError::Spent));
        assert!(matches!(again.unwrap_err(), ProtocolError::Spent));
        assert!(matches!(next.unwrap_err(), ProtocolError::Spent));
    }
    assert!(matches!(
        alone.prepare(2).unwrap_err(),
        ProtocolError::Spent
    ));
}

#[test]
fn a_turn_without_a_prompt_is_refused() {
    let (public, private) = random_weights(&tiny_spec(), 3);
    let seed = Seed::from_bytes([1; 32]);
    let adapter = private.mask(&public.spec, &seed);
    let (end, _other) = memory_pair();
    let session = ClientSession::new(Arc::clone(&public), &adapter, seed, Box::new(end));
    let rows = rows_of(&public.spec).swap_remove(3);
    let mut session = session.unwrap();
    for rows in [&rows[..], &[], &rows[1..]] {
        let error = session.extend(rows).unwrap_err();
        assert!(matches!(error, ProtocolError::MissingInput), "{error}");
    }
}
