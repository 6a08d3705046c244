//! Prompts of a client: token ids of conversations and texts, and how many tokens fit.

use marill_model::{Message, plain_chat, render_chat};
use marill_mpc::Sampling;

use crate::{
    client::Client,
    error::{ClientError, ServingError, SessionError},
};

/// A rendered conversation up to the end of its last turn's text, as transformers'
/// `continue_final_message` has it: what a template puts behind that is left out, and the text as
/// well where the template trims it. `None`: it is not found.
fn open_end(mut rendered: String, messages: &[Message]) -> Option<String> {
    let last = messages.last()?.content.as_str();
    let kept = if rendered.contains(last) {
        last
    } else {
        last.trim()
    };
    let end = rendered.rfind(kept)? + kept.len();
    rendered.truncate(end);
    Some(rendered)
}

impl Client {
    /// Token ids of a conversation, ready to be answered; a model without a template gets the
    /// contents line by line.
    ///
    /// # Errors
    /// [`ServingError::Model`] from the template or the tokenizer.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ServingError> {
        match &self.chat_template {
            // A template writes the token that begins a text itself.
            Some(template) => Ok(self
                .tokenizer
                .encode(&render_chat(template, messages, true)?)?),
            None => self.plain_prompt(&plain_chat(
                messages.iter().map(|message| message.content.as_str()),
            )),
        }
    }

    /// Token ids of a conversation whose last turn is the beginning of the answer: what follows
    /// continues it.
    ///
    /// # Errors
    /// As [`Self::chat_prompt`].
    pub fn continued_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ServingError> {
        // Nothing of it is there yet.
        if let [before @ .., last] = messages
            && last.content.trim().is_empty()
        {
            return self.chat_prompt(before);
        }
        match &self.chat_template {
            Some(template) => {
                let text = open_end(render_chat(template, messages, false)?, messages);
                Ok(self
                    .tokenizer
                    .encode(&text.ok_or(ClientError::NoContinuation)?)?)
            }
            None => {
                let text = plain_chat(messages.iter().map(|message| message.content.as_str()));
                self.plain_prompt(text.strip_suffix('\n').unwrap_or(&text))
            }
        }
    }

    /// Token ids of a text as it stands, behind the token that begins a text where the model has
    /// one.
    ///
    /// # Errors
    /// [`ServingError::Model`] from the tokenizer.
    pub fn plain_prompt(&self, text: &str) -> Result<Vec<u32>, ServingError> {
        Ok(self.tokenizer.encode_plain(text)?)
    }

    /// Token ids of a text, behind the token that begins a text where `begins` and the model has
    /// one.
    ///
    /// # Errors
    /// As [`Self::plain_prompt`].
    pub fn text_tokens(&self, text: &str, begins: bool) -> Result<Vec<u32>, ServingError> {
        match begins {
            true => self.plain_prompt(text),
            false => Ok(self.tokenizer.encode(text)?),
        }
    }

    /// The text of token ids, special tokens included.
    ///
    /// # Errors
    /// As [`Self::plain_prompt`].
    pub fn text_of(&self, tokens: &[u32]) -> Result<String, ServingError> {
        Ok(self.tokenizer.decode(tokens)?)
    }

    /// Checks that a prompt leaves room for an answer; returns the most tokens that the answer can
    /// have.
    ///
    /// # Errors
    /// [`ClientError::PromptEmpty`], [`ClientError::PromptTooLong`].
    pub fn room(&self, prompt_tokens: usize) -> Result<usize, ClientError> {
        if prompt_tokens == 0 {
            return Err(ClientError::PromptEmpty);
        }
        let bucket = self.spec.bucket(prompt_tokens);
        if bucket > self.spec.max_positions {
            let limit = (1..=self.spec.max_positions)
                .rev()
                .find(|&n| self.spec.bucket(n) <= self.spec.max_positions);
            return Err(ClientError::PromptTooLong {
                tokens: prompt_tokens,
                limit: limit.unwrap_or(0),
            });
        }
        // The prefill itself yields one token without a position of its own.
        Ok(self.spec.max_positions - bucket + 1)
    }

    /// Checks that the server samples tokens where this is asked for.
    ///
    /// # Errors
    /// [`SessionError::GreedyOnly`].
    pub fn check_sampling(&self, sampling: Option<Sampling>) -> Result<(), SessionError> {
        if sampling.is_some() && !self.sampling {
            Err(SessionError::GreedyOnly)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_goes_on_ends_with_its_own_words() {
        let turns = |last: &str| {
            let turn = |role: &str, content: &str| Message {
                role: role.into(),
                content: content.into(),
            };
            [turn("user", "One"), turn("assistant", last)]
        };
        let rendered = |last: &str| format!("<u>One</u><a>{last}</a>\n");
        let of = |rendered: String, last: &str| open_end(rendered, &turns(last));
        assert_eq!(
            of(rendered("The answer is "), "The answer is ").unwrap(),
            "<u>One</u><a>The answer is "
        );
        assert_eq!(
            of(rendered("The answer is"), " The answer is ").unwrap(),
            "<u>One</u><a>The answer is"
        );
        assert_eq!(
            of(rendered("One"), "One").unwrap(),
            "<u>One</u><a>One",
            "the last place, not the first"
        );
        assert_eq!(of(rendered("x"), "other"), None);
    }
}
