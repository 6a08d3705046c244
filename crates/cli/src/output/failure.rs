//! How an error reaches the person: one message with its causes, hints last, and an exit code.

use std::process::ExitCode;

/// The input or a threshold failed.
pub const INPUT_FAILED: u8 = 1;
/// Usage, environment or an internal error.
pub const ENVIRONMENT_FAILED: u8 = 2;

/// Prints the error to standard error and says how the process should end.
pub fn report(error: &anyhow::Error) -> ExitCode {
    eprint!("{}", render(error));
    ExitCode::from(exit_code(error))
}

/// The message: causes that add something, joined by colons; every `hint:` moved to the end.
fn render(error: &anyhow::Error) -> String {
    let mut hints: Vec<String> = Vec::new();
    let mut message = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let (head, found) = split_hints(&text);
        hints.extend(
            found
                .into_iter()
                .filter(|hint| !hints.contains(hint))
                .collect::<Vec<_>>(),
        );
        if head.is_empty() || message.contains(&head) {
            continue;
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&head);
    }
    let prefix = if message.starts_with("error") {
        ""
    } else {
        "error: "
    };
    let mut text = format!("{prefix}{message}\n");
    for hint in hints {
        text.push_str(&format!("\nhint: {hint}\n"));
    }
    text
}

/// A message without its hints, and the hints.
pub fn split_hints(text: &str) -> (String, Vec<String>) {
    let mut parts = text.split("\nhint: ");
    let head = parts.next().unwrap_or_default().trim_end().to_string();
    (head, parts.map(|hint| hint.trim().to_string()).collect())
}

/// Errors about what the user handed in end with 1, all others with 2.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<BadInput>().is_some() {
        INPUT_FAILED
    } else {
        ENVIRONMENT_FAILED
    }
}

/// Marks an error as being about the user's input rather than about usage or the environment.
#[derive(Debug)]
pub struct BadInput(pub anyhow::Error);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BadInput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_are_joined_and_hints_come_last() {
        let error = Err::<(), _>(anyhow::anyhow!(
            "port 8000 is taken\nhint: choose another with `--port`"
        ))
        .context("cannot start the server")
        .unwrap_err();
        assert_eq!(
            render(&error),
            "error: cannot start the server: port 8000 is taken\n\n\
             hint: choose another with `--port`\n"
        );
        assert_eq!(exit_code(&error), ENVIRONMENT_FAILED);
    }

    #[test]
    fn bad_input_keeps_its_message_and_ends_with_one() {
        let error = anyhow::Error::new(BadInput(anyhow::anyhow!("`labels` is empty")));
        assert_eq!(render(&error), "error: `labels` is empty\n");
        assert_eq!(exit_code(&error), INPUT_FAILED);
    }
}
