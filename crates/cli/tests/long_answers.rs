//! Long private answers of a real model through dealer, server and gateway as separate processes.
//!
//! `MARILL_PARTITION=DIR cargo test -p marill --test long_answers -- --ignored --nocapture
//! --test-threads 1`, where `DIR` is an export of a fine-tuned model.

use std::{
    path::PathBuf,
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use marill_mpc::Twin;
use marill_partition::Partition;
use marill_testkit::processes::{Service, World};
use serde_json::{Value, json};

const PROMPTS: [&str; 2] = [
    "Stocks fell on Monday after",
    "The committee met in Geneva and",
];
const ANSWER_TOKENS: usize = 48;

fn partition() -> PathBuf {
    PathBuf::from(std::env::var_os("MARILL_PARTITION").expect("MARILL_PARTITION names an export"))
}

fn body(prompt: &str) -> Value {
    json!({
        "prompt": prompt, "max_tokens": ANSWER_TOKENS, "ignore_eos": true, "return_token_ids": true,
        "stream": true, "stream_options": { "include_usage": true },
    })
}

/// What the plaintext twin answers, end tokens passed over.
fn twin(partition: &Partition, prompt: &str) -> Vec<u32> {
    let public = Arc::new(partition.public_weights().unwrap());
    let private = Arc::new(partition.private_weights(&public).unwrap());
    let mut prefix = partition.prefix().unwrap();
    let mut twin = Twin::new(public, private);
    let mut input = partition.tokenizer().encode(prompt).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < ANSWER_TOKENS {
        let boundary = partition
            .program_spec()
            .encode(&prefix.forward(&input).unwrap())
            .unwrap();
        let token = if tokens.is_empty() {
            twin.prefill(&boundary)
        } else {
            twin.decode(&boundary)
        }
        .unwrap();
        tokens.push(token);
        input = vec![token];
    }
    tokens
}

/// An answer's ids and the moments of its pieces.
fn ask(gateway: &Service, prompt: &str) -> (Vec<u32>, Vec<Instant>, Value) {
    let events = gateway.timed_stream("/v1/completions", &body(prompt));
    let moments = events.iter().map(|(moment, _)| *moment).collect();
    let chunks: Vec<Value> = events
        .iter()
        .filter_map(|(_, event)| serde_json::from_str(event).ok())
        .collect();
    let last = chunks
        .iter()
        .find(|chunk| chunk["choices"][0]["token_ids"].is_array())
        .expect("the last chunk has ids");
    let ids = last["choices"][0]["token_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32);
    assert_eq!(
        chunks.last().unwrap()["usage"]["completion_tokens"],
        ANSWER_TOKENS
    );
    (ids.collect(), moments, last["marill"].clone())
}

/// How often a token of one answer follows one of the other.
fn turns(moments: &[Vec<Instant>]) -> usize {
    let mut order: Vec<(Instant, usize)> = moments
        .iter()
        .enumerate()
        .flat_map(|(session, moments)| moments.iter().map(move |m| (*m, session)))
        .collect();
    order.sort_unstable();
    order
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].1)
        .count()
}

#[test]
#[ignore = "needs a real model: name its export in MARILL_PARTITION"]
fn long_answers_equal_the_twins_alone_and_two_at_once() {
    let folder = partition();
    let open = Partition::open(&folder).unwrap();
    let expected = PROMPTS.map(|prompt| twin(&open, prompt));
    drop(open);
    let world = World::with_partition(folder);
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);

    let started = Instant::now();
    let (ids, _, cost) = ask(&gateway, PROMPTS[0]);
    let first = started.elapsed().as_secs_f64();
    assert_eq!(ids, expected[0], "the first answer differs from the twin's");
    println!(
        "{ANSWER_TOKENS} tokens, first answer with the adapter's download: {first:.1} s; {cost}"
    );

    let started = Instant::now();
    assert_eq!(ask(&gateway, PROMPTS[0]).0, expected[0]);
    let one = started.elapsed().as_secs_f64();

    let barrier = Barrier::new(2);
    let started = Instant::now();
    let moments = thread::scope(|scope| {
        let tasks: Vec<_> = PROMPTS
            .iter()
            .zip(&expected)
            .map(|(prompt, expected)| {
                let gateway = &gateway;
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let (ids, moments, _) = ask(gateway, prompt);
                    assert_eq!(
                        &ids, expected,
                        "an answer beside another differs from the twin's"
                    );
                    moments
                })
            })
            .collect();
        tasks
            .into_iter()
            .map(|task| task.join().unwrap())
            .collect::<Vec<_>>()
    });
    let two = started.elapsed().as_secs_f64();

    let turns = turns(&moments);
    println!(
        "one: {one:.1} s, two at once: {two:.1} s, ratio {:.2}, {turns} turns",
        two / one
    );
    assert!(
        turns >= ANSWER_TOKENS / 2,
        "the steps do not interleave: {turns} turns"
    );
    // Twice the work on the same cores, and a tenth for taking turns.
    assert!(
        two <= 2.2 * one,
        "two at once take {:.2} times as long as one",
        two / one
    );
}
