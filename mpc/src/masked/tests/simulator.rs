//! A party cannot tell its view from random bytes of the right sizes.

use super::*;

/// Each evaluator runs to its end against random bytes of the right sizes: nothing in its code
/// depends on what the bytes say, and it sends frames of the same sizes.
#[test]
fn each_party_runs_against_a_simulator_of_shapes() {
    runs_against_a_simulator(&Fixture::new(3));
    runs_against_a_simulator(&Fixture::full(3));
    runs_against_a_simulator(&Fixture::stochastic(3));
    runs_against_a_simulator(&Fixture::new(3).sampling(1.0, None));
    runs_against_a_simulator(&Fixture::new(3).sampling(1.0, Some(5)));
    runs_against_a_simulator(&Fixture::new(3).uses_dcf());
}

fn runs_against_a_simulator(fixture: &Fixture) {
    let input = fixture.input(9, 10);
    let run = fixture.record(&input, None);
    let mut prg = Prg::new(&Seed::from_bytes([99; 32]), "simulator");
    let mut random = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let fill = |f: &Vec<u8>| prg.words(f.len()).into_iter().map(|w| w as u8).collect();
        frames.iter().map(fill).collect()
    };
    let (log, unused): (Log, Log) = Default::default();
    let messages = random(&run.client_frames);
    let corrections = random(&run.corrections);
    let mut server = fixture.server(
        Replay::new(messages, &log),
        Replay::new(corrections, &unused),
    );
    fixture.steps(&mut server, None, 16);
    let sizes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&take(&log)), sizes(&run.server_frames));

    let client = fixture.client(Replay::new(random(&run.server_frames), &log));
    let mut client = fixture.with_dcf_keys(client, Replay::new(random(&run.dcf_keys), &unused));
    fixture.steps(&mut client, Some(&input), 16);
    assert_eq!(sizes(&take(&log)), sizes(&run.client_frames));
}

/// What leaves a party looks uniform: over 100,000 bytes no byte value is far from its share.
#[test]
fn messages_and_corrections_look_uniform() {
    look_uniform(Fixture::new(4));
    look_uniform(Fixture::full(4));
    look_uniform(Fixture::stochastic(4));
}

fn look_uniform(fixture: Fixture) {
    let run = fixture.record(&fixture.input(10, 16), None);
    let uses_dcf = fixture.uses_dcf();
    let other = uses_dcf.record(&uses_dcf.input(10, 16), None);
    for (name, frames) in [
        ("client", &run.client_frames),
        ("server", &run.server_frames),
        ("source", &run.corrections),
        ("dealer with DCF", &other.corrections),
        ("source to the client", &other.dcf_keys),
    ] {
        let bytes = frames.concat();
        let mut counts = [0f64; 256];
        bytes.iter().for_each(|&b| counts[usize::from(b)] += 1.0);
        let mean = bytes.len() as f64 / 256.0;
        let chi_square: f64 = counts.iter().map(|c| (c - mean).powi(2) / mean).sum();
        // Of 255 degrees of freedom, 5.5 standard deviations above the mean. Enough bytes that
        // every value is expected hundreds of times.
        assert!(
            bytes.len() > 100_000 && chi_square < 380.0,
            "{name}: {chi_square} over {} bytes",
            bytes.len()
        );
    }
}
