//! Many questions at once get the replies that they get one by one.

use marill_evals::{
    EvalError,
    engine::{Engine, FloatEngine, Reply, Request, TwinEngine},
};
use marill_model::{Adapter, Checkpoint, FloatModel, Transforms};
use marill_partition::{ExportOptions, Partition, export};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

/// Scores of a pass and of one sequence alone, per token: 32-bit logits near 10 are known to
/// 1e-6, and what a few layers do to it stays far below this.
const NOISE: f64 = 1e-4;

struct Fixture {
    base: Checkpoint,
    transforms: Transforms,
    adapter: Adapter,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = tiny_base(&dir.path().join("base"), 5).unwrap();
        let transforms = tiny_transforms(&base.config, true);
        let adapter = tiny_adapter(&base.config, &transforms, 6).unwrap();
        Self {
            base,
            transforms,
            adapter,
            dir,
        }
    }

    fn engine(&self) -> FloatEngine {
        FloatEngine::new(&self.base, &self.transforms, Some(&self.adapter)).unwrap()
    }

    /// The replies of one sequence at a time, each read from its beginning.
    fn alone(&self, request: &Request) -> (Vec<f64>, Vec<u32>) {
        let mut model = FloatModel::new(&self.base, &self.transforms, Some(&self.adapter)).unwrap();
        let scores = request.continuations.iter().map(|continuation| {
            model.reset();
            let tokens = [&request.prompt[..], continuation].concat();
            let rows = model.all_logits(&tokens).unwrap().to_vec2().unwrap();
            let behind = &rows[request.prompt.len() - 1..];
            let parts = behind.iter().zip(continuation);
            parts.map(|(row, &token)| log_softmax(row, token)).sum()
        });
        let scores = scores.collect();
        let mut answer = Vec::new();
        let mut tokens = request.prompt.clone();
        while answer.len() < request.max_new_tokens.unwrap_or(0) {
            model.reset();
            let logits = model.logits(&tokens).unwrap();
            let best = (0..logits.len())
                .rev()
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            let token = best.unwrap() as u32;
            if ends(&answer, token) {
                break;
            }
            answer.push(token);
            tokens.push(token);
        }
        (scores, answer)
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        self.base.tokenizer.encode(text).unwrap()
    }

    /// Questions with a common beginning, but one; labels that begin others, one of them the first
    /// tokens of the greedy answer; answers of many lengths.
    fn requests(&self) -> Vec<Request> {
        let topics = [
            "rain",
            "a goal",
            "",
            "the markets fell on Monday",
            "x",
            "Mars",
        ];
        let mut requests: Vec<Request> = topics
            .iter()
            .enumerate()
            .map(|(nth, topic)| Request {
                prompt: self.tokens(&format!("What is this about? {topic}:")),
                continuations: ["news", "new", "newspaper", "sports", "s", "news", ""]
                    .map(|label| self.tokens(label))
                    .to_vec(),
                max_new_tokens: Some(3 * nth),
            })
            .collect();
        requests[3].prompt.drain(..7);
        requests[4].continuations.clear();
        requests[5].max_new_tokens = None;
        for request in &mut requests[..2] {
            request.max_new_tokens = Some(6);
            let (_, answer) = self.alone(request);
            request.continuations.push(answer[..3].to_vec());
            request.continuations.push([&answer[..2], &[1, 2]].concat());
        }
        requests
    }
}

fn log_softmax(logits: &[f32], token: u32) -> f64 {
    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    f64::from(logits[token as usize]) - sum.ln()
}

/// A stop that depends on the answer so far.
fn ends(answer: &[u32], token: u32) -> bool {
    answer.len() > 4 && token.is_multiple_of(5)
}

fn replies(
    engine: &mut dyn Engine,
    requests: &[Request],
    at_once: Option<usize>,
) -> Vec<(Vec<f64>, Vec<u32>)> {
    let mut replies = vec![None; requests.len()];
    let mut listen = |heard: Vec<(usize, Reply)>| {
        for (nth, Reply { scores, answer }) in heard {
            assert!(replies[nth].is_none(), "one reply to request {nth}");
            replies[nth] = Some((scores?, answer?));
        }
        Ok(())
    };
    engine
        .answer_all(requests, &ends, at_once, &mut listen)
        .unwrap();
    replies.into_iter().map(Option::unwrap).collect()
}

#[test]
fn replies_of_a_batch_are_those_of_each_alone() {
    let fixture = Fixture::new();
    let requests = fixture.requests();
    for at_once in [Some(1), Some(2), Some(5), None] {
        let mut engine = fixture.engine();
        // Again, with a beginning that is cached already.
        for _ in 0..2 {
            let found = replies(&mut engine, &requests, at_once);
            for (request, (scores, answer)) in requests.iter().zip(&found) {
                let (expected, greedy) = fixture.alone(request);
                assert_eq!(*answer, greedy, "{at_once:?}");
                assert_eq!(scores.len(), expected.len());
                for (a, b) in scores.iter().zip(expected) {
                    assert!((a - b).abs() < NOISE, "{at_once:?}: {a} against {b}");
                }
            }
        }
    }
}

#[test]
fn single_methods_are_batches_of_one() {
    let fixture = Fixture::new();
    let mut engine = fixture.engine();
    for request in fixture.requests() {
        let (expected, greedy) = fixture.alone(&request);
        let scores = engine
            .score(&request.prompt, &request.continuations)
            .unwrap();
        for (a, b) in scores.iter().zip(expected) {
            assert!((a - b).abs() < NOISE, "{a} against {b}");
        }
        let most = request.max_new_tokens.unwrap_or(0);
        assert_eq!(
            engine.generate(&request.prompt, most, &ends).unwrap(),
            greedy
        );
        let scores = engine.token_scores(&request.prompt).unwrap();
        let pairs = request.prompt.windows(2).count();
        assert_eq!(scores.len(), pairs);
        let sum: f64 = scores.iter().sum();
        let rest = Request {
            prompt: request.prompt[..1].to_vec(),
            continuations: vec![request.prompt[1..].to_vec()],
            max_new_tokens: None,
        };
        let (expected, _) = fixture.alone(&rest);
        assert!((sum - expected[0]).abs() < NOISE * pairs as f64, "{sum}");
    }
}

#[test]
fn an_error_of_the_listener_ends_the_batch() {
    let fixture = Fixture::new();
    let mut engine = fixture.engine();
    let requests = fixture.requests();
    let mut heard = 0;
    let error = engine.answer_all(&requests, &ends, None, &mut |_| {
        heard += 1;
        Err(EvalError::PartyEnded {
            party: "the listener",
        })
    });
    assert!(
        matches!(error, Err(EvalError::PartyEnded { .. })),
        "{error:?}"
    );
    assert_eq!(heard, 1);
    let (_, answer) = &replies(&mut engine, &requests, None)[1];
    assert_eq!(*answer, fixture.alone(&requests[1]).1, "the engine goes on");
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    let fixture = Fixture::new();
    let mut engine = fixture.engine();
    let mut requests = fixture.requests();
    requests[1].prompt = vec![5; engine.context() + 1];
    let error = engine
        .answer_all(&requests, &ends, None, &mut |_| Ok(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&engine.context().to_string()), "{error}");
}

#[test]
fn an_empty_prompt_is_refused_by_its_number() {
    let fixture = Fixture::new();
    let mut engine = fixture.engine();
    for nth in [0, 2] {
        let mut requests = fixture.requests();
        requests[nth].prompt.clear();
        let mut heard = 0;
        let error = engine
            .answer_all(&requests, &ends, None, &mut |_| {
                heard += 1;
                Ok(())
            })
            .unwrap_err();
        assert!(
            error.to_string().contains(&format!("request {nth}")),
            "{error}"
        );
        assert_eq!(heard, 0, "before anything is computed");
    }
    assert!(engine.score(&[], &[vec![1]]).is_err());
    assert!(engine.generate(&[], 3, &ends).is_err());
}

#[test]
fn the_twins_replies_do_not_depend_on_what_was_read_before() {
    let fixture = Fixture::new();
    let out = fixture.dir.path().join("out");
    let options = ExportOptions::default();
    export(
        &fixture.base,
        &fixture.transforms,
        &fixture.adapter,
        &out,
        &options,
    )
    .unwrap();
    let partition = Partition::open(&out).unwrap();
    let requests = fixture.requests();
    let mut engine = TwinEngine::new(&partition).unwrap();
    // Twice: the second time every beginning is there, for every padding.
    for _ in 0..2 {
        let found = replies(&mut engine, &requests, None);
        for (request, (scores, answer)) in requests.iter().zip(&found) {
            let mut fresh = TwinEngine::new(&partition).unwrap();
            let most = request.max_new_tokens.unwrap_or(0);
            assert_eq!(
                *answer,
                fresh.generate(&request.prompt, most, &ends).unwrap()
            );
            let expected = fresh
                .score(&request.prompt, &request.continuations)
                .unwrap();
            assert_eq!(*scores, expected, "the same integers, so the same scores");
        }
    }
}
