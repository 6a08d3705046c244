//! One thing that was looked at: how it is, what was found, and what to do about it.

use serde::Serialize;

use crate::output::failure::split_hints;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// It works, or may, and not well.
    Warning,
    Failed,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub state: State,
    pub found: String,
    /// What to do, where something is not well.
    pub advice: Option<String>,
}

impl Check {
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Ok,
            found: found.into(),
            advice: None,
        }
    }

    pub fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Warning,
            advice: Some(advice.into()),
            ..Self::ok(name, found)
        }
    }

    pub fn failed(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Failed,
            ..Self::warning(name, found, advice)
        }
    }

    /// For an error: its own hints come before `advice`.
    pub fn error(name: impl Into<String>, error: &dyn std::error::Error, advice: &str) -> Self {
        let (found, mut hints) = split_hints(&error.to_string());
        if hints.is_empty() {
            hints.push(advice.into());
        }
        Self::failed(name, found, hints.join("; "))
    }

    /// Two lines at most, the name in so many columns.
    pub fn text(&self, width: usize) -> String {
        let (state, name, found) = (self.state.word(), &self.name, &self.found);
        let line = format!("{state:<8} {name:<width$}  {found}");
        match &self.advice {
            None => line,
            Some(advice) => format!("{line}\n{:9}hint: {advice}", ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_of_an_error_become_advice() {
        let error = std::io::Error::other("no\nhint: try again");
        let check = Check::error("disk", &error, "buy one");
        assert_eq!(
            (check.found.as_str(), check.advice.as_deref()),
            ("no", Some("try again"))
        );
        let check = Check::error("disk", &std::io::Error::other("no"), "buy one");
        assert_eq!(check.advice.as_deref(), Some("buy one"));
        assert_eq!(check.text(6), "failed   disk    no\n         hint: buy one");
    }
}
