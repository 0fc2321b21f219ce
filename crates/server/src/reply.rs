//! Small answers.

use alluvium_protocol::error_body;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};

/// An answer of the server.
pub(crate) type Reply = Response<Body>;

/// The version clients of InfluxDB are told.
pub(crate) const INFLUX_VERSION: HeaderValue = HeaderValue::from_static("1.8.10");

pub(crate) fn empty(status: StatusCode) -> Reply {
    with_body(status, None, Body::empty())
}

pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Reply {
    with_body(status, Some("application/json"), body.into())
}

pub(crate) fn plain(content_type: &'static str, body: impl Into<Body>) -> Reply {
    with_body(StatusCode::OK, Some(content_type), body.into())
}

/// `{"error": sentence, "code": code, "detail": {}}`; 503 carries `Retry-After`.
pub(crate) fn error(status: StatusCode, code: &str, sentence: &str) -> Reply {
    retry_later(json(status, error_body(sentence, code, &[])))
}

/// Adds `Retry-After` to a 503.
pub(crate) fn retry_later(mut reply: Reply) -> Reply {
    if reply.status() == StatusCode::SERVICE_UNAVAILABLE {
        reply
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

pub(crate) fn set(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

fn with_body(status: StatusCode, content_type: Option<&'static str>, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(
        HeaderName::from_static("x-influxdb-version"),
        INFLUX_VERSION,
    );
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    reply
}
