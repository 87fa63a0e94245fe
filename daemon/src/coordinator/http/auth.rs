//! Tokens: one for people, one for workers, made at the first start and readable by the owner only.

use super::Shared;
use super::problem::Refusal;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use ptv2_common::error::Explained;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use subtle::ConstantTimeEq;

/// The coordinator's tokens. Never logged.
pub struct Tokens {
    user: String,
    worker: String,
}

impl Tokens {
    /// Reads `token` and `worker-token` of a state folder, making those that are missing.
    ///
    /// # Errors
    /// When a file cannot be read or made.
    pub fn open(state: &Path) -> Result<Self, Explained> {
        Ok(Self { user: token(&state.join("token"))?, worker: token(&state.join("worker-token"))? })
    }
}

fn token(path: &Path) -> Result<String, Explained> {
    let at = |error: &dyn std::error::Error| {
        Explained::from_error(error)
            .at(path.display().to_string())
            .hint("see that the state folder is this user's own")
    };
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= 32 => return Ok(text.trim().to_owned()),
        Ok(_) => {
            return Err(Explained::new("the token is shorter than 32 characters")
                .at(path.display().to_string())
                .hint("remove the file; a new token is made at the next start"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&error)),
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| at(&error))?;
    let token = hex::encode(random);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(format!("{token}\n").as_bytes()))
        .map_err(|error| at(&error))?;
    Ok(token)
}

pub(super) async fn user(
    State(edge): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    check(&edge.tokens.user, &request)?;
    Ok(next.run(request).await)
}

pub(super) async fn worker(
    State(edge): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    check(&edge.tokens.worker, &request)?;
    Ok(next.run(request).await)
}

fn check(token: &str, request: &Request) -> Result<(), Refusal> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().trim();
    // Constant in time for tokens of the right length, and the length is no secret.
    if bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
        return Ok(());
    }
    Err(Refusal::no_token())
}
