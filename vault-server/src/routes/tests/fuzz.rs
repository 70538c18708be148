//! Requests under fire: whatever is sent is answered, and never with an error of the server's.

use std::time::Duration;

use super::*;
use crate::fuzz::{Dice, cases, corpus, mutant};

/// Mutants, short.
const CASES: u64 = 1500;
const LIMIT: Duration = Duration::from_secs(60);

/// A request as the corpus has it: a line with method and path, headers, an empty line, the body.
fn parts(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = bytes.windows(2).position(|two| two == b"\n\n")?;
    Some((bytes[..at].to_vec(), bytes[at + 2..].to_vec()))
}

/// None if no client could send it.
fn request(head: &[u8], body: Vec<u8>, token: &str) -> Option<Request<Body>> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.next()?;
    let at = line.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::builder().method(&line[..at]).uri(line[at + 1..].to_vec());
    for header in lines {
        let at = header.windows(2).position(|two| two == b": ")?;
        request = request.header(&header[..at], &header[at + 2..]);
    }
    if request.headers_ref()?.get("content-type").is_none() && !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    request.header("authorization", format!("Bearer {token}")).body(Body::from(body)).ok()
}

/// What is wrong with an answer.
fn fault(answer: &Answer) -> Option<String> {
    let full_or_busy = matches!(answer.status, 503 | 507) && answer.json()["code"] != "internal";
    if answer.status >= 500 && !full_or_busy {
        return Some(format!("{}: {}", answer.status, answer.text));
    }
    let told = answer.status < 400 || (answer.json()["status"] == answer.status && answer.json()["code"].is_string());
    (!told).then(|| format!("{} without a problem document: {}", answer.status, answer.text))
}

#[tokio::test]
async fn any_request_is_answered_and_none_breaks_the_server() {
    let site = Site::new().await;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await;
    let (corpus, mut dice) = (corpus("http"), Dice::of_run());
    let (heads, bodies): (Vec<_>, Vec<_>) = corpus.iter().map(|bytes| parts(bytes).unwrap()).unzip();
    assert!(corpus.len() > 40 && heads.iter().all(|head| request(head, Vec::new(), &site.token).is_some()));
    let (mut sent, mut taken) = (0, 0);
    for case in 0..cases(CASES) {
        let at = usize::try_from(case).unwrap();
        // First as they are; then more often another body than another path, of which no client could send most.
        let (head, body) = match (heads.get(at), dice.roll(3)) {
            (Some(head), _) => (head.clone(), bodies[at].clone()),
            (None, 0) => (mutant(&heads, &mut dice), bodies[dice.roll(bodies.len())].clone()),
            (None, _) => {
                let at = dice.roll(heads.len());
                let body = [bodies[at].clone(), bodies[dice.roll(bodies.len())].clone()];
                (heads[at].clone(), mutant(&body, &mut dice))
            }
        };
        let Some(request) = request(&head, body.clone(), &site.token) else { continue };
        let answer = tokio::time::timeout(LIMIT, site.bytes(request)).await.expect("it is not answered");
        let shown = String::from_utf8_lossy(&[&head[..], b"\n\n", &body].concat()).into_owned();
        assert_eq!(fault(&answer), None, "keep it in the corpus: {shown}");
        sent += 1;
        taken += usize::from(answer.status < 300);
        if site.vault.status().state == vault_core::vault::State::Locked {
            let source = Source::KeyFile(site.dir.path().join("unlock.key"));
            site.vault.unlock(source.read().unwrap()).await.unwrap();
        }
    }
    eprintln!("{sent} requests, {taken} of them done");
    assert!(taken > 50, "the requests never come past the first check");
    let read = site.get("/v1/subjects/jane").await;
    assert!([200, 410].contains(&read.status), "it goes on serving: {}", read.text);
}

#[test]
fn an_error_of_the_server_is_seen() {
    let answer = |status, text: &str| Answer { status, headers: HeaderMap::new(), text: text.to_owned() };
    assert!(fault(&answer(500, r#"{"status":500,"code":"internal"}"#)).is_some());
    assert!(fault(&answer(503, r#"{"status":503,"code":"internal"}"#)).is_some());
    assert!(fault(&answer(400, "nothing to read")).is_some());
    assert_eq!(fault(&answer(404, r#"{"status":404,"code":"not_found"}"#)), None);
}

impl Site {
    /// As [`Site::send`], of an answer that may be no text.
    async fn bytes(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }
}
