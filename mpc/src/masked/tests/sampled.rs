//! The bytes of sessions that sample, under fixed seeds and fixed noise; those of greedy sessions
//! are in `mpc/tests/transcripts.rs`, which cannot fix the noise.

use super::*;
use crate::masked::hooks::{EvaluatorRandomness, EvaluatorStreams};

/// E1's own streams, and noise that is the same in every run.
pub(super) struct FixedNoise(EvaluatorStreams);

impl FixedNoise {
    pub(super) fn new(seed: &Seed) -> Self {
        Self(EvaluatorStreams::new(seed))
    }
}

impl EvaluatorRandomness for FixedNoise {
    fn wire_masks(&mut self, share: &[u64], bits: u32, revealed_bits: (u32, bool)) -> Vec<u64> {
        self.0.wire_masks(share, bits, revealed_bits)
    }

    fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
        self.0.plane_masks(plane, n)
    }

    fn noise_key(&mut self) -> Seed {
        Seed::from_bytes([14; 32])
    }
}

/// The first bytes of the SHA-256 of all frames with their lengths.
fn digest(frames: &[Vec<u8>]) -> String {
    let mut hash = Sha256::new();
    for frame in frames {
        hash.update((frame.len() as u64).to_le_bytes());
        hash.update(frame);
    }
    hash.finalize()[..6]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[test]
fn a_sampled_session_sends_the_bytes_it_always_sent() {
    let fixtures = [
        ("temperature", Fixture::new(1).sampling(0.8, None)),
        ("top-k", Fixture::new(1).sampling(0.8, Some(5))),
        (
            "top-k, DCF",
            Fixture::new(1).sampling(0.8, Some(5)).uses_dcf(),
        ),
        ("top-k, GPT-2", Fixture::gpt2(1).sampling(0.8, Some(5))),
        (
            "top-k, stochastic",
            Fixture::stochastic(1).sampling(0.8, Some(5)),
        ),
    ];
    let found: Vec<String> = fixtures
        .into_iter()
        .map(|(name, fixture)| {
            let fixture = Fixture {
                fixed_noise: true,
                ..fixture
            };
            let run = fixture.record(&fixture.input(7, 9), None);
            let links = [
                &run.client_frames,
                &run.server_frames,
                &run.corrections,
                &run.dcf_keys,
            ];
            let digests = links.map(|frames| digest(frames)).join(" ");
            format!("{name}: {digests}, tokens {:?}", run.tokens)
        })
        .collect();
    assert_eq!(found.join("\n"), EXPECTED);
}

/// From E0, from E1, from the dealer to E1 and to E0. The noise is made with logarithms of the
/// platform, which may differ in their last bit: then so may one value in millions.
const EXPECTED: &str = "\
temperature: bcfa95d1ac67 3c4e5a2befe3 090388adbf35 e3b0c44298fc, tokens [Some(60), Some(60)]
top-k: dcbc807f65b8 e6747c6a9f24 213d9ab94c1e e3b0c44298fc, tokens [Some(82), Some(8)]
top-k, DCF: 560db1979bd8 f41a5a7b1bf1 a110a92df1e3 b7438054becb, tokens [Some(82), Some(8)]
top-k, GPT-2: c69c7d8e3dc6 3119346be424 75f92411e08d e3b0c44298fc, tokens [Some(68), Some(97)]
top-k, stochastic: fcaa3ad6d437 1e8a526f34df 6e9ea471e613 e3b0c44298fc, tokens [Some(82), Some(8)]";
