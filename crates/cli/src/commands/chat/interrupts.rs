//! Ctrl-C while an answer is made: stops the answer, not the program.
//!
//! Between two tokens an answer stops by itself, and its session can go on with the next question.
//! A step that takes long is cut off with its connections; what it took of masks is spent then, and
//! the next question has a session of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use marill_net::Cutter;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};

/// For so long a token that is being computed may go on.
const GRACE: Duration = Duration::from_secs(2);

/// Watches for SIGINT from now on; without an answer in the making it does nothing.
pub struct Interrupts(Arc<Shared>);

struct Shared {
    cutter: Cutter,
    answer: Mutex<Answer>,
}

/// The answer in the making, or the last one.
#[derive(Default)]
struct Answer {
    number: u64,
    stage: Stage,
    is_stopped: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Done,
    /// Nothing of it is there yet, and nothing is lost but the work.
    Prompt,
    Tokens,
}

/// What a signal meant.
enum Asked {
    Nothing,
    /// To stop this answer at its next token.
    Soon(u64),
    /// To stop this answer now.
    Now(u64),
}

impl Interrupts {
    /// # Errors
    /// A system that tells of no signals.
    pub fn watch(cutter: Cutter) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.context("cannot watch for Ctrl-C")?;
        let signals = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?
        };
        let shared = Arc::new(Shared {
            cutter,
            answer: Mutex::default(),
        });
        let watched = shared.clone();
        std::thread::Builder::new()
            .name("ctrl-c".into())
            .spawn(move || runtime.block_on(follow(signals, &watched)))
            .context("cannot watch for Ctrl-C")?;
        Ok(Self(shared))
    }

    /// An answer begins, with its prompt.
    pub fn begin(&self) {
        let mut answer = self.0.lock();
        answer.number += 1;
        (answer.stage, answer.is_stopped) = (Stage::Prompt, false);
        self.0.cutter.renew();
    }

    /// The prompt is read, and its tokens come.
    pub fn tokens_come(&self) {
        self.0.lock().stage = Stage::Tokens;
    }

    /// Whether the answer is to stop.
    pub fn is_stopped(&self) -> bool {
        self.0.lock().is_stopped
    }

    /// The answer has ended, however; whether it was stopped.
    pub fn end(&self) -> bool {
        let mut answer = self.0.lock();
        answer.stage = Stage::Done;
        answer.is_stopped
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> Asked {
        let mut answer = self.lock();
        match (
            answer.stage,
            std::mem::replace(&mut answer.is_stopped, true),
        ) {
            (Stage::Done, _) => Asked::Nothing,
            (Stage::Tokens, false) => Asked::Soon(answer.number),
            (Stage::Prompt, _) | (Stage::Tokens, true) => Asked::Now(answer.number),
        }
    }

    /// Ends the connections of an answer that still goes on.
    fn cut(&self, number: u64) {
        let answer = self.lock();
        if answer.number == number && answer.stage != Stage::Done {
            self.cutter.cut();
        }
    }
}

/// Follows signals until none can come any more.
async fn follow(mut signals: Signal, shared: &Shared) {
    // The answer that is to stop soon, and until when that may take.
    let mut soon: Option<(Instant, u64)> = None;
    loop {
        let told = match soon {
            None => signals.recv().await,
            Some((until, number)) => match timeout_at(until, signals.recv()).await {
                Ok(told) => told,
                Err(_) => {
                    soon = None;
                    shared.cut(number);
                    continue;
                }
            },
        };
        if told.is_none() {
            return;
        }
        match shared.ask() {
            Asked::Nothing => {}
            Asked::Soon(number) => soon = Some((Instant::now() + GRACE, number)),
            Asked::Now(number) => shared.cut(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupts() -> Interrupts {
        Interrupts(Arc::new(Shared {
            cutter: Cutter::default(),
            answer: Mutex::default(),
        }))
    }

    #[test]
    fn a_prompt_is_cut_off_and_a_token_is_not() {
        let at = interrupts();
        at.begin();
        assert!(matches!(at.0.ask(), Asked::Now(1)));
        at.begin();
        at.tokens_come();
        assert!(!at.is_stopped());
        assert!(matches!(at.0.ask(), Asked::Soon(2)) && at.is_stopped());
        assert!(matches!(at.0.ask(), Asked::Now(2)), "asked again");
    }

    #[test]
    fn no_other_answer_is_cut_off() {
        let at = interrupts();
        at.begin();
        at.tokens_come();
        let Asked::Soon(number) = at.0.ask() else {
            panic!("it is asked to stop");
        };
        assert!(at.end());
        at.0.cut(number);
        assert!(!at.0.cutter.is_cut(), "it has ended");
        at.begin();
        at.0.cut(number);
        assert!(!at.0.cutter.is_cut(), "another one goes on");
        at.0.cut(number + 1);
        assert!(at.0.cutter.is_cut());
        at.begin();
        assert!(!at.0.cutter.is_cut(), "the next one may connect");
    }

    #[test]
    fn without_an_answer_nothing_is_asked() {
        let at = interrupts();
        assert!(matches!(at.0.ask(), Asked::Nothing));
        at.begin();
        assert!(!at.is_stopped());
    }
}
