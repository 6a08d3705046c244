//! The gateway's page: three files of its own and nothing from elsewhere.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

/// Scripts, styles and connections of this origin only; no frame may hold the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn index() -> Response {
    answer("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(super) async fn style() -> Response {
    answer("text/css; charset=utf-8", include_str!("page/style.css"))
}

pub(super) async fn script() -> Response {
    answer(
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
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
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_keeps_nothing() {
        for text in [
            include_str!("page/index.html"),
            include_str!("page/style.css"),
            include_str!("page/page.js"),
        ] {
            for foreign in [
                "http://",
                "https://",
                "//cdn",
                "@import",
                "localStorage",
                "sessionStorage",
                "innerHTML",
            ] {
                assert!(!text.contains(foreign), "{foreign}");
            }
        }
        let policy = HeaderValue::from_static(POLICY);
        assert!(!policy.to_str().unwrap().contains("unsafe"));
    }
}
