//! What a request line asks, judged without a connection and without asking.
//!
//! Tests and the fuzzing room call it, on any thread: it is the part of the stats socket that reads
//! what strangers write and is not an HTTP library's.

use super::request::{Document, Question};
use super::routes::{self, Surface};
use hyper::{Method, Uri};

/// Judges a method and a target, such as `/v1/links?limit=10`, as the Unix socket does for somebody
/// who may command or may not; `None` when they are not HTTP, which the library refuses before us.
///
/// # Errors
/// The document that the client would get instead of an answer.
pub fn asked(
    method: &[u8],
    target: &[u8],
    may_command: bool,
) -> Option<Result<Question, Document>> {
    let method = Method::from_bytes(method).ok()?;
    let uri = Uri::try_from(target).ok()?;
    let query = uri.query().unwrap_or_default();
    let question = routes::question(&method, uri.path(), query, Surface::Everything, may_command);
    Some(question.map_err(|refusal| refusal.document()))
}
