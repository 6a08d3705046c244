//! Questions and answers so far, and how the next answer is asked for.

use std::{fs::OpenOptions, io::Write, ops::ControlFlow, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use marill_model::Message;
use marill_serving::{
    ClientError, ServingError,
    client::{Client, Event, Request},
};
use serde_json::json;

use super::interrupts::Interrupts;
use crate::{
    commands::generate::summary,
    output::{advice::advise, failure::BadInput, terminal::show, waiting::Waiting},
};

/// A conversation with a model.
pub struct Conversation<'a> {
    client: &'a Client,
    /// How every answer is asked for, but for its prompt.
    form: Request,
    system: Option<String>,
    turns: Vec<Message>,
    quiet: bool,
}

fn message(role: &str, content: String) -> Message {
    Message {
        role: role.into(),
        content,
    }
}

/// What is waited for in a phase of an answer to a prompt of so many tokens.
fn waited_for(phase: &str, tokens: usize) -> String {
    match phase {
        "session" => format!("computing the public layers of {tokens} tokens, opening a session"),
        _ => format!("computing the private layers of {tokens} tokens"),
    }
}

impl<'a> Conversation<'a> {
    pub fn new(client: &'a Client, form: Request, system: Option<String>, quiet: bool) -> Self {
        Self {
            client,
            form,
            system,
            turns: Vec::new(),
            quiet,
        }
    }

    /// Instructions and turns, in order.
    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter();
        let system = system.map(|text| message("system", text.clone()));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// Forgets all turns; the instructions stay.
    pub fn reset(&mut self) {
        self.turns.clear();
        self.client.end_kept();
    }

    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Other instructions: sessions that know the former ones are of no use any more.
    pub fn instruct(&mut self, text: String) {
        self.system = Some(text);
        self.client.end_kept();
    }

    /// Writes what was said, as a row of the recipe format `chat`, for this user alone.
    ///
    /// # Errors
    /// Nothing was said, or a file that exists or cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut turns: Vec<_> = Vec::new();
        for Message { role, content } in self.messages() {
            turns.push(json!({ "role": role, "content": content }));
        }
        anyhow::ensure!(!self.turns.is_empty(), "nothing was said yet");
        let name = path.display();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let mut file = file.with_context(|| {
            let hint = match path.exists() {
                true => "\nhint: name a new file; nothing is overwritten",
                false => "",
            };
            format!("cannot write `{name}`{hint}")
        })?;
        let line = json!({ "messages": turns }).to_string() + "\n";
        file.write_all(line.as_bytes())
            .with_context(|| format!("cannot write `{name}`"))
    }

    /// Asks, shows the answer, and remembers both. Where Ctrl-C stops it, what was said until then
    /// is remembered; a question without an answer is not.
    ///
    /// # Errors
    /// Why there is no answer; the conversation can go on.
    pub fn ask(&mut self, question: String, interrupts: Option<&Interrupts>) -> anyhow::Result<()> {
        self.turns.push(message("user", question));
        match self.answer(interrupts) {
            Ok(Some(text)) => {
                self.turns.push(message("assistant", text));
                Ok(())
            }
            unanswered => {
                self.turns.pop();
                unanswered.map(|_| ())
            }
        }
    }

    /// What was said; none where the answer was stopped before its first word.
    fn answer(&self, interrupts: Option<&Interrupts>) -> anyhow::Result<Option<String>> {
        let request = Request {
            prompt: self.client.chat_prompt(&self.messages()).map_err(advise)?,
            ..self.form.clone()
        };
        let tokens = request.prompt.len();
        let mut waiting = Waiting::new(self.quiet);
        let mut text = String::new();
        interrupts.inspect(|at| at.begin());
        let result = self.client.generate(&request, &mut |event| {
            match event {
                Event::Phase(phase @ ("session" | "prefill")) => {
                    waiting.show(&waited_for(phase, tokens));
                }
                Event::Step(_) => {}
                // The prompt is behind us.
                Event::Phase(_) => {
                    waiting.hide();
                    interrupts.inspect(|at| at.tokens_come());
                }
                Event::Text(piece) => {
                    waiting.hide();
                    show(&piece);
                    text.push_str(&piece);
                    interrupts.inspect(|at| at.tokens_come());
                }
            }
            match interrupts.is_some_and(Interrupts::is_stopped) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        waiting.hide();
        let is_stopped = interrupts.is_some_and(Interrupts::end);
        let is_cut = is_stopped && self.client.cutter().is_cut();
        match result {
            Ok(answer) if !is_stopped => {
                println!();
                self.tell(&summary(&answer));
                Ok(Some(answer.text))
            }
            Err(error) if !is_cut => {
                end_line(&text);
                Err(explain(error))
            }
            // Whoever asks for no costs still hears what became of the question.
            _ if text.is_empty() => {
                eprintln!("(stopped before its first word; the question is taken back)");
                Ok(None)
            }
            stopped => {
                println!();
                match stopped {
                    Ok(answer) => self.tell(&format!("stopped; {}", summary(&answer))),
                    Err(_) => self.tell("stopped; the next question has a session of its own"),
                }
                Ok(Some(text))
            }
        }
    }

    fn tell(&self, what: &str) {
        if !self.quiet {
            eprintln!("({what})");
        }
    }
}

/// Ends the line of an answer that broke off.
fn end_line(text: &str) {
    if !text.is_empty() {
        println!();
    }
}

fn explain(error: ServingError) -> anyhow::Error {
    match error {
        // The conversation has outgrown the context; the next question can start over.
        ServingError::Client(ClientError::PromptTooLong { .. }) => {
            BadInput(anyhow::anyhow!("{error}\nhint: `/reset` starts over")).into()
        }
        error => advise(error),
    }
}
