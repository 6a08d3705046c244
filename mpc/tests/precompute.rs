//! Sessions whose E0 has precomputed its products of masks send what other sessions send.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use marill_mpc::{
    ClientSession, DealerSession, Precomputer, ProgramSpec, Seed, ServerSession,
    random_model::{gaussian, random_weights, tiny_spec, with_private_matrices},
};
use marill_net::{Channel, NetError, memory_pair};

/// Keeps what is sent.
struct Recorded(Box<dyn Channel>, Arc<Mutex<Vec<Vec<u8>>>>);

impl Channel for Recorded {
    fn send(&mut self, payload: Vec<u8>) -> Result<(), NetError> {
        self.1.lock().unwrap().push(payload.clone());
        self.0.send(payload)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.0.recv()
    }
}

const PROMPT: usize = 5;
const STEPS: usize = 3;

/// What a session gave and sent.
#[derive(PartialEq, Eq)]
struct Run {
    tokens: Vec<u32>,
    /// E0's messages, and E1's.
    sent: [Vec<Vec<u8>>; 2],
}

/// A session of a prompt and some tokens; `before(k, ..)` is called before step `k`. Also how many
/// reveals were precomputed.
fn run(
    spec: &ProgramSpec,
    before: impl Fn(u64, &mut Precomputer, &mut ClientSession),
) -> (Run, u64) {
    let (public, private) = random_weights(spec, 3);
    let [adapter_seed, seed0, seed1] = [1, 2, 3].map(|k| Seed::from_bytes([k; 32]));
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    let records: [Arc<Mutex<Vec<Vec<u8>>>>; 2] = Default::default();
    let client_end = Recorded(Box::new(client_end), Arc::clone(&records[0]));
    let server_end = Recorded(Box::new(server_end), Arc::clone(&records[1]));
    let adapter = private.mask(spec, &adapter_seed);
    let (tokens, precomputed) = thread::scope(|scope| {
        let seeds = (seed0.clone(), seed1.clone());
        scope.spawn(move || {
            let mut session =
                DealerSession::new(spec.clone(), adapter_seed, seeds.0, seeds.1, Box::new(sink));
            session.prefill(spec.bucket(PROMPT)).unwrap();
            (0..STEPS).for_each(|_| session.decode().unwrap());
        });
        let weights = Arc::clone(&public);
        let private = &private;
        scope.spawn(move || {
            let mut session = ServerSession::new(
                weights,
                private,
                seed1,
                Box::new(server_end),
                Box::new(stream),
            )
            .unwrap();
            session.prefill(spec.bucket(PROMPT)).unwrap();
            (0..STEPS).for_each(|_| session.decode().unwrap());
        });
        let mut session =
            ClientSession::new(Arc::clone(&public), &adapter, seed0, Box::new(client_end)).unwrap();
        let mut precomputer = session.precomputer().unwrap();
        let mut tokens = Vec::new();
        for k in 0..=STEPS {
            let rows = if k == 0 { PROMPT } else { 1 };
            let row = spec
                .encode(&gaussian(
                    k as u64,
                    "boundary",
                    rows * spec.hidden_size,
                    1.0,
                ))
                .unwrap();
            before(k as u64, &mut precomputer, &mut session);
            tokens.push(
                if k == 0 {
                    session.prefill(&row)
                } else {
                    session.decode(&row)
                }
                .unwrap(),
            );
        }
        (tokens, session.precomputed())
    });
    let sent = records.map(|record| std::mem::take(&mut *record.lock().unwrap()));
    (Run { tokens, sent }, precomputed)
}

/// A prompt and tokens of every kind of private layer.
#[test]
fn prepared_steps_send_the_same_bytes() {
    let mixed = |ranks: [usize; 7]| tiny_spec().with_ranks(ranks.to_vec());
    for (spec, a_layer) in [
        (tiny_spec(), 4),
        (with_private_matrices(tiny_spec()), 4),
        (mixed([1, 4, 0, 2, 8, 3, 16]), 4),
        (mixed([2, 1, 3, 0, 5, 1, 0]), 2),
    ] {
        let reveals = (a_layer * spec.num_layers) as u64;
        let (plain, none) = run(&spec, |_, _, _| {});
        assert_eq!(none, 0);
        let bucket = spec.bucket(PROMPT);
        let (precomputed, taken) = run(&spec, |k, precomputer, session| match k {
            0 => {
                session.accept(precomputer.precompute(0, bucket).unwrap());
                session.accept(precomputer.next_decode().unwrap());
                session.accept(precomputer.next_decode().unwrap());
            }
            1 | 2 => {}
            _ => session.accept(precomputer.next_decode().unwrap()),
        });
        assert_eq!(
            taken,
            reveals * (1 + STEPS as u64),
            "every product was there"
        );
        assert!(precomputed == plain, "messages or tokens differ");
    }
}

/// What does not fit is made again under the same masks, which nobody has used.
#[test]
fn steps_of_another_shape_and_late_ones_are_dropped() {
    let spec = tiny_spec();
    let (plain, _) = run(&spec, |_, _, _| {});
    let (other, taken) = run(&spec, |k, precomputer, session| match k {
        0 => session.accept(precomputer.precompute(0, spec.bucket(PROMPT) + 16).unwrap()),
        2 => {
            session.accept(precomputer.precompute(1, 1).unwrap());
            session.accept(precomputer.precompute(2, 2).unwrap());
        }
        _ => {}
    });
    assert_eq!(taken, 0);
    assert!(other == plain, "messages or tokens differ");
}

/// A preparer does not run after what a session has left behind.
#[test]
fn a_late_preparer_goes_on_where_the_session_is() {
    let spec = tiny_spec();
    let (plain, _) = run(&spec, |_, _, _| {});
    let (late, taken) = run(&spec, |k, precomputer, session| {
        if k == 2 {
            session.accept(precomputer.next_decode().unwrap());
        }
    });
    assert_eq!(taken, (4 * spec.num_layers) as u64);
    assert!(late == plain, "messages or tokens differ");
}
