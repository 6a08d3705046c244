//! Lines of a conversation: edited, with those before, on a terminal; as they come otherwise.

use std::io::{BufRead, IsTerminal, Lines, StdinLock};

use anyhow::Context;
use rustyline::{
    Behavior, Config, Editor,
    error::{ReadlineError, Signal},
    history::MemHistory,
};

/// Questions that arrow up and down go through. They are private, so they stay in memory.
const HISTORY: usize = 500;
const PROMPT: &str = "> ";

/// Where lines come from.
pub enum Input {
    Terminal(Box<Editor<(), MemHistory>>),
    Plain(Lines<StdinLock<'static>>),
}

/// What came.
pub enum Line {
    Text(String),
    /// Ctrl-C at the prompt: the line is gone.
    Cleared,
    /// Ctrl-D, or the end of a file or pipe.
    End,
}

impl Input {
    /// # Errors
    /// A terminal that cannot be read.
    pub fn open() -> anyhow::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Plain(std::io::stdin().lock().lines()));
        }
        let open = || {
            let config = Config::builder()
                // Standard output is for answers, where it is not this terminal.
                .behavior(match std::io::stdout().is_terminal() {
                    true => Behavior::Stdio,
                    false => Behavior::PreferTerm,
                })
                .max_history_size(HISTORY)?
                .auto_add_history(true)
                .build();
            let history = MemHistory::with_config(&config);
            Editor::with_history(config, history)
        };
        let editor = open().context("cannot read from the terminal")?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// # Errors
    /// Input that fails, or is no UTF-8.
    pub fn next(&mut self) -> anyhow::Result<Line> {
        match self {
            Self::Terminal(editor) => match editor.readline(PROMPT) {
                Ok(line) => Ok(Line::Text(line)),
                // The key, or the signal itself.
                Err(ReadlineError::Interrupted | ReadlineError::Signal(Signal::Interrupt)) => {
                    Ok(Line::Cleared)
                }
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Plain(lines) => {
                eprint!("{PROMPT}");
                match lines.next().transpose() {
                    Ok(line) => Ok(line.map_or(Line::End, Line::Text)),
                    Err(error) => Err(error).context("cannot read from standard input"),
                }
            }
        }
    }
}
