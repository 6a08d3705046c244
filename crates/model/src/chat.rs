//! Chat templates, rendered as transformers renders them: the model must read the text it was
//! trained on.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use minijinja::{
    Environment, Error, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use serde::{Deserialize, Serialize};

use crate::{ModelError, SpecialTokens, Tokenizer};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

/// A Hugging Face chat template with the special tokens that it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Jinja, as in the checkpoint.
    pub source: String,
    tokens: BTreeMap<String, String>,
    turn_end: Option<u32>,
}

impl From<&str> for ChatTemplate {
    /// A template that writes its special tokens out.
    fn from(source: &str) -> Self {
        Self {
            source: source.into(),
            tokens: BTreeMap::new(),
            turn_end: None,
        }
    }
}

impl ChatTemplate {
    /// The template of a checkpoint with this tokenizer.
    pub fn new(source: String, tokenizer: &Tokenizer) -> Self {
        let SpecialTokens { texts, .. } = tokenizer.specials();
        let mut template = Self {
            source,
            tokens: texts.clone(),
            turn_end: None,
        };
        template.turn_end = template.find_turn_end(tokenizer);
        template
    }

    /// The token that ends an answer where the template writes it down as an earlier turn; none
    /// where it writes no token that ends a text.
    pub fn turn_end(&self) -> Option<u32> {
        self.turn_end
    }

    fn find_turn_end(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const SAID: &str = "Kingfisher";
        let turn = |role: &str, content: &str| Message {
            role: role.into(),
            content: content.into(),
        };
        let text = render_chat(
            self,
            &[turn("user", "Heron"), turn("assistant", SAID)],
            false,
        )
        .ok()?;
        let (_, behind) = text.rsplit_once(SAID)?;
        tokenizer
            .encode_continuing(behind)
            .ok()?
            .into_iter()
            .find(|&id| tokenizer.is_eos(id))
    }
}

/// What is said of a model without a chat template; [`plain_chat`] does it.
pub const NO_TEMPLATE: &str = "the model has no chat template: a conversation is its contents, one \
    a line, and nothing says who speaks";

/// What stands in for a chat template in front of an answer where a model has none: the contents,
/// line by line.
pub fn plain_chat<'a>(contents: impl IntoIterator<Item = &'a str>) -> String {
    contents
        .into_iter()
        .fold(String::new(), |text, content| text + content + "\n")
}

/// Renders a chat template as transformers does: Jinja with Python's string methods,
/// `raise_exception`, `strftime_now`, `{% generation %}` and JSON with Python's spaces.
///
/// # Errors
/// [`ModelError::Template`] with the template's own message, for example from `raise_exception`.
pub fn render_chat(
    template: &ChatTemplate,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<String, ModelError> {
    let mut env = environment();
    let fail = |e: Error| ModelError::Template(e.to_string());
    let source = without_generation_tags(&template.source);
    env.add_template("chat", &source).map_err(fail)?;
    let turns = messages
        .iter()
        .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() });
    let messages: Vec<Value> = turns.collect();
    let none = Value::from(());
    let asked =
        context! { messages, add_generation_prompt, tools => none.clone(), documents => none };
    let tokens = Value::from_pairs(
        template
            .tokens
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    env.get_template("chat")
        .and_then(|t| t.render(context! { ..asked, ..tokens }))
        .map_err(fail)
}

/// Whether a template can be read at all; whether it renders depends on the turns.
pub(crate) fn check_template(source: &str) -> Result<(), Error> {
    environment().add_template("chat", &without_generation_tags(source))
}

fn environment<'a>() -> Environment<'a> {
    let mut env = Environment::new();
    // As Hugging Face sets them.
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("plain Jinja"),
    );
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function(
        "raise_exception",
        |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", to_json);
    env
}

/// The local time, in C's format.
fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    match write!(text, "{}", chrono::Local::now().format(format)) {
        Ok(()) => Ok(text),
        Err(_) => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("`{format}` is no format of a time"),
        )),
    }
}

/// `{% generation %}` marks what an assistant said, for training elsewhere. What stands inside is
/// text as any other, so the mark becomes a condition that holds, with the same white space around
/// it.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return source.into();
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // Behind the opening: `{%}` is no tag.
        let Some(len) = rest[start + 2..].find("%}").map(|len| 2 + len) else {
            break;
        };
        let before = &rest[..start + 2];
        let tag = &rest[start + 2..start + len];
        out.push_str(before);
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => out.push_str(&tag.replace(name, "if true")),
            "endgeneration" => out.push_str(&tag.replace(name, "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + len..];
    }
    (out + rest).into()
}

/// Python's `json.dumps`: spaces behind commas and colons, nothing escaped for HTML.
fn to_json(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    if ascii == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "`ensure_ascii` is not offered",
        ));
    }
    let mut text = String::new();
    dump(&value, indent, 0, &mut text)?;
    Ok(text)
}

fn dump(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    let plain = match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => None,
        ValueKind::None => Some("null".to_owned()),
        // In a template they are Python's `True` and `False`.
        ValueKind::Bool => Some(value.is_true().to_string()),
        ValueKind::Number => Some(value.to_string()),
        ValueKind::String => {
            Some(serde_json::Value::from(value.as_str().unwrap_or_default()).to_string())
        }
        _ => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "`tojson` of what is no JSON",
            ));
        }
    };
    if let Some(plain) = plain {
        *out += &plain;
        return Ok(());
    }
    let brackets = if value.kind() == ValueKind::Map {
        ("{", "}")
    } else {
        ("[", "]")
    };
    let line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            *out += "\n";
            *out += &" ".repeat(width * depth);
        }
    };
    *out += brackets.0;
    let mut any = false;
    for item in value.try_iter()? {
        match (any, indent) {
            (false, _) => {}
            (true, None) => *out += ", ",
            (true, Some(_)) => *out += ",",
        }
        any = true;
        line(out, depth + 1);
        if value.kind() == ValueKind::Map {
            *out += &serde_json::Value::from(item.to_string()).to_string();
            *out += ": ";
            dump(&value.get_item(&item)?, indent, depth + 1, out)?;
        } else {
            dump(&item, indent, depth + 1, out)?;
        }
    }
    if any {
        line(out, depth);
    }
    *out += brackets.1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'].strip() + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt \
        %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn user(content: &str) -> [Message; 1] {
        [Message {
            role: "user".into(),
            content: content.into(),
        }]
    }

    #[test]
    fn chatml_renders_turns_and_the_generation_prompt() {
        let text = render_chat(&CHATML.into(), &user(" hi "), true).unwrap();
        assert_eq!(
            text,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_template_may_refuse_with_its_own_words() {
        let error = render_chat(
            &"{{ raise_exception('roles must alternate') }}".into(),
            &[],
            false,
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn a_template_knows_the_day() {
        let said = render_chat(&"{{ strftime_now('%Y-%m-%d') }}".into(), &[], false).unwrap();
        let days = [
            chrono::Local::now(),
            chrono::Local::now() - chrono::Duration::seconds(5),
        ];
        assert!(
            days.iter()
                .any(|day| day.format("%Y-%m-%d").to_string() == said),
            "{said}"
        );
        let said = render_chat(&"{{ strftime_now('%d %b %Y') }}".into(), &[], false).unwrap();
        assert_eq!(said.split(' ').map(str::len).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(render_chat(&"{{ strftime_now('%') }}".into(), &[], false).is_err());
    }

    #[test]
    fn generation_marks_are_no_text() {
        let template = "{% for m in messages %}\n  {%- generation %}\n{{ m.content }}\n  {%- \
            endgeneration -%}\n x\n{% endfor %}{{ 'generation' }}";
        assert_eq!(
            render_chat(&template.into(), &user("hi"), false).unwrap(),
            "hix\ngeneration"
        );
        assert_eq!(
            without_generation_tags("{% if generation %}"),
            "{% if generation %}"
        );
        let no_tag = "{%}{% generation %}";
        assert_eq!(without_generation_tags(no_tag), no_tag);
    }

    #[test]
    fn what_is_not_given_is_none_and_json_is_pythons() {
        let template = "{{ tools is none }} {{ documents is none }} {{ bos_token is defined }} {{ \
            messages[0]|tojson }}";
        let text = render_chat(&template.into(), &user("a <b> & 'c' ü"), false).unwrap();
        assert_eq!(
            text,
            "True True False {\"role\": \"user\", \"content\": \"a <b> & 'c' ü\"}"
        );
        let template = "{{ {'a': [1, true], 'b': {}}|tojson(indent=2) }}";
        let text = render_chat(&template.into(), &[], false).unwrap();
        assert_eq!(
            text,
            "{\n  \"a\": [\n    1,\n    true\n  ],\n  \"b\": {}\n}"
        );
    }

    #[test]
    fn without_a_template_every_content_is_a_line() {
        assert_eq!(plain_chat(["a", "b"]), "a\nb\n");
    }
}
