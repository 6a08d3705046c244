//! The forms of what a gateway takes and answers.

use serde_json::json;
use utoipa::openapi::{
    Array, Ref, RefOr, Schema,
    schema::{AnyOfBuilder, ObjectBuilder, SchemaType, Type},
};

type Form = RefOr<Schema>;

/// A value of this type.
pub(super) fn one(kind: Type) -> Form {
    ObjectBuilder::new().schema_type(kind).into()
}

fn null_or(kind: Type) -> Form {
    let kinds: SchemaType = [kind, Type::Null].into_iter().collect();
    ObjectBuilder::new().schema_type(kinds).into()
}

fn any() -> Form {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .into()
}

fn fixed(text: &str) -> Form {
    choice(&[text])
}

fn choice(texts: &[&str]) -> Form {
    let texts = texts.iter().map(|text| json!(text));
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(texts))
        .into()
}

fn list(of: Form) -> Form {
    Array::new(of).into()
}

fn named(name: &str) -> Form {
    Ref::from_schema_name(name).into()
}

fn any_of(forms: impl IntoIterator<Item = Form>) -> Form {
    let forms = forms.into_iter();
    forms.fold(AnyOfBuilder::new(), AnyOfBuilder::item).into()
}

fn about(kind: Type, text: &str) -> Form {
    ObjectBuilder::new()
        .schema_type(kind)
        .description(Some(text))
        .into()
}

fn at_least(kind: Type, least: i32) -> Form {
    ObjectBuilder::new()
        .schema_type(kind)
        .minimum(Some(least))
        .into()
}

/// An object; the names of those that are always there end in `!`.
fn object(fields: impl IntoIterator<Item = (&'static str, Form)>) -> ObjectBuilder {
    fields
        .into_iter()
        .fold(ObjectBuilder::new(), |object, (name, form)| {
            match name.strip_suffix('!') {
                Some(name) => object.property(name, form).required(name),
                None => object.property(name, form),
            }
        })
}

/// All schemas by name.
pub(super) fn all() -> Vec<(String, Form)> {
    let mut all = requests();
    all.extend(answers());
    all.extend(responses());
    let named = all.into_iter();
    named.map(|(name, form)| (name.to_string(), form)).collect()
}

/// What every request of an answer may say.
fn common() -> Vec<(&'static str, Form)> {
    let sampled = "Sample tokens, at 0 to 2; without it, and at 0, decoding is greedy.";
    let temperature = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(0))
        .maximum(Some(2))
        .description(Some(sampled));
    let stop = any_of([one(Type::String), list(one(Type::String))]);
    let changes_nothing = "Taken, and no answer can be repeated with it.";
    vec![
        (
            "model",
            about(Type::String, "The name of the one model, or none."),
        ),
        ("temperature", temperature.into()),
        (
            "top_k",
            about(Type::Integer, "The k likeliest tokens; 0 or -1 for all."),
        ),
        (
            "top_p",
            about(Type::Number, "1, or any where decoding is greedy."),
        ),
        (
            "min_p",
            about(Type::Number, "0, or any where decoding is greedy."),
        ),
        ("stop", stop),
        (
            "ignore_eos",
            about(Type::Boolean, "Go on behind an end token."),
        ),
        ("min_tokens", at_least(Type::Integer, 0)),
        ("seed", about(Type::Integer, changes_nothing)),
        ("stream", one(Type::Boolean)),
    ]
}

/// Of `/v1/chat/completions` and `/v1/completions`.
fn completions() -> Vec<(&'static str, Form)> {
    let options = object([("include_usage", one(Type::Boolean))]);
    let mut fields = common();
    fields.extend([
        ("max_tokens", at_least(Type::Integer, 1)),
        ("max_completion_tokens", at_least(Type::Integer, 1)),
        ("stream_options", options.into()),
        (
            "return_token_ids",
            about(Type::Boolean, "Tell the ids of prompt and answer."),
        ),
    ]);
    fields
}

fn requests() -> Vec<(&'static str, Form)> {
    let mut chat = completions();
    chat.extend([
        ("messages!", list(named("Message"))),
        ("add_generation_prompt", one(Type::Boolean)),
        (
            "continue_final_message",
            about(Type::Boolean, "Continue the last turn."),
        ),
    ]);
    let ids = || list(at_least(Type::Integer, 0));
    let mut completion = completions();
    let prompts = [
        one(Type::String),
        list(one(Type::String)),
        ids(),
        list(ids()),
    ];
    completion.push(("prompt!", any_of(prompts)));
    let mut response = common();
    let options = object([("include_obfuscation", one(Type::Boolean))]);
    let input = any_of([one(Type::String), list(named("Message"))]);
    response.extend([
        ("input!", input),
        ("instructions", one(Type::String)),
        ("max_output_tokens", at_least(Type::Integer, 1)),
        ("metadata", one(Type::Object)),
        ("stream_options", options.into()),
        (
            "text",
            about(Type::Object, "`{\"format\": {\"type\": \"text\"}}`."),
        ),
    ]);
    let parts = list(object([("type!", one(Type::String)), ("text!", one(Type::String))]).into());
    let message = [
        (
            "role!",
            choice(&["system", "developer", "user", "assistant"]),
        ),
        ("content", any_of([one(Type::String), parts])),
    ];
    let tokenize = [
        ("model", one(Type::String)),
        ("prompt", one(Type::String)),
        ("messages", list(named("Message"))),
        (
            "add_special_tokens",
            about(Type::Boolean, "Begin a text as the model wants it."),
        ),
        ("add_generation_prompt", one(Type::Boolean)),
        ("continue_final_message", one(Type::Boolean)),
    ];
    let detokenize = [("model", one(Type::String)), ("tokens!", ids())];
    vec![
        ("ChatRequest", object(chat).into()),
        ("CompletionRequest", object(completion).into()),
        ("ResponseRequest", object(response).into()),
        ("Message", object(message).into()),
        ("TokenizeRequest", object(tokenize).into()),
        ("DetokenizeRequest", object(detokenize).into()),
    ]
}

/// An answer of a completion, with choices of this form.
fn completion(kind: &'static str, said: (&'static str, Form)) -> Form {
    let finish = choice(&["stop", "length"]);
    let choices = object([
        ("index!", one(Type::Integer)),
        ("finish_reason!", finish),
        ("logprobs!", one(Type::Null)),
        ("token_ids", list(one(Type::Integer))),
        said,
    ]);
    object([
        ("id!", one(Type::String)),
        ("object!", fixed(kind)),
        ("created!", one(Type::Integer)),
        ("model!", one(Type::String)),
        ("choices!", list(choices.into())),
        ("usage!", named("Usage")),
        ("marill!", named("Cost")),
        ("prompt_token_ids", list(one(Type::Integer))),
    ])
    .into()
}

fn answers() -> Vec<(&'static str, Form)> {
    let message = object([
        ("role!", fixed("assistant")),
        ("content!", one(Type::String)),
        ("refusal!", one(Type::Null)),
    ]);
    let cached = object([("cached_tokens!", one(Type::Integer))]);
    let usage = object([
        ("prompt_tokens!", one(Type::Integer)),
        ("completion_tokens!", one(Type::Integer)),
        ("total_tokens!", one(Type::Integer)),
        ("prompt_tokens_details!", cached.into()),
    ]);
    let model = object([
        ("id!", one(Type::String)),
        ("object!", fixed("model")),
        ("created!", one(Type::Integer)),
        ("owned_by!", one(Type::String)),
    ]);
    let models = object([("object!", fixed("list")), ("data!", list(named("Model")))]);
    let tokens = object([
        ("count!", one(Type::Integer)),
        ("max_model_len!", one(Type::Integer)),
        ("tokens!", list(one(Type::Integer))),
        ("token_strs!", one(Type::Null)),
    ]);
    let failed = object([
        ("message!", one(Type::String)),
        ("type!", one(Type::String)),
        ("param!", null_or(Type::String)),
        ("code!", null_or(Type::String)),
        ("request_id!", one(Type::String)),
    ]);
    vec![
        (
            "ChatCompletion",
            completion("chat.completion", ("message!", message.into())),
        ),
        (
            "Completion",
            completion("text_completion", ("text!", one(Type::String))),
        ),
        ("Usage", usage.into()),
        ("Cost", cost()),
        ("Model", model.into()),
        ("Models", models.into()),
        ("Health", health()),
        ("Tokens", tokens.into()),
        ("Text", object([("prompt!", one(Type::String))]).into()),
        ("Error", object([("error!", failed.into())]).into()),
    ]
}

fn cost() -> Form {
    object([
        ("correlations!", one(Type::String)),
        ("material!", null_or(Type::String)),
        ("rounds!", one(Type::Integer)),
        ("bytes_sent!", one(Type::Integer)),
        ("bytes_received!", one(Type::Integer)),
        ("prefill_seconds!", one(Type::Number)),
        ("decode_seconds!", one(Type::Number)),
        ("decode_steps!", one(Type::Integer)),
        ("offline_bytes!", null_or(Type::Integer)),
        ("offline_seconds!", null_or(Type::Number)),
    ])
    .description(Some("What an answer cost between client and server."))
    .into()
}

/// Where there are keys, all but the first four is for those who show one.
fn health() -> Form {
    object([
        ("status!", fixed("ok")),
        ("service!", fixed("gateway")),
        ("protocol!", one(Type::Integer)),
        ("time!", one(Type::Number)),
        ("model", one(Type::String)),
        ("partition_id", one(Type::String)),
        ("server", one(Type::String)),
        ("setting", one(Type::String)),
        ("e0", one(Type::String)),
        ("rounding", one(Type::String)),
        ("demonstration", one(Type::Boolean)),
        ("public_layers", one(Type::Integer)),
        ("private_layers", one(Type::Integer)),
    ])
    .into()
}

fn responses() -> Vec<(&'static str, Form)> {
    let part = object([
        ("type!", fixed("output_text")),
        ("text!", one(Type::String)),
        ("annotations!", list(any())),
        ("logprobs!", list(any())),
    ]);
    let item = object([
        ("id!", one(Type::String)),
        ("type!", fixed("message")),
        (
            "status!",
            choice(&["in_progress", "completed", "incomplete"]),
        ),
        ("role!", fixed("assistant")),
        ("content!", list(part.into())),
    ]);
    let cached = object([
        ("cached_tokens!", one(Type::Integer)),
        ("cache_write_tokens!", one(Type::Integer)),
    ]);
    let reasoned = object([("reasoning_tokens!", one(Type::Integer))]);
    let usage = object([
        ("input_tokens!", one(Type::Integer)),
        ("output_tokens!", one(Type::Integer)),
        ("total_tokens!", one(Type::Integer)),
        ("input_tokens_details!", cached.into()),
        ("output_tokens_details!", reasoned.into()),
    ]);
    let status = choice(&["in_progress", "completed", "incomplete", "failed"]);
    let response = object([
        ("id!", one(Type::String)),
        ("object!", fixed("response")),
        ("created_at!", one(Type::Integer)),
        ("status!", status),
        ("background!", one(Type::Boolean)),
        ("error!", null_or(Type::Object)),
        ("incomplete_details!", null_or(Type::Object)),
        ("instructions!", null_or(Type::String)),
        ("max_output_tokens!", null_or(Type::Integer)),
        ("metadata!", one(Type::Object)),
        ("model!", one(Type::String)),
        ("output!", list(item.into())),
        ("parallel_tool_calls!", one(Type::Boolean)),
        ("previous_response_id!", one(Type::Null)),
        ("reasoning!", one(Type::Object)),
        ("service_tier!", one(Type::String)),
        ("store!", one(Type::Boolean)),
        ("temperature!", one(Type::Number)),
        ("text!", one(Type::Object)),
        ("tool_choice!", one(Type::String)),
        ("tools!", list(any())),
        ("top_logprobs!", one(Type::Integer)),
        ("top_p!", one(Type::Number)),
        ("truncation!", one(Type::String)),
        ("usage!", any_of([named("ResponseUsage"), one(Type::Null)])),
        ("user!", null_or(Type::String)),
        ("marill", named("Cost")),
    ]);
    vec![
        ("Response", response.into()),
        ("ResponseUsage", usage.into()),
    ]
}
