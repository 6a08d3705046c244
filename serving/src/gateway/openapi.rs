//! `/openapi.json`: the gateway's own interface in the form that other programs read.
//!
//! A request that is parsed by hand has a description by hand; tests hold that both know the same
//! fields, and that answers have the form that is described.

mod schemas;

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{
    ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
    path::{OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    schema::{Components, Type},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use self::schemas::{all, one};

/// What a client can do: the method and the path, a name, what it is for, and the schemas of what
/// is sent and answered.
struct Operation {
    method: HttpMethod,
    path: &'static str,
    name: &'static str,
    about: &'static str,
    request: Option<&'static str>,
    answer: &'static str,
    /// Whether it is answered in server-sent events where the request asks for it.
    streams: bool,
}

/// With an answer of this schema.
const fn get(
    path: &'static str,
    name: &'static str,
    answer: &'static str,
    about: &'static str,
) -> Operation {
    Operation {
        method: HttpMethod::Get,
        path,
        name,
        about,
        request: None,
        answer,
        streams: false,
    }
}

/// With a request and an answer of these schemas.
const fn post(
    path: &'static str,
    name: &'static str,
    (request, answer): (&'static str, &'static str),
    about: &'static str,
) -> Operation {
    Operation {
        method: HttpMethod::Post,
        path,
        name,
        about,
        request: Some(request),
        answer,
        streams: false,
    }
}

const fn streaming(operation: Operation) -> Operation {
    Operation {
        streams: true,
        ..operation
    }
}

const OPERATIONS: [Operation; 9] = [
    get(
        "/health",
        "health",
        "Health",
        "What this gateway is and whom it asks.",
    ),
    get("/ready", "ready", "", "Whether an answer could start now."),
    get("/v1/models", "listModels", "Models", "The one model."),
    get(
        "/v1/models/{id}",
        "retrieveModel",
        "Model",
        "The one model, by its name.",
    ),
    streaming(post(
        "/v1/chat/completions",
        "createChatCompletion",
        ("ChatRequest", "ChatCompletion"),
        "Answer a conversation.",
    )),
    streaming(post(
        "/v1/completions",
        "createCompletion",
        ("CompletionRequest", "Completion"),
        "Go on behind a text or token ids.",
    )),
    streaming(post(
        "/v1/responses",
        "createResponse",
        ("ResponseRequest", "Response"),
        "Answer a text or a conversation. Nothing is kept.",
    )),
    post(
        "/tokenize",
        "tokenize",
        ("TokenizeRequest", "Tokens"),
        "Token ids of a text or a conversation, made on this machine.",
    ),
    post(
        "/detokenize",
        "detokenize",
        ("DetokenizeRequest", "Text"),
        "The text of token ids, made on this machine.",
    ),
];

/// The whole document.
fn document() -> OpenApi {
    let paths = OPERATIONS
        .iter()
        .fold(PathsBuilder::new(), |paths, operation| {
            let method = operation.method.clone();
            paths.path(operation.path, PathItem::new(method, described(operation)))
        });
    let about = "OpenAI's interface on the user's own machine, in front of private sessions. Every \
        field of a request is done, changes nothing, or is refused by its name.";
    let license = LicenseBuilder::new().name("Apache-2.0");
    let info = InfoBuilder::new()
        .title("Marill gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about))
        .license(Some(license.build()));
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("Where the gateway is started with `--keys`."));
    let mut components = Components::new();
    components.schemas.extend(all());
    components.add_security_scheme("key", SecurityScheme::Http(bearer.build()));
    let no_key = SecurityRequirement::default();
    let key = SecurityRequirement::new("key", [""; 0]);
    OpenApiBuilder::new()
        .info(info.build())
        .paths(paths.build())
        .components(Some(components))
        .security(Some([no_key, key]))
        .build()
}

fn schema(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn described(operation: &Operation) -> OperationBuilder {
    let json = |name: &str| ContentBuilder::new().schema(Some(schema(name))).build();
    let plain = || {
        ContentBuilder::new()
            .schema(Some(one(Type::String)))
            .build()
    };
    let answer = match operation.answer {
        "" => ResponseBuilder::new().content("text/plain", plain()),
        name => ResponseBuilder::new().content("application/json", json(name)),
    };
    let answer = match operation.streams {
        true => answer.content("text/event-stream", plain()),
        false => answer,
    };
    let failed = ResponseBuilder::new()
        .description("What is wrong, and with which field.")
        .content("application/json", json("Error"));
    let id = ParameterBuilder::new()
        .name("x-request-id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "A name for the request in all services' logs: 1 to 128 letters, digits and `-_.:`. \
             The answer has it, or a fresh one, in a header of this name.",
        ))
        .schema(Some(one(Type::String)));
    let described = OperationBuilder::new()
        .operation_id(Some(operation.name))
        .summary(Some(operation.about))
        .parameter(id)
        .response("200", answer.description("OK"))
        .response("default", failed);
    let described = match operation.path.contains("{id}") {
        false => described,
        true => described.parameter(
            ParameterBuilder::new()
                .name("id")
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(one(Type::String))),
        ),
    };
    let body = operation.request.map(|name| {
        RequestBodyBuilder::new()
            .content("application/json", json(name))
            .required(Some(Required::True))
            .build()
    });
    described.request_body(body)
}

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| document().to_json().expect("its keys are texts"));

/// The document.
pub(super) async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, DOCUMENT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::gateway::fields;

    fn parsed() -> Value {
        serde_json::from_str(&DOCUMENT).unwrap()
    }

    /// The names of a schema's properties.
    fn properties(document: &Value, schema: &str) -> BTreeSet<String> {
        let schema = &document["components"]["schemas"][schema];
        schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    #[test]
    fn requests_are_described_with_the_fields_that_are_done() {
        let document = parsed();
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let mut completions: BTreeSet<String> = properties(&document, "ChatRequest");
        completions.extend(properties(&document, "CompletionRequest"));
        assert_eq!(completions, names(&fields::DONE));
        let responses: BTreeSet<String> = properties(&document, "ResponseRequest");
        assert_eq!(responses, names(fields::responses::done()));
    }

    /// Every name that is referred to is there, and nothing is described that nobody uses.
    #[test]
    fn references_lead_somewhere() {
        fn collect(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        found.insert(to.rsplit('/').next().unwrap().to_string());
                    }
                    fields.values().for_each(|value| collect(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
                _ => {}
            }
        }
        let document = parsed();
        let mut found = BTreeSet::new();
        collect(&document, &mut found);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert_eq!(found, schemas.keys().cloned().collect());
        assert_eq!(document["openapi"], "3.1.0");
    }
}
