//! The gateway's page: a few files of its own and nothing from elsewhere.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// Scripts, styles, images and connections of this origin only; no frame may hold the page, and no
/// text becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// Where each file is, its kind, and its text.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/style.css", STYLE, include_str!("page/style.css")),
    ("/markdown.js", SCRIPT, include_str!("page/markdown.js")),
    ("/panel.js", SCRIPT, include_str!("page/panel.js")),
    ("/progress.js", SCRIPT, include_str!("page/progress.js")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/icon.svg", ICON, include_str!("page/icon.svg")),
];

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, body)| {
            router.route(path, get(move || async move { answer(kind, body) }))
        })
}

fn answer(kind: &'static str, body: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let mut response = body.into_response();
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_keeps_nothing() {
        // A name, which nothing is loaded from.
        const NAMESPACE: &str = "http://www.w3.org/2000/svg";
        for (path, _, text) in FILES {
            let text = text.replace(NAMESPACE, "");
            for foreign in [
                "http://",
                "https://",
                "//cdn",
                "@import",
                "localStorage",
                "sessionStorage",
                "indexedDB",
                "cookie",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=",
                "onclick=",
            ] {
                assert!(!text.contains(foreign), "{foreign} in {path}");
            }
        }
        let policy = HeaderValue::from_static(POLICY);
        assert!(!policy.to_str().unwrap().contains("unsafe"));
    }

    #[test]
    fn the_page_names_no_file_that_is_not_served() {
        let page = FILES[0].2;
        let named: BTreeSet<_> = page
            .split('"')
            .filter(|text| text.starts_with('/'))
            .collect();
        let served: BTreeSet<_> = FILES[1..].iter().map(|(path, ..)| *path).collect();
        assert_eq!(named, served);
    }
}
