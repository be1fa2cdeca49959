//! One request and its answer, through `wasi:http`.

use crate::url::Url;

/// What is asked.
#[derive(Debug)]
#[cfg_attr(
    not(target_arch = "wasm32"),
    expect(dead_code, reason = "nobody is asked outside of a worker")
)]
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a Url,
    pub(crate) headers: &'a [(String, Vec<u8>)],
    pub(crate) body: &'a [u8],
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer, in the words of `wasi:http`.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The worker does not allow it.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        expect(dead_code, reason = "nobody denies outside of a worker")
    )]
    Denied(String),
    /// Anything else.
    Other(String),
}

/// Outside of a worker there is no network.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn ask(_: &Question<'_>) -> Result<Answer, Failed> {
    Err(Failed::Other("requests are sent from inside a worker only".to_owned()))
}

#[cfg(target_arch = "wasm32")]
pub(crate) use self::wasm::ask;

#[cfg(target_arch = "wasm32")]
mod wasm {
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{
        ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
    };
    use wasip2::io::streams::StreamError;

    use super::{Answer, Failed, Question};

    impl From<ErrorCode> for Failed {
        fn from(code: ErrorCode) -> Self {
            let told = format!("{code:?}");
            match code {
                ErrorCode::HttpRequestDenied
                | ErrorCode::HttpRequestUriInvalid
                | ErrorCode::HttpRequestMethodInvalid
                | ErrorCode::DestinationIpProhibited
                | ErrorCode::ConnectionLimitReached
                | ErrorCode::HttpRequestBodySize(_)
                | ErrorCode::HttpResponseBodySize(_) => Self::Denied(told),
                _ => Self::Other(told),
            }
        }
    }

    fn other(what: &str) -> impl FnOnce(()) -> Failed {
        let what = what.to_owned();
        move |()| Failed::Other(what)
    }

    pub(crate) fn ask(question: &Question<'_>) -> Result<Answer, Failed> {
        let headers = Fields::from_list(question.headers)
            .map_err(|error| Failed::Denied(format!("{error:?}")))?;
        let request = OutgoingRequest::new(headers);
        let method = match question.method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "CONNECT" => Method::Connect,
            other => Method::Other(other.to_owned()),
        };
        let scheme = if question.url.tls { Scheme::Https } else { Scheme::Http };
        request.set_method(&method).map_err(other("the method is not one"))?;
        request.set_scheme(Some(&scheme)).map_err(other("the scheme is not one"))?;
        let denied = |what: &'static str| move |()| Failed::Denied(what.to_owned());
        request
            .set_authority(Some(&question.url.authority))
            .map_err(denied("the host is not one"))?;
        request
            .set_path_with_query(Some(&question.url.path))
            .map_err(denied("the path is not one"))?;
        let body = request.body().map_err(other("the request has no body"))?;
        let pending = outgoing_handler::handle(request, None)?;
        let sent = send(body, question.body);
        pending.subscribe().block();
        let response = pending
            .get()
            .ok_or(())
            .and_then(|answer| answer)
            .map_err(other("there is no answer"))??;
        sent?;
        read(&response)
    }

    fn send(body: OutgoingBody, mut bytes: &[u8]) -> Result<(), Failed> {
        let stream = body.write().map_err(other("the body cannot be written"))?;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(4096));
            if stream.blocking_write_and_flush(piece).is_err() {
                // The answer, or its error, says why.
                return Ok(());
            }
            bytes = rest;
        }
        drop(stream);
        Ok(OutgoingBody::finish(body, None)?)
    }

    fn read(response: &IncomingResponse) -> Result<Answer, Failed> {
        let location = response.headers().get("location").first().cloned();
        let location = location.map(|value| String::from_utf8_lossy(&value).into_owned());
        let incoming = response.consume().map_err(other("the answer has no body"))?;
        let stream = incoming.stream().map_err(other("the body cannot be read"))?;
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(64 << 10) {
                Ok(bytes) => body.extend(bytes),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => {
                    let code = wasip2::http::types::http_error_code(&error);
                    return Err(
                        code.map_or_else(|| Failed::Other(error.to_debug_string()), Into::into)
                    );
                }
            }
        }
        Ok(Answer { status: response.status(), location, body })
    }
}
