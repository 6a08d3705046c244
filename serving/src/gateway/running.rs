//! Answers in the making, for whoever looks at how far they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use marill_mpc::cost::Cost;
use serde_json::{Value, json};

use crate::client::{Client, Event, StepProgress};

/// All of one gateway.
#[derive(Default)]
pub(super) struct Running {
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    next: u64,
    by_number: BTreeMap<u64, Answer>,
}

/// An answer in the making.
struct Answer {
    id: String,
    client: Arc<Client>,
    phase: &'static str,
    began: Instant,
    phase_began: Instant,
    tokens: usize,
    prompt: Option<Prompt>,
}

/// The step of its prompt.
struct Prompt {
    progress: StepProgress,
    /// Counted once somewhere else, when it is first asked for.
    tally: Arc<OnceLock<Option<Cost>>>,
    is_asked: bool,
}

/// Keeps an answer in the list until it is dropped.
pub(super) struct Entry {
    running: Arc<Running>,
    number: u64,
}

impl Running {
    /// Lists an answer, which waits for its turn.
    pub(super) fn enter(self: &Arc<Self>, id: &str, client: Arc<Client>) -> Entry {
        let now = Instant::now();
        let mut answers = self.answers();
        let number = answers.next;
        answers.next += 1;
        let answer = Answer {
            id: id.into(),
            client,
            phase: "waiting",
            began: now,
            phase_began: now,
            tokens: 0,
            prompt: None,
        };
        answers.by_number.insert(number, answer);
        Entry {
            running: self.clone(),
            number,
        }
    }

    /// All answers, in the order in which they came. What a prompt will cost is counted on a
    /// thread of the runtime; until then it is not said.
    pub(super) fn told(&self) -> Vec<Value> {
        let mut answers = self.answers();
        answers.by_number.values_mut().map(Answer::told).collect()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Notes what happens to the answer.
    pub(super) fn hear(&self, event: &Event) {
        let mut answers = self.running.answers();
        let Some(answer) = answers.by_number.get_mut(&self.number) else {
            return;
        };
        match event {
            Event::Phase(phase) => answer.enter(phase),
            Event::Step(progress) => {
                answer.prompt = Some(Prompt {
                    progress: progress.clone(),
                    tally: Arc::default(),
                    is_asked: false,
                });
            }
            Event::Text(_) => {}
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.answers().by_number.remove(&self.number);
    }
}

impl Answer {
    fn enter(&mut self, phase: &'static str) {
        self.tokens += usize::from(phase == "token");
        if self.phase != phase {
            self.phase = phase;
            self.phase_began = Instant::now();
        }
        if phase == "session" {
            // Of a kept session that was lost.
            self.prompt = None;
        }
    }

    fn told(&mut self) -> Value {
        let bytes = self.prompt.as_ref().map(|prompt| prompt.progress.bytes());
        let tally = match &mut self.prompt {
            Some(prompt) if self.phase == "prefill" => prompt.tally(&self.client),
            _ => None,
        };
        let expected_bytes = tally.map(|cost| cost.e0_to_e1_bytes + cost.e1_to_e0_bytes);
        json!({
            "id": self.id, "phase": self.phase,
            "seconds": self.began.elapsed().as_secs_f64(),
            "phase_seconds": self.phase_began.elapsed().as_secs_f64(),
            "tokens": self.tokens,
            "bytes": bytes,
            "expected_bytes": expected_bytes,
            "expected_rounds": tally.map(|cost| cost.rounds),
            "is_estimate": self.client.parameters.is_two_party(),
        })
    }
}

impl Prompt {
    /// What it will cost, where that is counted by now.
    fn tally(&mut self, client: &Arc<Client>) -> Option<Cost> {
        if !self.is_asked {
            self.is_asked = true;
            let tally = self.tally.clone();
            let client = client.clone();
            let shape = self.progress.shape;
            tokio::task::spawn_blocking(move || {
                let counted = client.tallied(shape);
                let counted = counted.inspect_err(|error| {
                    tracing::warn!("what a prompt will cost cannot be counted: {error}");
                });
                let _ = tally.set(counted.ok().flatten());
            });
        }
        self.tally.get().copied().flatten()
    }
}
